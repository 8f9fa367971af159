// Which ports a bridge that was taken over has, and what the switch is asked to have for them: a member where a machine
// is behind the device, the uplink, or a plain port. Devices that cannot be ports keep no others off the switch.

import { asSnapswitchError, SnapswitchError } from '../../src/errors/errors.js'
import type { Wanted, WantedPort } from '../wanted/wanted.js'
import { lookAt } from './found.js'
import type { TakeoverHost } from './host.js'
import { type Plan, type PlannedPort, plannedPort } from './plan.js'
import { BridgeMachines } from './port-machines.js'
import type { BridgeRecord } from './record.js'
import { hostRules } from './rules.js'

/** Milliseconds of patience with what is under way in the network. */
export const AT_ONCE = 0
/** Rules of others are looked at when a bridge is taken, and never after. */
export const NO_FILTERS = { bridgeTables: [], ingress: [], forwarded: false }

export const isBusy = (thrown: unknown) => asSnapswitchError(thrown).code === 'SNAPSHOT_BUSY'

export class BridgePorts {
  readonly #host: TakeoverHost
  readonly #plan: Plan
  readonly #record: () => BridgeRecord
  readonly #machines: BridgeMachines
  #hostPort: WantedPort | null = null
  /** Devices of the bridge that cannot be ports, by index. */
  readonly #refused = new Map<number, { readonly device: string; readonly error: SnapswitchError }>()

  /** `record`: of the bridge, as it is now. */
  constructor(host: TakeoverHost, plan: Plan, record: () => BridgeRecord) {
    this.#host = host
    this.#plan = plan
    this.#record = record
    this.#machines = new BridgeMachines(host)
  }

  /** The network, with the host's port alone. */
  async open(): Promise<void> {
    const { switchEnd: name, network } = this.#record()
    const rules = this.#plan.hostRules
    const request = { name, network, device: name, kind: 'host' as const, vm: null }
    this.#hostPort = rules === undefined ? request : { ...request, rules }
    await this.none()
  }

  /** Nothing is left of the network. */
  async close(): Promise<void> {
    await this.#host.want(this.#record().bridge, null)
  }

  /** No port of the bridge. Waits for what is under way, for some seconds or for `patienceMs`. Throws SNAPSHOT_BUSY. */
  none(patienceMs?: number): Promise<void> {
    return this.#want(() => [], patienceMs)
  }

  /** The ports that the bridge had when it was looked at. */
  async takeAll(): Promise<void> {
    for (const port of this.#plan.ports) this.#watch(port)
    // Machines are members from the first frame on.
    await this.#host.machines.settle()
    await this.#want(() => this.#plan.ports)
  }

  /** The bridge's own VLANs are those of the host. */
  followHost(own: Parameters<typeof hostRules>[0]): void {
    if (this.#hostPort !== null) this.#hostPort = { ...this.#hostPort, rules: hostRules(own)! }
  }

  /** A device that is no port any more. */
  forget(ifindex: number): void {
    this.#host.machines.unwatch(ifindex)
    this.#machines.forget(ifindex)
  }

  /** Why a device of the bridge cannot be a port. */
  get refused(): SnapswitchError | null {
    const [first] = this.#refused.values()
    return first?.error ?? null
  }

  #watch({ tap, device, index }: PlannedPort): void {
    if (tap) this.#host.machines.watch({ name: device, ifindex: index })
  }

  async #want(ports: () => readonly PlannedPort[], patienceMs?: number): Promise<void> {
    await this.#host.want(this.#record().bridge, () => this.#wanted(ports()), patienceMs)
  }

  #wanted(ports: readonly PlannedPort[]): Wanted {
    const { network, index, uplink } = this.#record()
    const found = ports.map((port) => ({ port, machine: this.#machines.at(port.index) }))
    const requests = found.map(({ port, machine }): [string, WantedPort] => {
      const kind = machine !== null ? 'member' : port.device === uplink ? 'uplink' : 'plain'
      const { name, device, rules } = port
      const request = { name, network, device, kind, vm: machine?.name ?? null, bridge: index } as const
      return [name, rules === undefined ? request : { ...request, rules }]
    })
    const own = this.#hostPort === null ? [] : [[this.#hostPort.name, this.#hostPort] as const]
    return {
      networks: new Map([[network, null]]),
      values: new Map([[network, this.#host.valuesOf(this.#plan)]]),
      ports: new Map([...own, ...requests]),
      machines: new Map(
        found.flatMap(({ machine }) => (machine?.spec === undefined ? [] : [[machine.name, machine.spec]])),
      ),
    }
  }

  /**
   * All ports that the bridge has now, at once. Where one of them cannot be a port, it is `refused`, and keeps no other
   * off the switch. `own`: the devices that are ports already. Throws SNAPSHOT_BUSY.
   */
  async follow(own: readonly number[]): Promise<void> {
    this.#forgetRefused()
    try {
      await this.#want(() => this.#planned(), AT_ONCE)
      return
    } catch (thrown) {
      if (isBusy(thrown)) throw thrown
    }
    const kept = new Set(own)
    const wantKept = () => this.#want(() => this.#planned().filter(({ index }) => kept.has(index)), AT_ONCE)
    await wantKept()
    for (const { index, device } of this.#planned()) {
      if (kept.has(index)) continue
      kept.add(index)
      try {
        await wantKept()
      } catch (thrown) {
        if (isBusy(thrown)) throw thrown
        kept.delete(index)
        this.#refused.set(index, { device, error: asSnapswitchError(thrown) })
      }
    }
  }

  #forgetRefused(): void {
    const there = new Set(this.#planned().map(({ index }) => index))
    for (const index of this.#refused.keys()) if (!there.has(index)) this.#host.machines.unwatch(index)
    this.#refused.clear()
  }

  /** Machines behind devices of the bridge that cannot be ports: a snapshot would be without them. */
  strays(): SnapswitchError[] {
    return [...this.#refused].flatMap(([index, { device, error }]) => {
      const found = this.#host.machines.of(index)
      if (found.kind !== 'machine') return []
      const message = `machine ${found.name} is on ${device} in ${this.#record().bridge}, which cannot be a port: ${error.message}`
      return new SnapswitchError(error.code, message, error.action)
    })
  }

  /** The ports that the bridge has now, each TAP of them watched. */
  #planned(): PlannedPort[] {
    const { links } = this.#host
    const link = links.findByIndex(this.#record().index)
    if (link === null) return []
    const now = lookAt(links, link)
    const planned = now.ports
      .filter((port) => port.link.name !== this.#record().hostEnd)
      .map((port) => plannedPort({ ...now, filters: NO_FILTERS }, port))
    for (const port of planned) this.#watch(port)
    return planned
  }
}
