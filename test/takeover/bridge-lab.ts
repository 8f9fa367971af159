// A host as labs have them: two guests and a container on br0, the host's own address there, and `snapswitch switch`
// with nothing configured. The guests hand a token round.

import { spawn } from 'node:child_process'
import { SwitchClient } from '../../src/api/switch-client.js'
import { attempt, run, until } from '../lab/command.js'
import { program } from '../lab/daemon.js'
import { Lab, type LabPlan } from '../lab/lab.js'
import type { MachinePlan } from '../lab/plan.js'
import { HOP_DELAY_US } from '../lab/ring.js'
import { patience } from '../patience.js'
import { Running } from '../switch/world.js'

export const GUESTS = ['10.79.0.1', '10.79.0.2'] as const
export const CONTAINER = '10.79.0.3'
export const HOST = '10.79.0.254'
const CALL = { deadlineMs: patience(20_000) }
const ring = { ring: GUESTS, hops: 10_000_000, hopDelayUs: HOP_DELAY_US }
const plan: LabPlan = {
  network: 'br0',
  // `c` is the container: its cable is a port of br0.
  hosts: ['a', 'c'],
  trunkMtu: 1500,
  memoryMiB: 128,
  machines: GUESTS.map((ip, node) => ({ name: `vm${node + 1}`, host: 'a', job: { ...ring, ip: `${ip}/24`, node } })),
}

export class BridgeLab {
  readonly lab: Lab
  readonly #client: SwitchClient

  private constructor(lab: Lab) {
    this.lab = lab
    this.#client = new SwitchClient(lab.switchSocket('a'))
  }

  /** br0 and what is on it; neither guests nor the switch run. */
  static async build(netdev?: MachinePlan['netdev']): Promise<BridgeLab> {
    const machines = plan.machines.map((machine) => (netdev === undefined ? machine : { ...machine, netdev }))
    const one = new BridgeLab(await Lab.build({ ...plan, machines }))
    try {
      await one.ip('a', 'link', 'add', 'br0', 'type', 'bridge')
      await one.ip('a', 'address', 'add', `${HOST}/24`, 'dev', 'br0')
      await one.ip('a', 'link', 'set', 'br0', 'up')
      for (const device of ['vm1-tap', 'vm2-tap', 'to-c']) await one.ip('a', 'link', 'set', device, 'master', 'br0')
      await one.ip('c', 'address', 'add', `${CONTAINER}/24`, 'dev', 'to-a')
      return one
    } catch (thrown) {
      await one.destroy()
      throw thrown
    }
  }

  get client(): SwitchClient {
    return this.#client
  }

  async startSwitch(more: Record<string, unknown> = {}): Promise<void> {
    const inside = (name: string) => this.lab.host('a').inside(name)
    const api = { socket: inside('switch.sock') }
    await this.lab.startSwitch('a', { host: 'a', api, state: inside('state'), ...more })
  }

  ip(host: string, ...args: string[]): Promise<string> {
    return run('ip', ['-n', this.lab.namespace(host), ...args])
  }

  /** In the host's network: it must succeed. */
  in(host: string, ...command: string[]): Promise<string> {
    return run('ip', ['netns', 'exec', this.lab.namespace(host), ...command])
  }

  /** A program that goes on; it ends with the lab. */
  async start(host: string, name: string, ...args: string[]): Promise<Running> {
    const command = ['netns', 'exec', this.lab.namespace(host), name, ...args]
    const child = spawn('ip', command, { stdio: ['ignore', 'pipe', 'pipe'] })
    await new Promise<void>((resolve, reject) => child.once('spawn', resolve).once('error', reject))
    return new Running(child)
  }

  /** As a person would on the host: only the switch's socket is said, for it is no usual one. */
  command(...args: string[]) {
    const a = this.lab.host('a')
    const env = ['env', `SNAPSWITCH_SOCKET=${a.inside('switch.sock')}`]
    const [enter, ...entry] = a.enter
    return attempt(enter!, [...entry, ...env, process.execPath, program(), ...args], 120_000)
  }

  async json<T>(...args: string[]): Promise<T> {
    const { code, stdout, stderr } = await this.command(...args, '-j')
    if (code !== 0) throw new Error(`snapswitch ${args.join(' ')}: ${stderr}`)
    return JSON.parse(stdout) as T
  }

  /** Returns when the token has come to each guest again. */
  async goesOn(): Promise<void> {
    for (const { console } of this.lab.machines.values()) {
      const hop = () => console.state?.ring?.hop ?? 0
      const before = hop()
      await until('the ring', 90_000, () => hop() > before || undefined)
    }
  }

  async pings(from: string, address: string): Promise<boolean> {
    const command = ['netns', 'exec', this.lab.namespace(from), 'ping', '-c', '2', '-W', '20', address]
    return (await attempt('ip', command, 60_000)).code === 0
  }

  /** Devices in br0. */
  async onBridge(): Promise<string[]> {
    const listed = JSON.parse((await this.ip('a', '-j', 'link', 'show', 'master', 'br0')) || '[]')
    return (listed as { ifname: string }[]).map(({ ifname }) => ifname).sort()
  }

  /** Name, kind and machine. */
  async ports(): Promise<string[]> {
    return (await this.#client.ports(CALL)).map(({ name, kind, vm }) => `${name} ${kind} ${vm}`).sort()
  }

  /** Returns when both guests' ports are members, and nothing is wrong with the bridge. */
  async isWhole(): Promise<void> {
    const wanted = ['ssw-br0 host null', 'to-c plain null', 'vm1-tap member vm1', 'vm2-tap member vm2']
    await until('the ports', 60_000, async () => {
      const seen = await this.ports()
      const [bridge] = await this.#client.bridges(CALL)
      return JSON.stringify(seen) === JSON.stringify(wanted) && bridge?.problem === null ? true : undefined
    })
  }

  async destroy(): Promise<void> {
    await this.#client.close()
    await this.lab.destroy()
  }
}
