// The fast path of a datapath: ports of quiet networks hand their frames on in the kernel, by verdicts that the
// forwarder has reached (docs/internals/fast-path.md). Runs in the datapath's thread, between its batches.

import { asSnapswitchError } from '../../../src/errors/errors.js'
import { formatMacWords } from '../../../src/frame/mac.js'
import type { CounterTable } from '../../forwarding/counters.js'
import type { Forwarder } from '../../forwarding/forwarder.js'
import type { PortPath, VerdictRow } from '../protocol.js'
import { Attached } from './attached.js'
import { Barrier } from './barrier.js'
import type { HookState } from './hooks.js'
import type { FastPort, Kernel } from './kernel.js'
import { Shared } from './layout.js'
import { NetworkPath, type PathHost } from './network-path.js'
import { SentFrames } from './sent-frames.js'
import { type SeenVerdict, Verdicts } from './verdicts.js'

const TICK_MS = 100
/** While nothing is to change, and while nothing comes either. */
const STEADY_TICK_MS = 250
const SILENT_TICK_MS = 500
/** So often each device is looked at. */
const LOOK_SECONDS = 4
/** A program that a settling waits for. */
const SETTLE_LIMIT_MS = 0.1

/** Frames within a second from which on a port is busy. */
const BUSY_FRAMES = 1000

/** What takes long in the kernel is somebody else's. */
export interface ControlThread {
  /** Has `act` put at a port's ingress hook, and `hooked` called then. */
  ask(port: FastPort): void
  /** Is told once of a port that has become busy. */
  busy(port: FastPort): void
}

export class KernelPath implements PathHost {
  readonly verdicts: Verdicts
  readonly attached: (Attached | undefined)[] = []
  seconds = 0
  readonly #kernel: Kernel
  readonly #shared: Shared
  readonly #barrier: Barrier
  readonly #counters: CounterTable
  readonly #control: ControlThread
  readonly #sentFrames: SentFrames
  readonly #networks = new Map<Forwarder, NetworkPath>()
  /** Ports that wait for their hook. */
  readonly #waiting = new Map<number, { readonly port: FastPort; readonly forwarder: Forwarder }>()
  /** Why ports are not attached. */
  readonly #reasons = new Map<number, string>()
  #nextTick = 0
  /** Ticks in a row before which no program has run. */
  #silentTicks = 0
  #trouble: string | null = null

  /** The kernel is closed with it. Throws what that says. */
  constructor(counters: CounterTable, kernel: Kernel, control: ControlThread) {
    this.#counters = counters
    this.#control = control
    this.#kernel = kernel
    this.#shared = new Shared(kernel)
    this.verdicts = new Verdicts(kernel.verdicts)
    try {
      this.#sentFrames = new SentFrames(kernel)
      this.#barrier = new Barrier(this.#shared)
    } catch (error) {
      kernel.close()
      throw error
    }
  }

  addNetwork(forwarder: Forwarder): void {
    this.#networks.set(forwarder, new NetworkPath(forwarder, this))
  }

  removeNetwork(forwarder: Forwarder): void {
    this.#networks.get(forwarder)?.close()
    this.#networks.delete(forwarder)
  }

  /** A port that receives already, and whose device the host's stack does not see. */
  addPort(port: FastPort, forwarder: Forwarder): void {
    const { index } = port
    const network = this.#networks.get(forwarder)
    const state = forwarder.byIndex[index]
    if (network === undefined || state === undefined || this.attached[index] !== undefined) return
    if (state.spec.kind === 'uplink') {
      this.#reasons.set(index, 'it is an uplink')
      return
    }
    this.#waiting.set(index, { port, forwarder })
    this.#reasons.set(index, 'its ingress filter is not in place yet')
    this.#control.ask(port)
  }

  /** See HookState. */
  hooked({ index, ifindex, why, guests, driver }: HookState): void {
    const attached = this.attached[index]
    if (attached !== undefined && attached.port.ifindex === ifindex) {
      if (why === null) attached.mended()
      if (guests !== null && attached.guests === null) {
        attached.stop()
        this.barrier()
        attached.sync()
      }
      attached.guests = guests
      return
    }
    const waiting = this.#waiting.get(index)
    if (waiting === undefined || waiting.port.ifindex !== ifindex) return
    if (why !== null) {
      this.#reasons.set(index, why)
      return
    }
    this.#waiting.delete(index)
    this.#attach(waiting.port, waiting.forwarder, guests, driver === 'veth')
  }

  #attach(port: FastPort, forwarder: Forwarder, guests: string | null, isVeth: boolean): void {
    const { index } = port
    const network = this.#networks.get(forwarder)
    const state = forwarder.byIndex[index]
    if (network === undefined || state === undefined) return
    try {
      const attached = new Attached(port, state, {
        shared: this.#shared,
        counters: this.#counters,
        sentFrames: this.#sentFrames,
      })
      attached.guests = guests
      this.attached[index] = attached
      this.#sentFrames.add(attached.buckets, isVeth)
      this.#reasons.delete(index)
      network.add(attached)
    } catch (thrown) {
      this.#reasons.set(index, thrown instanceof Error ? thrown.message : asSnapswitchError(thrown).message)
    }
  }

  /**
   * Its sockets and its device are as without all this when this returns. What goes between others goes on, unless it
   * leads to other switches, on which more may depend.
   */
  removePort(index: number, forwarder: Forwarder): void {
    this.#reasons.delete(index)
    this.#waiting.delete(index)
    const port = this.attached[index]
    const network = this.#networks.get(forwarder)
    const kind = forwarder.byIndex[index]?.spec.kind
    if (kind === 'trunk' || kind === 'uplink') network?.slow()
    if (port === undefined) return
    network?.remove(port)
    port.detach()
    this.#sentFrames.remove(port.buckets)
    this.attached[index] = undefined
  }

  /** See FastPath. */
  slow(forwarder: Forwarder): void {
    this.#networks.get(forwarder)?.slow()
  }

  get processors(): number {
    return this.#shared.processors
  }

  /** See Barrier. */
  get unsure(): number {
    return this.#barrier.unsure
  }

  barrier(): void {
    if (this.#barrier.wait()) return
    // It could, when this began. What is under way comes within milliseconds; nothing is fast from now on.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100)
    this.#trouble ??= 'the kernel does not tell when frames are through'
  }

  /** When all that the daemon has sent has been flushed. Returns in how many milliseconds at most it wants the next. */
  tick(now: number): number {
    for (const network of this.#networks.values()) network.go()
    if (now < this.#nextTick) return TICK_MS
    this.#nextTick = now + TICK_MS
    const seconds = Math.floor(now / 1000)
    const isNewSecond = seconds !== this.seconds
    this.seconds = seconds
    this.#sentFrames.look()
    this.#silentTicks = this.#barrier.haveRun() ? 0 : this.#silentTicks + 1
    // What a program counted that was at work at the last tick is in the counters after this one.
    const isSilent = this.#silentTicks > 1
    if (isSilent && !isNewSecond && this.#isSteady) return SILENT_TICK_MS
    for (const port of this.attached) {
      if (port === undefined) continue
      port.now = seconds
      if (!isSilent) {
        port.sync()
        port.rushes()
        if (port.hasBecomeBusy(BUSY_FRAMES)) this.#control.busy(port.port)
      }
      if (isNewSecond) this.#everySecond(port)
    }
    if (this.#trouble === null)
      for (const network of this.#networks.values()) network.tick(now, isNewSecond, this.#settle)
    else for (const network of this.#networks.values()) network.slow()
    if (isNewSecond || !this.verdicts.isAtEnd) this.verdicts.sweep(this.#keeps)
    if (this.#trouble !== null || !this.#isSteady || !this.verdicts.isAtEnd) return TICK_MS
    return isSilent ? SILENT_TICK_MS : STEADY_TICK_MS
  }

  /** Whatever is to be fast is. */
  get #isSteady(): boolean {
    for (const network of this.#networks.values()) if (!network.isFast) return false
    return true
  }

  readonly #keeps = (verdict: SeenVerdict): boolean => {
    const port = this.attached[verdict.from]
    for (const network of this.#networks.values())
      if (port !== undefined && network.has(port)) return network.keeps(verdict)
    return false
  }

  /** Counters are up to date when this returns. */
  count(forwarder: Forwarder): void {
    for (const { spec } of forwarder.ports) this.attached[spec.index]?.sync()
  }

  /** The same. */
  paths(forwarder: Forwarder): PortPath[] {
    const network = this.#networks.get(forwarder)
    return forwarder.ports.flatMap(({ spec: { index }, peer }) => {
      if (peer !== null) return []
      const port = this.attached[index]
      port?.sync()
      const why = port === undefined || network === undefined ? null : network.whyNot(port)
      return [{ index, why: port === undefined ? (this.#reasons.get(index) ?? 'off') : (this.#trouble ?? why) }]
    })
  }

  list(forwarder: Forwarder): VerdictRow[] {
    const network = this.#networks.get(forwarder)
    return this.verdicts.list().flatMap((one) => {
      const port = this.attached[one.from]
      if (network === undefined || port === undefined || !network.has(port) || !network.isValid(one)) return []
      const source = formatMacWords(one.fromHigh, one.fromLow)
      const destination = formatMacWords(one.toHigh, one.toLow)
      const idleSeconds = Math.max(0, this.seconds - one.seen)
      return [{ from: one.from, to: one.to, source, destination, vlan: one.vlan, idleSeconds }]
    })
  }

  close(): void {
    try {
      for (const [forwarder, network] of this.#networks) {
        network.close()
        for (const { index } of forwarder.ports)
          if (this.attached[index] !== undefined) this.removePort(index, forwarder)
      }
    } finally {
      this.#networks.clear()
      this.#kernel.close()
    }
  }

  readonly #settle = (port: Attached): void => {
    const isEmpty = () => port.port.isEmpty && port.buckets.isIdle
    if (port.buckets.settle(isEmpty, () => this.#barrier.programsEnd(SETTLE_LIMIT_MS))) port.unsettled = false
  }

  #everySecond(port: Attached): void {
    port.voids = 0
    port.beginSecond()
    if (port.missed > 0 && port.guests === null) {
      port.stop()
      this.#control.ask(port.port)
    }
    // In turn: a change is told by `deviceChanged`, too, where somebody watches the devices.
    if ((port.port.index + this.seconds) % LOOK_SECONDS === 0) this.#look(port)
  }

  /** The MTU of a port's device may be another one. */
  deviceChanged(index: number): void {
    const port = this.attached[index]
    if (port !== undefined) this.#look(port)
  }

  #look(port: Attached): void {
    if (!port.look() || !port.isFast) return
    port.outdate()
    this.barrier()
    port.sync()
  }
}
