// A scenario as a running world: hosts with their daemons, guests, trunks, a coordinator, and what goes wrong. Runs
// until nothing is left to do, then the invariants are checked.

import type { Manifest } from '../../src/api/schemas.js'
import { announcement } from '../../src/frame/ethernet.js'
import { Frame, type FrameCopy, NO_COLOR, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import type { Agent } from '../../switch/agent/agent.js'
import type { Forwarder } from '../../switch/forwarding/forwarder.js'
import { chanceOf } from './chance.js'
import { Coordinator, type Outcome } from './coordinator.js'
import type { Mark } from './coverage.js'
import { type Daemon, Host } from './daemon.js'
import { type FrameForm, makeFrame } from './frames.js'
import { Guest, type Image, type Nic } from './guest.js'
import { SharedLan } from './lan.js'
import { networkName, waysOf } from './networks.js'
import { BROADCAST, FLOATING, LAN_STATION, OUTSIDE, type Scenario, type Send } from './scenario.js'
import { Timeline } from './timeline.js'
import { PLAIN_PORT, Trunk } from './trunk.js'
import type { Worker } from './worker.js'

/** Gets at the objects of a world as they are made, to plant a fault in the rules. Nothing of it is in the product. */
export interface Planted {
  forwarder?(forwarder: Forwarder): void
  worker?(worker: Worker): void
  /** Before it starts. */
  daemon?(daemon: Daemon): void
  agent?(agent: Agent, daemon: Daemon): void
  guest?(guest: Guest): void
  coordinator?(coordinator: Coordinator): void
}

/** A frame that was sent: once, by a guest or by an outside station. */
export interface SentFrame {
  readonly id: number
  /** OUTSIDE for a station. */
  readonly vm: number
  /** Index among all NICs; the host for a station. */
  readonly nic: number
  /** Place in the sender's log. */
  readonly at: number
  readonly toVm: number
  readonly toNic: number
  /** As they left the sender, virtio-net header first. */
  readonly bytes: Buffer
}

export interface Note {
  readonly at: number
  readonly who: string
  readonly text: string
}

export class Violation extends Error {
  readonly invariant: number

  constructor(invariant: number, message: string) {
    super(message)
    this.invariant = invariant
  }
}

/**
 * Milliseconds after the last order and fault by which all must be quiet: the longest deadlines, and what follows them.
 */
const HORIZON = 150_000
const BROADCAST_MAC = [255, 255, 255, 255, 255, 255]
/** An address that machines take over from one another, as routers do with a virtual one. */
const FLOATING_MAC = [2, 0, 0, 1, 0, 0]
/** When machines say that they are there, if they do. */
const ANNOUNCING = 300
const ANNOUNCEMENT_LENGTH = 60

export class World {
  readonly scenario: Scenario
  readonly planted: Planted
  readonly time = new Timeline()
  /** Their numbers. */
  readonly networks: readonly number[]
  readonly hosts: Host[]
  readonly guests: Guest[]
  readonly nics: Nic[]
  readonly frames: SentFrame[] = []
  readonly catalogue = new Map<string, Manifest>()
  /** Files by digest, wherever they lie. */
  readonly contents = new Map<string, unknown>()
  readonly outcomes: Outcome[] = []
  /** Null: the hosts are joined by trunks. */
  readonly lan: SharedLan | null
  /** By station: ids that it has heard. */
  readonly outside: number[][]
  readonly trace: Note[] | null
  readonly crashed = new Set<number>()
  /** What has happened that a campaign counts. */
  readonly marks = new Set<Mark>()
  /** Frames whose sender was restored, by a restore of another network, to before it had sent them. */
  readonly unsentElsewhere = new Set<number>()
  /** Of all datapaths that there were. */
  readonly counters: Float64Array[] = []
  /** Frames in TAPs at a cut that came before their port was armed, by NIC: lost to that snapshot, and counted. */
  readonly unarmed: number[][]
  coordinator: Coordinator
  doubled = 0
  /** What was wrong on the way; the first is thrown at the end of the step. */
  wrong: Violation | null = null
  readonly #frame = new Frame()
  readonly #trunks = new Map<number, Trunk>()
  /** Whether a datapath starts anew in the middle. */
  readonly restarts: boolean
  /** By NIC: the highest color its frames have had. */
  readonly #colors: number[]
  #coordinatorSteps = 0
  #ordersGiven = 0
  #toCome = 0

  constructor(scenario: Scenario, planted: Planted = {}, traced = false) {
    this.scenario = scenario
    this.planted = planted
    this.trace = traced ? [] : null
    this.networks = [0, ...scenario.others.map((_, other) => other + 1)]
    let nics = 0
    this.guests = scenario.machines.map((machine, index) => {
      const guest = new Guest(this, index, nics, machine)
      nics += machine.nics
      return guest
    })
    this.nics = this.guests.flatMap((guest) => guest.nics)
    this.outside = Array.from({ length: LAN_STATION + 1 }, () => [])
    this.hosts = Array.from(
      { length: scenario.hosts },
      (_, index) =>
        new Host(
          this,
          index,
          this.guests.filter(({ host }) => host === index),
        ),
    )
    this.lan = scenario.lan === null ? null : new SharedLan(this)
    this.restarts = scenario.faults.some(({ kind }) => kind === 'kill daemon' || kind === 'fail datapath')
    this.#colors = this.nics.map(() => -1)
    this.unarmed = this.nics.map(() => [])
    for (const guest of this.guests) planted.guest?.(guest)
    this.coordinator = new Coordinator(this)
  }

  /** Runs to the end. Throws a Violation. */
  async run(): Promise<void> {
    const { scenario, time } = this
    for (const host of this.hosts) host.start()
    await promisesKept()
    if (scenario.announced) this.#come(ANNOUNCING, () => this.#announce())
    for (const send of scenario.sends) this.#come(send.at, () => this.#send(send))
    for (const [nth, order] of scenario.orders.entries()) {
      this.#come(order.at, () => {
        this.#ordersGiven++
        this.coordinator.take(order, nth)
      })
    }
    for (const fault of scenario.faults) {
      if (fault.kind === 'crash machine') this.#come(fault.at, () => this.#crash(fault.vm))
      if (fault.kind === 'unplug trunk') {
        const { a, b, at, network = 0 } = fault
        this.#come(at, () => this.hosts[a].daemon?.worker?.unplug(network, b))
        this.#come(at + fault.for, () => this.hosts[a].daemon?.worker?.plug(network, b))
      }
      if ('for' in fault) this.#come(fault.at + fault.for, () => undefined)
    }
    const last = Math.max(0, ...scenario.orders.map((order) => order.at + order.deadline))
    const horizon = last + HORIZON
    // Whether all is quiet is worth a look only now and then.
    let lookAgain = 0
    while (time.now < horizon && time.step()) {
      if (time.promised) {
        time.promised = false
        await promisesKept()
      }
      if (this.wrong !== null) throw this.wrong
      if (this.#toCome > 0 || time.now < lookAgain) continue
      if (this.isQuiet() && this.#waysAway().length === 0) break
      lookAgain = time.now + 5
    }
    const away = this.#waysAway()
    if (away.length > 0) this.violation(4, `does not come back: ${away.join(', ')}`)
    if (this.wrong !== null) throw this.wrong
  }

  /** Ways to peers that do not answer, where devices went away: when these are back and all else is quiet, none. */
  #waysAway(): string[] {
    if (!this.scenario.faults.some(({ kind }) => kind === 'unplug trunk')) return []
    return this.hosts.flatMap(({ name, daemon }) => {
      const worker = daemon?.worker
      if (worker === null || worker === undefined) return []
      return worker.forwarders.flatMap(({ ports, trunks }) =>
        ports
          .filter((port) => port.channel !== null && !trunks.isAlive(port, worker.now))
          .map(({ index }) => `port ${index} of ${name}`),
      )
    })
  }

  // --- chance and notes ----------------------------------------------------------------------------------------------

  chance(what: number, who: number, which: number): number {
    return chanceOf(this.scenario.seed, what, who, which)
  }

  /** A random wait of at most `most` milliseconds, mostly short. */
  wait(what: number, who: number, which: number, most: number): number {
    const luck = this.chance(what, who, which)
    return most * luck * luck
  }

  note(who: string, text: string): void {
    this.trace?.push({ at: this.time.now, who, text })
  }

  /** Something in the product has thrown what nobody expected. */
  crashedWith(thrown: unknown): void {
    this.violation(0, thrown instanceof Error ? (thrown.stack ?? thrown.message) : JSON.stringify(thrown))
  }

  violation(invariant: number, message: string): void {
    this.wrong ??= new Violation(invariant, message)
  }

  // --- steps, and those that strike between them --------------------------------------------------------------------

  step(host: Host): void {
    if (this.#ordersGiven === 0) return
    host.steps++
    for (const fault of this.scenario.faults) {
      if (fault.kind !== 'kill daemon' && fault.kind !== 'fail datapath') continue
      if (fault.host !== host.index || fault.step !== host.steps) continue
      if (fault.kind === 'kill daemon') this.time.next(() => host.kill(fault.down))
      else this.time.next(() => host.daemon?.failWorker())
    }
  }

  coordinatorStep(): void {
    this.#coordinatorSteps++
    for (const fault of this.scenario.faults) {
      if (fault.kind !== 'kill coordinator' || fault.step !== this.#coordinatorSteps) continue
      this.time.next(() => {
        this.note('coord', 'KILLED')
        this.marks.add('coordinator killed')
        this.coordinator.end()
        const next = new Coordinator(this)
        this.coordinator = next
        // Until it is up again, orders wait for it.
        next.starting = true
        this.time.after(fault.down, () => next.open())
      })
    }
  }

  // --- frames --------------------------------------------------------------------------------------------------------

  /** A frame was put into a TAP's queue. */
  delivered(nic: Nic, id: number): void {
    const { guest } = nic
    if (guest.running || this.restarts) return
    for (const network of this.networks) {
      const sessions = this.hosts[guest.host].daemon?.agent?.sessions
      const name = networkName(network)
      // Called off: then the gates open at once, whatever the machines do.
      if (
        !guest.isIn(network) ||
        (sessions?.restoreOf(name) == null && sessions?.snapshotOf(name)?.state !== 'cutting')
      )
        continue
      this.violation(3, `${id < 0 ? 'a frame' : `#${id}`} was delivered to ${guest.name} while nobody read its TAP`)
    }
  }

  /** A NIC's frame was colored. */
  colored(nic: number, color: number, host: Host): void {
    if (color < this.#colors[nic])
      this.violation(1, `the epoch of port p${nic} went back from ${this.#colors[nic]} to ${color}`)
    this.#colors[nic] = color
    const durable = host.disk.epochs.get(networkName(this.nics[nic].network)) ?? 0
    if (color > durable) this.violation(4, `port p${nic} is at epoch ${color}, the disk of ${host.name} at ${durable}`)
  }

  /** What this NIC's guest has not read and no armed copy covers. */
  cut(nic: number): void {
    const { log, armedAt } = this.nics[nic]
    this.unarmed[nic].push(...log.delivered.slice(log.read, armedAt))
  }

  /**
   * A machine becomes what it was: what it has sent since in other networks than the restored one stays with whoever
   * has it. Nothing is promised of such frames but that they are as they were sent.
   */
  rollBack(guest: Guest, image: Image, network: number): void {
    guest.restoredBy.add(network)
    const kept = new Set(image.log.sent.slice(0, image.sent))
    for (const id of guest.log.sent) {
      if (!kept.has(id) && this.networkOf(this.frames[id]) !== network) this.unsentElsewhere.add(id)
    }
  }

  networkOf(frame: SentFrame): number {
    return frame.vm === OUTSIDE ? 0 : this.nics[frame.nic].network
  }

  heardOutside(station: number, id: number): void {
    this.outside[station].push(id)
  }

  /**
   * Whether a frame is what it was when its sender gave it away; `start` and `end`: from its destination address on.
   */
  isAsSent(id: number, bytes: Uint8Array, start: number, end: number): boolean {
    const sent = this.frames[id].bytes
    return sent.compare(bytes, start, end, VNET_HEADER_LENGTH) === 0
  }

  /** A datapath that starts anew takes what peers still send it by the bit for the outside world's. */
  checkAsSent(id: number, frame: Frame, receiver: string): void {
    if (this.restarts) return
    if (id >= 0 && !this.isAsSent(id, frame.bytes, frame.start, frame.start + frame.length))
      this.violation(3, `#${id} was changed on its way to ${receiver}`)
  }

  /** Who is there says so, as machines do when they come up: then the switches know where everybody is. */
  #announce(): void {
    const bytesOf = (mac: readonly number[]) => {
      const bytes = new Uint8Array(VNET_HEADER_LENGTH + ANNOUNCEMENT_LENGTH)
      bytes.set(announcement(Uint8Array.from(mac)), VNET_HEADER_LENGTH)
      return { bytes, tagTpid: 0, tagTci: 0, color: NO_COLOR }
    }
    for (const nic of this.nics) {
      nic.guest.act(() => this.hosts[nic.guest.host].arrive(nic.index, bytesOf(nic.mac)))
    }
    for (const station of this.scenario.outside) this.#sendFromOutside(station, bytesOf(stationMac(station)))
  }

  #sendFromOutside(station: number, copy: FrameCopy): void {
    if (station === LAN_STATION) this.lan?.transmit(LAN_STATION, this.#frame.pointAt(copy))
    else this.hosts[station].arrive(PLAIN_PORT, copy)
  }

  #send({ vm, nic, toVm, toNic, form, floating }: Send): void {
    if (vm === OUTSIDE) {
      this.#sendFromOutside(nic, this.#makeFrame({ vm, nic, at: 0, toVm, toNic }, stationMac(nic), form))
      return
    }
    const guest = this.guests[vm]
    guest.act(() => {
      const from = guest.nics[nic]
      const sent = { vm, nic: from.index, at: guest.log.sent.length, toVm, toNic }
      const copy = this.#makeFrame(sent, floating ? FLOATING_MAC : from.mac, form)
      guest.log.sent.push(this.frames.length - 1)
      this.note(
        guest.name,
        `sends #${this.frames.length - 1}${guest.nics.length > 1 ? ` .${nic}` : ''} → ${this.#target(toVm, toNic)}`,
      )
      this.hosts[guest.host].arrive(from.index, copy)
    })
  }

  #makeFrame(sent: Omit<SentFrame, 'id' | 'bytes'>, from: readonly number[], form: FrameForm): FrameCopy {
    const id = this.frames.length
    const { toVm, toNic } = sent
    const to =
      toVm === BROADCAST
        ? BROADCAST_MAC
        : toVm === FLOATING
          ? FLOATING_MAC
          : toVm === OUTSIDE
            ? stationMac(toNic)
            : this.guests[toVm].nics[toNic].mac
    const copy = makeFrame(id, from, to, form)
    this.frames.push({ ...sent, id, bytes: Buffer.from(copy.bytes) })
    return copy
  }

  #target(vm: number, nic: number): string {
    if (vm === BROADCAST) return 'all'
    if (vm === FLOATING) return 'whoever has the address'
    if (vm === OUTSIDE) return nic === LAN_STATION ? 'outside' : `outside h${nic}`
    return `vm${vm}${this.guests[vm].nics.length > 1 ? `.${nic}` : ''}`
  }

  #crash(vm: number): void {
    this.crashed.add(vm)
    this.guests[vm].end()
  }

  // --- the network ---------------------------------------------------------------------------------------------------

  hostOf(name: string): Host {
    return this.hosts[Number(name.slice(1))]
  }

  guestOf(name: string): Guest {
    return this.guests[Number(name.slice(2))]
  }

  peersOf(host: number, network: number): number[] {
    if (this.lan !== null && network === 0) return []
    const { chain } = waysOf(this.scenario, network)
    const all = this.hosts.map((one) => one.index)
    return all.filter((other) => (chain ? Math.abs(other - host) === 1 : other !== host))
  }

  trunk(network: number, from: number, to: number): Trunk {
    const key = network * 256 + from * 16 + to
    let trunk = this.#trunks.get(key)
    if (trunk === undefined) {
      trunk = new Trunk(this, network, from, to)
      this.#trunks.set(key, trunk)
    }
    return trunk
  }

  /** Nothing is under way any more, and nothing held back. */
  isQuiet(): boolean {
    if (this.coordinator.busy !== null) return false
    for (const { way } of this.#trunks.values()) if (way.inFlight > 0) return false
    if (this.lan !== null && this.lan.inFlight > 0) return false
    for (const { daemon } of this.hosts) {
      if (daemon === null) return false
      for (const network of this.networks) if (daemon.busy(network) !== null) return false
      for (const forwarder of daemon.worker?.forwarders ?? []) {
        if (forwarder.snapshots.openEpoch !== null) return false
        for (const port of forwarder.ports) if (port.closed || port.hold.length > 0) return false
      }
      if ((daemon.worker?.fast?.kernel.inFlight ?? 0) > 0) return false
      for (const socket of daemon.worker?.ingress ?? []) if (socket !== undefined && socket.length > 0) return false
    }
    for (const guest of this.guests) {
      if (!guest.alive) continue
      if (!guest.running) return false
      for (const nic of guest.nics) if (nic.unread > 0) return false
    }
    return true
  }

  #come(at: number, act: () => void): void {
    this.#toCome++
    this.time.at(at, () => {
      this.#toCome--
      act()
    })
  }
}

const stationMac = (station: number) => [6, 1, 0, 0, 0, station]

/** What was answered has been taken on, to the end of it: microtasks come before this. */
function promisesKept(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve)
  })
}
