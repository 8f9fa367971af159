// A host whose bridge changes hands: br0 with an address of its own, two containers, and numbered datagrams every two
// milliseconds between them and with the host. The daemon runs as a user starts it.

import { numberedProgram } from '../../test/takeover/bridge-world.js'
import { allCores, Lab } from '../lab/lab.js'
import { commandAt, type Service } from '../lab/processes.js'
import { HostDaemon } from './daemon.js'

/** What became of the datagrams of one stream since the look before. */
export interface Seen {
  readonly lost: number
  readonly doubled: number
  /** Milliseconds. */
  readonly longestGap: number
  /** CLOCK_MONOTONIC, milliseconds, as `monotonicMs` gives it. */
  readonly gapEnd: number
}

export const monotonicMs = () => Number(process.hrtime.bigint()) / 1e6
const cores = allCores()
const ADDRESSES = { h: '192.0.2.1', one: '192.0.2.11', two: '192.0.2.12', late: '192.0.2.13' } as const
type Place = keyof typeof ADDRESSES
const STREAMS: readonly (readonly [from: Place, to: Place])[] = [
  ['one', 'two'],
  ['two', 'one'],
  ['one', 'h'],
  ['h', 'two'],
]
/** One whose cable is put into the bridge while others send to it. */
const LATE = STREAMS.length

export class TakeoverHost {
  readonly daemon: HostDaemon
  readonly #lab: Lab
  readonly #receivers: Service[] = []
  #tcp: Service | null = null

  private constructor(lab: Lab) {
    this.#lab = lab
    this.daemon = new HostDaemon(lab, 'h')
  }

  static async build(): Promise<TakeoverHost> {
    const lab = new Lab()
    for (const name of Object.keys(ADDRESSES)) await lab.addNamespace(name)
    await lab.ip('h', ['link add br0 type bridge', `address add ${ADDRESSES.h}/24 dev br0`, 'link set br0 up'])
    const places = ['one', 'two', 'late'] as const
    for (const name of places) {
      await lab.veth('h', name, name, 'eth0')
      await lab.ip(name, [`address add ${ADDRESSES[name]}/24 dev eth0`])
      if (name !== 'late') await lab.ip('h', [`link set ${name} master br0`])
    }
    // Who answers for an address is known: what is measured is the switch, not ARP, which waits a second.
    const shown = await commandAt(lab.place('late', cores), ['ip', '-j', 'link', 'show', 'eth0'])
    const [{ address }] = JSON.parse(shown) as [{ address: string }]
    await lab.ip('one', [`neighbor add ${ADDRESSES.late} lladdr ${address} dev eth0 nud permanent`])
    const host = new TakeoverHost(lab)
    for (const [from, to] of [...STREAMS, ['one', 'late'] as const]) await host.#stream(from, to)
    return host
  }

  async #stream(from: Place, to: Place): Promise<void> {
    const program = await numberedProgram()
    const port = String(5001 + this.#receivers.length)
    const receiver = await this.#lab.start(to, cores, [program, 'receive', port])
    await receiver.until('a receiver', (said) => said.includes('ready'))
    const sender = await this.#lab.start(from, cores, [program, 'send', ADDRESSES[to], port])
    await sender.until('a sender', (said) => said.includes('ready'))
    this.#receivers.push(receiver)
  }

  /** A bulk TCP transfer beside it all, at 50 Mbit/s. */
  async transfer(): Promise<void> {
    const server = await this.#lab.start('two', cores, ['iperf3', '--server', '--one-off', '--forceflush'])
    await server.until('iperf3', (said) => said.includes('listening'))
    const client = ['iperf3', '--client', ADDRESSES.two, '--time', '86000', '--bitrate', '50M', '--forceflush']
    this.#tcp = await this.#lab.start('one', cores, client)
    await this.#tcp.until('traffic', (said) => said.includes('bits/sec'))
  }

  /** Throws when the connection has ended. */
  async transferGoesOn(): Promise<void> {
    const intervals = () => this.#tcp!.said.slice(-400)
    const before = intervals()
    await this.#tcp!.until('more of the transfer', () => intervals() !== before)
  }

  /** What has come since the last look, of the streams between those who were there from the beginning. */
  async look(): Promise<Seen[]> {
    return Promise.all(this.#receivers.slice(0, LATE).map((receiver) => look(receiver)))
  }

  lookAtLate(): Promise<Seen> {
    return look(this.#receivers[LATE]!)
  }

  /** By ip(8), as whoever plugs something in does it. */
  async plug(joined: boolean): Promise<void> {
    await this.#lab.ip('h', [joined ? 'link set late master br0' : 'link set late nomaster'])
  }

  destroy(): Promise<void> {
    return this.#lab.destroy()
  }
}

async function look(receiver: Service): Promise<Seen> {
  const before = receiver.output
  process.kill(receiver.pid, 'SIGUSR1')
  await receiver.until('answer', () => receiver.output !== before && receiver.output.endsWith('\n'))
  return JSON.parse(receiver.output.trimEnd().split('\n').at(-1)!) as Seen
}
