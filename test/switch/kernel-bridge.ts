// A bridge of the kernel and a switch beside it, each with the same devices and the same rules, so that a test can ask
// both the same thing.

import type { PortRules } from '../../src/api/schemas.js'
import { until } from '../lab/command.js'
import { patience } from '../patience.js'
import type { Switch, World } from './world.js'

/** Rules by port. */
export type Rules = Readonly<Record<string, PortRules>>

export interface Bridge {
  readonly kind: 'kernel' | 'switch'
  /** What ports let in and out from now on, all of them: what is left out has no rules. */
  apply(rules: Rules): Promise<void>
  /** Takes a port its carrier, by the far end of its cable, and gives it back; the bridge has noticed both. */
  replug(port: string): Promise<void>
}

export const BRIDGE = 'br0'

/** Names that bridge(8) has for the flags that are on by default. */
const ON = { learning: 'learning', flood: 'flood', mcastFlood: 'mcast_flood', bcastFlood: 'bcast_flood' } as const
const OFF = { isolated: 'isolated', hairpin: 'hairpin', locked: 'locked' } as const

export class KernelBridge implements Bridge {
  readonly kind = 'kernel'
  readonly #world: World
  readonly #host: string
  readonly #ports: readonly string[]
  #rules: Rules = {}
  #aware = false

  private constructor(world: World, host: string, ports: readonly string[]) {
    this.#world = world
    this.#host = host
    this.#ports = ports
  }

  /** `self`: the port whose rules are the bridge's own. */
  static async make(world: World, host: string, ports: readonly string[], ageing: number): Promise<KernelBridge> {
    const options = ['mcast_snooping', '0', 'stp_state', '0', 'ageing_time', `${ageing}00`]
    await world.ip(host, 'link', 'add', BRIDGE, 'type', 'bridge', ...options)
    await world.try(host, 'ip', 'link', 'set', BRIDGE, 'type', 'bridge', 'vlan_default_pvid', '0')
    for (const port of ports) {
      await world.ip(host, 'link', 'set', port, 'master', BRIDGE)
      await world.ip(host, 'link', 'set', port, 'up')
    }
    await world.ip(host, 'link', 'set', BRIDGE, 'up')
    return new KernelBridge(world, host, ports)
  }

  async apply(rules: Rules): Promise<void> {
    const aware = Object.values(rules).some(({ vlan }) => vlan !== undefined)
    // A kernel without CONFIG_BRIDGE_VLAN_FILTERING knows no such word.
    if (aware !== this.#aware)
      await this.#world.ip(this.#host, 'link', 'set', BRIDGE, 'type', 'bridge', 'vlan_filtering', aware ? '1' : '0')
    this.#aware = aware
    for (const port of [...this.#ports, BRIDGE]) await this.#set(port, this.#rules[port] ?? {}, rules[port] ?? {})
    this.#rules = rules
  }

  async #set(port: string, before: PortRules, now: PortRules): Promise<void> {
    const self = port === BRIDGE ? ['self'] : []
    const vlan = (verb: string, vid: number, ...flags: string[]) =>
      this.#bridge('vlan', verb, 'dev', port, 'vid', String(vid), ...flags, ...self)
    const had = memberships(before)
    const has = memberships(now)
    for (const vid of had.keys()) if (!has.has(vid)) await vlan('del', vid)
    for (const [vid, flags] of has) await vlan('add', vid, ...flags)
    if (port === BRIDGE) return
    for (const [key, name] of Object.entries(ON)) await this.#flag(port, name, now[key as keyof typeof ON] !== false)
    for (const [key, name] of Object.entries(OFF)) await this.#flag(port, name, now[key as keyof typeof OFF] === true)
    for (const [verb, list] of [
      ['del', before.fdb ?? []],
      ['replace', now.fdb ?? []],
    ] as const) {
      for (const { mac, vlan: vid, sticky } of list) {
        const inVlan = vid ?? (verb === 'del' ? before : now).vlan?.pvid
        const flags = verb === 'del' ? [] : sticky === true ? ['static', 'sticky'] : ['static']
        const where = inVlan === undefined ? [] : ['vlan', String(inVlan)]
        const args = ['fdb', verb, mac, 'dev', port, 'master', ...flags, ...where]
        // It may have moved since, or gone with its VLAN.
        if (verb === 'del') await this.#world.try(this.#host, 'bridge', ...args)
        else await this.#bridge(...args)
      }
    }
  }

  async replug(port: string): Promise<void> {
    const is = (state: string) =>
      until(`port ${port} to be ${state}`, 5000, async () =>
        (await this.#bridge('link', 'show', 'dev', port)).includes(`state ${state}`) ? true : undefined,
      )
    await farEnd(this.#world, this.#host, port, 'down')
    await is('disabled')
    await farEnd(this.#world, this.#host, port, 'up')
    await is('forwarding')
  }

  #flag(port: string, name: string, on: boolean): Promise<string> {
    return this.#bridge('link', 'set', 'dev', port, name, on ? 'on' : 'off')
  }

  #bridge(...args: string[]): Promise<string> {
    return this.#world.in(this.#host, 'bridge', ...args)
  }
}

/** `up`: frames can leave by both ends of the cable when this returns. */
async function farEnd(world: World, host: string, port: string, state: 'up' | 'down'): Promise<void> {
  await world.ip(`${host}${port}`, 'link', 'set', 'eth0', state)
  if (state === 'down') return
  await world.linkSays(`${host}${port}`, 'eth0', /state UP/)
  await world.linkSays(host, port, /state UP/)
}

/** By VLAN: the flags of `bridge vlan add`. */
function memberships({ vlan }: PortRules): Map<number, string[]> {
  const found = new Map<number, string[]>()
  const enter = (list: readonly (number | string)[] | undefined, ...flags: string[]) => {
    for (const vid of list ?? []) found.set(Number(vid), flags)
  }
  enter(vlan?.tagged)
  enter(vlan?.untagged, 'untagged')
  const pvid = vlan?.pvid
  if (pvid !== undefined) found.set(pvid, [...(found.get(pvid) ?? ['untagged']), 'pvid'])
  return found
}

export class SwitchBridge implements Bridge {
  readonly kind = 'switch'
  readonly #world: World
  readonly #host: string
  readonly #content: (rules: Rules) => object
  readonly #daemon: Switch

  private constructor(world: World, host: string, content: (rules: Rules) => object, daemon: Switch) {
    this.#world = world
    this.#host = host
    this.#content = content
    this.#daemon = daemon
  }

  /** `own`: the port that stands for the bridge itself. */
  static async make(
    world: World,
    host: string,
    ports: readonly string[],
    own: string,
    ageing: number,
  ): Promise<SwitchBridge> {
    const content = (rules: Rules) => ({
      networks: {
        lab0: {
          ageing,
          ports: Object.fromEntries([
            ...ports.map((port) => [port, { device: port, ...rules[port] }]),
            [own, { device: own, kind: 'host', ...rules[BRIDGE] }],
          ]),
        },
      },
    })
    return new SwitchBridge(world, host, content, await world.switch(host, content({}) as Record<string, unknown>))
  }

  async apply(rules: Rules): Promise<void> {
    this.#world.configFile(this.#host, this.#content(rules) as Record<string, unknown>)
    await this.#daemon.client.reload({ deadlineMs: patience(10_000) })
  }

  async replug(port: string): Promise<void> {
    const told = (state: 'up' | 'down') =>
      this.#daemon.said().match(new RegExp(`"port":"${port}"[^\\n]*a port is ${state}`, 'g'))?.length ?? 0
    for (const state of ['down', 'up'] as const) {
      const before = told(state)
      await farEnd(this.#world, this.#host, port, state)
      await until(`port ${port} to be ${state}`, 5000, () => (told(state) > before ? true : undefined))
    }
  }
}
