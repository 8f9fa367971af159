// One bridge that is taken over: its ports become ports of a network, all at one instant, and are given back so. What
// joins the bridge meanwhile follows, and what leaves it leaves.

import { isDeepStrictEqual } from 'node:util'
import type { Logger } from 'pino'
import type { PortRules } from '../../src/api/schemas.js'
import { asSnapswitchError, SnapswitchError } from '../../src/errors/errors.js'
import type { MachineSpec } from '../../src/hypervisor/hypervisor.js'
import {
  type BridgePort,
  bridgeAddresses,
  isNoPort,
  learnAddress,
  setMulticastRouter,
  setPortConduct,
  setPortFlags,
  setPortVlans,
} from '../../src/linux/bridge.js'
import { Handover } from '../../src/linux/handover.js'
import type { Links } from '../../src/linux/link.js'
import type { Datapath } from '../datapath/datapath.js'
import type { MachineWatch } from '../discovery/discovery.js'
import type { Ports } from '../ports/ports.js'
import type { PortEntry, PortRequest } from '../ports/table.js'
import type { BridgeValues, Wanted, WantedPort } from '../wanted/wanted.js'
import { Bypass } from './bypass.js'
import { lookAt } from './found.js'
import { makePair, pairMtu, removePair } from './pair.js'
import { noUplink, type Plan, type PlannedPort, plannedPort, refuseBridge } from './plan.js'
import { BridgeMachines } from './port-machines.js'
import type { BridgeRecord, BridgeRecords } from './record.js'
import { conductOf, hostRules } from './rules.js'
import { giveAll, type Performers, type TakeoverStep, takeAll } from './steps.js'
import type { Watchdog } from './watchdog.js'

/** What a takeover needs of the daemon. */
export interface TakeoverHost {
  readonly links: Links
  readonly datapath: Pick<Datapath, 'call'>
  readonly ports: Pick<Ports, 'all' | 'addHandedOver' | 'remove'>
  readonly records: BridgeRecords
  readonly machines: Pick<MachineWatch, 'watch' | 'unwatch' | 'of'> & {
    settle(): Promise<void>
    isLookedAt(ifindex: number): boolean
  }
  /** How a machine is reached that a restore has brought. */
  specOf(vm: string): MachineSpec | undefined
  readonly log: Logger
  epochOf(network: string): number
  /** What its network does as the bridge does: the configuration may say otherwise. */
  valuesOf(plan: Plan): BridgeValues
  /**
   * What the bridge is to have from now on; null: nothing. Waits for what is under way in its network, for some seconds
   * or for `patienceMs`. Throws SNAPSHOT_BUSY.
   */
  want(bridge: string, wanted: null | (() => Wanted), patienceMs?: number): Promise<unknown>
}

/** What may change while the bridge is taken. */
export interface ConfiguredBridge {
  readonly uplink: string | null
  readonly ignoreFilters: boolean
}

export class TakenBridge {
  record: BridgeRecord
  /** Why it is not as it should be: the bridge is gone, a port could not be taken. */
  problem: SnapswitchError | null = null
  /** It has changed while a snapshot or restore is under way, and is followed after that. */
  isPostponed = false
  readonly #host: TakeoverHost
  readonly #plan: Plan
  #bypass: Bypass | null = null
  #hostPort: WantedPort | null = null
  #watchdog: Watchdog | null = null
  /**
   * No port is taken yet, or any more. The first ones come all at one instant, with the bridge's own frames: with the
   * takeover, or later where the bridge had none then.
   */
  #first = true
  /** Devices of the bridge that cannot be ports, by index. */
  readonly #refused = new Map<number, { readonly device: string; readonly error: SnapswitchError }>()
  readonly #machines: BridgeMachines
  readonly #phaseAtFirst: BridgeRecord['phase']

  constructor(host: TakeoverHost, plan: Plan, record: BridgeRecord) {
    this.#host = host
    this.#plan = plan
    this.#machines = new BridgeMachines(host)
    this.record = record
    this.#phaseAtFirst = record.phase
  }

  get warnings(): readonly string[] {
    return this.#plan.warnings
  }

  /** Throws what hinders it; then all is as it was. */
  take(): Promise<void> {
    return takeAll(this.#performers, (step, error) => this.#notUndone(step, error))
  }

  /**
   * Nothing is lost, and the kernel's bridge has everything again. Waits for what is under way as `want` does. Throws
   * SNAPSHOT_BUSY: nothing was touched.
   */
  async give(patienceMs?: number): Promise<void> {
    await this.#want(NO_PORTS, patienceMs)
    await this.#write('giving')
    await this.#undoAll(this.#performers)
  }

  /** The configuration gives it back; the same when what is under way in its network has ended. */
  async giveWhenIdle(): Promise<boolean> {
    try {
      await this.give(AT_ONCE)
      return true
    } catch (thrown) {
      this.isPostponed = isBusy(thrown)
      return false
    }
  }

  /** The configuration names the bridge, and says this of it; `follow` brings the ports in line with it. */
  async configure({ uplink, ignoreFilters }: ConfiguredBridge): Promise<void> {
    const record = { ...this.record, uplink, ignoreFilters, configured: true }
    if (isDeepStrictEqual(record, this.record)) return
    this.record = record
    await this.#host.records
      .write(record)
      .catch((thrown) => this.#host.log.error({ err: thrown, bridge: record.bridge }, 'it cannot be written down'))
  }

  /** The same without asking, until the next daemon starts. */
  async rest(): Promise<void> {
    await this.moveOut(this.#own().map(({ name }) => name))
    await this.#write('resting')
    const none = { do: () => undefined, undo: () => undefined }
    await this.#undoAll({ ...this.#performers, ports: none, network: none, record: none })
  }

  async #undoAll(performers: Performers): Promise<void> {
    const failures: unknown[] = []
    await giveAll(performers, (step, error) => {
      this.#notUndone(step, error)
      failures.push(error)
    })
    if (failures.length > 0) throw asSnapswitchError(failures[0])
  }

  #notUndone(step: TakeoverStep, error: unknown): void {
    const { bridge } = this.record
    this.#host.log.error({ err: error, bridge, step }, 'a step of a takeover could not be undone')
  }

  async #write(phase: BridgeRecord['phase']): Promise<void> {
    this.record = { ...this.record, phase }
    await this.#host.records.write(this.record)
  }

  get #performers(): Performers {
    const { links, records } = this.#host
    const { record } = this
    return {
      record: { do: () => this.#write(this.#phaseAtFirst), undo: () => records.remove(record.bridge) },
      pair: {
        do: () => {
          this.#watchdog = makePair(links, links.get(record.bridge), record, this.#plan.hostRules !== undefined)
        },
        undo: () => {
          removePair(links, record)
          this.#watchdog?.end()
        },
      },
      network: {
        do: () => {
          this.#hostPort = this.#hostRequest()
          return this.#want(NO_PORTS)
        },
        undo: async () => {
          await this.#host.want(record.bridge, null)
        },
      },
      bypass: {
        do: () => {
          this.#bypass = new Bypass(record.index, links.get(record.hostEnd).index)
        },
        undo: () => {
          this.#bypass?.close()
          this.#bypass = null
        },
      },
      ports: {
        do: async () => {
          for (const port of this.#plan.ports) this.#watch(port)
          // Machines are members from the first frame on.
          await this.#host.machines.settle()
          await this.#want(() => this.#plan.ports)
        },
        undo: () => this.#want(NO_PORTS),
      },
      confirm: { do: () => this.#write('taken'), undo: () => undefined },
    }
  }

  #hostRequest(): WantedPort {
    const { switchEnd: name, network } = this.record
    const rules = this.#plan.hostRules
    const request = { name, network, device: name, kind: 'host' as const, vm: null }
    return rules === undefined ? request : { ...request, rules }
  }

  #watch({ tap, device, index }: PlannedPort): void {
    if (tap) this.#host.machines.watch({ name: device, ifindex: index })
  }

  async #want(ports: () => readonly PlannedPort[], patienceMs?: number): Promise<void> {
    await this.#host.want(this.record.bridge, () => this.#wanted(ports()), patienceMs)
  }

  #wanted(ports: readonly PlannedPort[]): Wanted {
    const { network, index } = this.record
    const found = ports.map((port) => ({ port, machine: this.#machines.at(port.index) }))
    const requests = found.map(({ port, machine }): [string, WantedPort] => {
      const kind = machine !== null ? 'member' : port.device === this.record.uplink ? 'uplink' : 'plain'
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

  /** The ports of ours that are ports of the bridge. */
  #own(): PortEntry[] {
    return this.#host.ports.all().filter(({ bridge }) => bridge === this.record.index)
  }

  /**
   * The bridge forwards until `open`, and the switch from then on. What the host and its switch say to one another in
   * the moments between goes by the bridge or by the pair, whichever the bridge's addresses say; to all, by both rather
   * than by none.
   */
  async moveIn(requests: readonly PortRequest[]): Promise<void> {
    const { links, ports, datapath } = this.#host
    const { network } = this.record
    const first = this.#first
    const bypass = this.#bypass!
    const hostEnd = links.get(this.record.hostEnd).index
    const handover = new Handover(false)
    const entries: PortEntry[] = []
    try {
      const sockets = { ...handover.sockets, mute: !first }
      const epoch = this.#host.epochOf(network)
      const added = await Promise.allSettled(requests.map((port) => ports.addHandedOver(port, epoch, sockets)))
      for (const outcome of added) if (outcome.status === 'fulfilled') entries.push(outcome.value)
      const failed = added.find((outcome) => outcome.status === 'rejected')
      if (failed !== undefined) throw failed.reason
      const indexes = entries.map(({ index }) => index)
      const taken = entries.map(({ ifindex, ifname }) => ({ index: ifindex, name: ifname }))
      for (const { index } of taken) handover.hook(index)
      if (first) bypass.deafen(taken)
      const known = bridgeAddresses(links, this.record.index).filter(({ fixed, local }) => !fixed && !local)
      handover.open()
      if (first) {
        setPortFlags(links, hostEnd, { floods: true, learns: true })
        setMulticastRouter(links, hostEnd, true)
      }
      await datapath.call('handOver', { network, ports: indexes, programs: handover.sockets })
      await datapath.call('learn', { network, addresses: addressesOf(known, entries) })
      for (const { mac, vlan, index } of known)
        if (taken.some((port) => port.index === index)) learnAddress(links, { mac, vlan, index: hostEnd })
      bypass.take(taken)
      await datapath.call('handOver', { network, ports: indexes, programs: null })
      this.#first = false
    } catch (thrown) {
      handover.shut()
      for (const entry of entries) {
        await ports.remove(entry.name, true)
        bypass.forget({ index: entry.ifindex, name: entry.ifname })
      }
      throw thrown
    } finally {
      // Sockets that wait for it are gone, or have programs of their own.
      handover.close()
    }
  }

  /** At one instant; each port is forgotten by the switch when it has forwarded what it had taken. */
  async moveOut(names: readonly string[]): Promise<void> {
    const { links, ports, datapath, log } = this.#host
    const { network, bridge } = this.record
    const going = this.#own().filter(({ name }) => names.includes(name))
    if (going.length === 0) return
    const here = going.filter(({ ifindex }) => links.findByIndex(ifindex)?.master === this.record.index)
    const all = here.length === this.#own().length
    const indexes = here.map(({ index }) => index)
    const own = here.map(({ ifindex, ifname }) => ({ index: ifindex, name: ifname }))
    let handover: Handover | null = null
    try {
      if (here.length > 0) {
        handover = new Handover(true)
        await datapath.call('handOver', { network, ports: indexes, programs: handover.sockets })
        for (const { index } of own) handover.hook(index)
        handover.open()
        this.#bypass?.leave(own)
        const hostEnd = links.find(this.record.hostEnd)
        // What the host is sent in between would have the bridge look for its sender at the pair again.
        if (all && hostEnd !== null) setPortFlags(links, hostEnd.index, { learns: false })
        await this.#returnAddresses(here)
        if (all && hostEnd !== null) {
          setPortFlags(links, hostEnd.index, { floods: false })
          setMulticastRouter(links, hostEnd.index, false)
        }
        handover.shut()
        const pair = ports.all().filter(({ name }) => name === this.record.switchEnd)
        await datapath.call('handOver', { network, ports: indexes, programs: handover.sockets, drain: true })
        const hostPorts = pair.map(({ index }) => index)
        await datapath.call('handOver', { network, ports: hostPorts, programs: null, drain: true })
      }
    } catch (thrown) {
      // The bridge gets them all the same, if not without a gap.
      log.warn({ err: thrown, bridge }, 'the ports of a bridge could not be handed back without a gap')
      handover?.shut()
    }
    for (const { name, ifindex, ifname } of going) {
      await ports.remove(name, true)
      this.#bypass?.forget({ index: ifindex, name: ifname })
      this.#host.machines.unwatch(ifindex)
      this.#machines.forget(ifindex)
    }
    handover?.close()
    if (all) this.#first = true
  }

  async #returnAddresses(entries: readonly PortEntry[]): Promise<void> {
    const { links, datapath } = this.#host
    const deviceOf = new Map(entries.map(({ index, ifindex }) => [index, ifindex]))
    for (const { mac, vlan, port } of await datapath.call('fdb', { network: this.record.network })) {
      const index = deviceOf.get(port)
      if (index === undefined) continue
      try {
        learnAddress(links, { mac, vlan: this.#plan.hostRules === undefined ? 0 : vlan, index })
      } catch (thrown) {
        if (!isNoPort(thrown)) throw thrown
      }
    }
  }

  /** The device of a restored machine comes into the bridge: it is kept from the bridge before it speaks. */
  join(port: { readonly index: number; readonly name: string }, rules?: PortRules): void {
    const { links } = this.#host
    links.change(port.index, { master: this.record.index })
    const { conduct, vlans } = conductOf(rules)
    setPortConduct(links, port.index, conduct)
    if (vlans !== null && this.#plan.hostRules !== undefined) setPortVlans(links, port.index, vlans)
    this.#bypass?.take([port])
    links.change(port.index, { up: true })
  }

  /**
   * Brings the ports in line with the bridge's: what has joined it is taken, what has left it goes. Call it when
   * devices or machines have changed, and when what is under way in the network has ended; never throws. Until then the
   * bridge forwards for what has joined, and what has left is a port without frames.
   */
  async follow(): Promise<void> {
    const { log } = this.#host
    const { bridge } = this.record
    this.isPostponed = false
    try {
      await this.#follow()
      if (this.problem !== null) log.info({ bridge }, 'a bridge that was taken over is as it should be again')
      this.problem = null
    } catch (thrown) {
      const problem = asSnapswitchError(thrown)
      if (isBusy(problem)) {
        this.isPostponed = true
        return
      }
      if (this.problem?.message !== problem.message)
        log.warn({ err: problem, bridge }, 'a bridge that was taken over is not as it should be')
      this.problem = problem
    }
  }

  async #follow(): Promise<void> {
    const { links } = this.#host
    const { index, bridge, hostEnd } = this.record
    const link = links.findByIndex(index)
    if (link === null) {
      await this.#want(NO_PORTS, AT_ONCE)
      throw lost(`bridge ${bridge} was deleted`)
    }
    const now = lookAt(links, link)
    const here = now.ports.filter((port) => port.link.name !== hostEnd)
    if (!now.ports.some((port) => port.link.name === hostEnd)) {
      await this.#want(NO_PORTS, AT_ONCE)
      throw lost(`${hostEnd}, the host’s end of bridge ${bridge}, was taken out of it`)
    }
    this.#followMtu(here)
    const own = now.settings.vlanFiltering ? (now.vlans.get(index) ?? null) : null
    if (this.#hostPort !== null && own !== null) this.#hostPort = { ...this.#hostPort, rules: hostRules(own)! }
    await this.#followPorts()
    for (const port of here) this.#keepOut(port)
    if (link.name !== bridge) {
      throw lost(
        `bridge ${bridge} is called ${link.name} now`,
        `Rename it back: ip link set ${link.name} name ${bridge}`,
      )
    }
    const [refused] = this.#refused.values()
    if (refused !== undefined) throw refused.error
    const { uplink } = this.record
    const devices = here.map((port) => port.link.name)
    if (uplink !== null && !devices.includes(uplink)) throw noUplink(bridge, uplink, devices)
    // What would have been refused, and has come since: the switch goes on without it.
    refuseBridge({ ...now, filters: NO_FILTERS })
  }

  /**
   * All ports at once. Where one of them cannot be a port, it is `#refused`, and keeps no other off the switch. Throws
   * SNAPSHOT_BUSY.
   */
  async #followPorts(): Promise<void> {
    this.#forgetRefused()
    try {
      await this.#want(() => this.#planned(), AT_ONCE)
      return
    } catch (thrown) {
      if (isBusy(thrown)) throw thrown
    }
    const kept = new Set(this.#own().map(({ ifindex }) => ifindex))
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
      const message = `machine ${found.name} is on ${device} in ${this.record.bridge}, which cannot be a port: ${error.message}`
      return new SnapswitchError(error.code, message, error.action)
    })
  }

  /** The ports that the bridge has now, each TAP of them watched. */
  #planned(): PlannedPort[] {
    const { links } = this.#host
    const link = links.findByIndex(this.record.index)
    if (link === null) return []
    const now = lookAt(links, link)
    const planned = now.ports
      .filter((port) => port.link.name !== this.record.hostEnd)
      .map((port) => plannedPort({ ...now, filters: NO_FILTERS }, port))
    for (const port of planned) this.#watch(port)
    return planned
  }

  /** A device that was renamed has lost its rules on kernels that go by names. */
  #keepOut({ link }: BridgePort): void {
    const known = { index: link.index, name: link.name }
    if (this.#bypass === null || !this.#own().some(({ ifindex }) => ifindex === link.index)) return
    if (this.#bypass.has(known)) return
    this.#bypass.forget(known)
    this.#bypass.take([known])
  }

  #followMtu(here: readonly BridgePort[]): void {
    const { links } = this.#host
    const mtu = pairMtu(here.map(({ link }) => link))
    for (const name of [this.record.switchEnd, this.record.hostEnd]) {
      const end = links.find(name)
      if (end !== null && end.mtu !== mtu) links.change(end.index, { mtu })
    }
  }
}

const NO_PORTS = () => []
/** Milliseconds. */
const AT_ONCE = 0
const NO_FILTERS = { bridgeTables: [], ingress: [], forwarded: false }

const isBusy = (thrown: unknown) => asSnapswitchError(thrown).code === 'SNAPSHOT_BUSY'

function addressesOf(
  known: readonly { readonly mac: string; readonly vlan: number; readonly index: number }[],
  entries: readonly PortEntry[],
) {
  const portOf = new Map(entries.map(({ ifindex, index }) => [ifindex, index]))
  return known.flatMap(({ mac, vlan, index }) => {
    const port = portOf.get(index)
    return port === undefined ? [] : [{ mac, vlan, port }]
  })
}

function lost(message: string, action?: string): SnapswitchError {
  const otherwise = 'Give it back with `snapswitch give`, and take it again when it is whole.'
  return new SnapswitchError('BRIDGE_LOST', message, action ?? otherwise)
}
