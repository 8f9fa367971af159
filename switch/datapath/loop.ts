// The datapath's loop: receive a batch -> forward -> flush, to completion, for as long as the daemon lives. Blocks in
// poll, never in the event loop; commands are drained between batches.

import type { Frame } from '../../src/frame/frame.js'
import { closeAsideEvents } from '../../src/linux/epoll.js'
import { closeRingFilters } from '../../src/linux/ring-filters.js'
import { nowMs } from '../../src/runtime/clock.js'
import { ActivePorts } from './active-ports.js'
import type { Forwarding } from './core.js'
import { eachOf } from './each-of.js'
import type { PlayInput } from './play-input.js'
import { MOST_PLAYS, PollSet } from './poll-set.js'
import type { FrameSink, Port } from './port/port.js'
import { closeSpills, spillsInUse } from './port/spill.js'
import type { Polling, WorkerInput } from './protocol.js'
import { Unsent } from './unsent.js'

/** Milliseconds that a command waits at most while frames flow. */
const LOOK_INTERVAL_MS = 0.05
/** Bound of a drain: a paused VM sends nothing, so what is queued is at most a socket buffer full. */
export const DRAIN_BATCHES = 4096
const HOUSEKEEPING_INTERVAL_MS = 1000
/** Ports with long frames in hand at a time. */
const MOST_SPILLS = 4
export const TICK_INTERVAL_MS = 100
/** While nothing happens here, and nothing is to happen. */
const CALM_INTERVAL_MS = 500
/** Ports that housekeeping sees at a tick. */
const KEPT_AT_ONCE = 20
export const TICK_INTERVAL_OPEN = 5

export class DatapathLoop implements FrameSink {
  readonly unsent = new Unsent()
  #polling: Polling
  /** Performs the commands that wait. */
  readonly #drainCommands: () => void
  readonly #unbound: (port: Port) => void
  readonly #failed: (port: Port) => void
  readonly #tellNews: () => void
  readonly #ticked: (now: number) => number
  readonly #forwarders: Forwarding[] = []
  readonly #ports: Port[] = []
  readonly #plays: (PlayInput | null)[] = new Array<PlayInput | null>(MOST_PLAYS).fill(null)
  readonly #forwarderOf: Forwarding[] = []
  readonly #active: ActivePorts
  readonly #pollSet: PollSet
  #running = true
  /** Of `#ports`: the one that housekeeping has seen last, and when it sees the next. */
  #nextKept = 0
  #nextKeeping = 0
  #nextTick = 0
  /** Frames that the last look at the plays has brought. */
  #played = 0

  /**
   * `unbound` is told of a port whose device has left it, `failed` of one whose device has gone down or away;
   * `tellNews` that the control thread has something to look at; `ticked` that time has passed, while nothing is in
   * hand: it answers in how many milliseconds it wants to hear that again.
   */
  constructor(
    input: WorkerInput,
    drainCommands: () => void,
    unbound: (port: Port) => void,
    failed: (port: Port) => void,
    tellNews: () => void,
    ticked: (now: number) => number,
  ) {
    this.#polling = input
    this.#drainCommands = drainCommands
    this.#unbound = unbound
    this.#failed = failed
    this.#tellNews = tellNews
    this.#ticked = ticked
    this.#active = new ActivePorts(() => this.#pollSet.watch(this.#active.ports))
    this.#pollSet = new PollSet(input, this.#active.fd)
  }

  /** How it waits for frames from now on. */
  setPolling(polling: Polling): void {
    this.#polling = polling
  }

  addForwarder(forwarder: Forwarding): void {
    this.#forwarders.push(forwarder)
  }

  removeForwarder(forwarder: Forwarding): void {
    this.#forwarders.splice(this.#forwarders.indexOf(forwarder), 1)
  }

  /** What `before` was handed, `after` is from now on. */
  replace(before: Forwarding, after: Forwarding): void {
    for (const all of [this.#forwarders, this.#forwarderOf])
      for (const [at, one] of all.entries()) if (one === before) all[at] = after
  }

  addPort(index: number, port: Port, forwarder: Forwarding): void {
    this.#forwarderOf[index] = forwarder
    this.#ports.push(port)
    this.#active.add(port, nowMs())
  }

  /** False: as many as there may be are under way. */
  addPlay(play: PlayInput): boolean {
    const at = this.#plays.indexOf(null)
    if (at < 0) return false
    this.#plays[at] = play
    this.#pollSet.watchPlay(at, play.fd)
    return true
  }

  removePlay(play: PlayInput): void {
    const at = this.#plays.indexOf(play)
    if (at < 0) return
    this.#plays[at] = null
    this.#pollSet.watchPlay(at, null)
    play.close()
  }

  removePort(port: Port): void {
    for (const play of this.#plays) play?.forget(port)
    this.flushAll()
    this.unsent.forget()
    this.#ports.splice(this.#ports.indexOf(port), 1)
    this.#active.remove(port)
    port.close()
  }

  stop(): void {
    this.#running = false
  }

  /** Reads all that waits in a port's socket. */
  drain(port: Port | undefined): void {
    if (port === undefined) return
    this.#active.activate(port, nowMs())
    for (let batch = 0; batch < DRAIN_BATCHES && port.receive(this, nowMs()) > 0; batch++) this.flushAll()
  }

  /** Frames that were forwarded go out, and what they lay in is free again. */
  flushAll(): void {
    this.unsent.flush()
    const { ports } = this.#active
    for (let i = 0; i < ports.length; i++) ports[i].release()
  }

  /** For the ports: a frame has come in. */
  receive(port: number, frame: Frame, now: number): void {
    this.#forwarderOf[port].receive(port, frame, now)
  }

  /**
   * Until `stop`, or until something fails that must not: then the ports are closed all the same, for a new worker to
   * open. `before`: what must have ended before they are closed.
   */
  run(before: () => void): void {
    // A mapped ring keeps its socket open, bound and promiscuous, beside the new worker's.
    eachOf(
      () => this.#loop(),
      before,
      () => eachOf(...this.#ports.map((port) => () => port.close())),
      () => eachOf(...this.#plays.map((play) => () => play?.close())),
      closeRingFilters,
      closeSpills,
      closeAsideEvents,
      () => this.#active.close(),
    )
  }

  /**
   * The ports are asked for frames directly: their rings are memory, and poll takes the very locks that the kernel
   * needs to fill them. poll is for waiting, and for what memory does not tell: commands, silent ports that have
   * frames, and devices that fail.
   */
  #loop(): void {
    let nextLook = 0
    let nextPortsLook = 0
    let lastFrame = 0
    while (this.#running) {
      const now = nowMs()
      const received = this.#receiveAll(now) + this.#played
      this.#played = 0
      if (received > 0) {
        lastFrame = now
        this.#tickWithin(TICK_INTERVAL_MS, now)
      }
      const { poll, spinUs } = this.#polling
      const mayWait = received === 0 && (poll === 'sleep' || (poll === 'adaptive' && (now - lastFrame) * 1000 > spinUs))
      const isTick = now >= this.#nextTick
      const waits = mayWait && !isTick
      // At the end of a wait they have just been looked at.
      const looksAtPorts = waits || (isTick && now >= nextPortsLook)
      if (looksAtPorts || now >= nextLook) {
        const timeout = waits ? Math.ceil(this.#nextTick - now) : 0
        this.#look(timeout, looksAtPorts)
        nextLook = nowMs() + LOOK_INTERVAL_MS
        if (looksAtPorts) nextPortsLook = nextLook
      }
      if (!isTick) continue
      this.#pollSet.watchNews(true)
      this.#nextTick = now + this.#tick(now)
      this.#active.rest(now)
      this.#housekeeping(now)
    }
  }

  /** What has happened may be followed by what a tick sees to. */
  #tickWithin(ms: number, now: number): void {
    this.#nextTick = Math.min(this.#nextTick, now + ms)
  }

  /** Sees to each port once a second, to a few at a time: where there are hundreds, frames would wait for it. */
  #housekeeping(now: number): void {
    const ports = this.#ports
    // After a long batch, each once and no more.
    this.#nextKeeping = Math.max(this.#nextKeeping, now - HOUSEKEEPING_INTERVAL_MS)
    while (ports.length > 0 && this.#nextKeeping <= now) {
      this.#nextKeeping += HOUSEKEEPING_INTERVAL_MS / ports.length
      this.#nextKept = (this.#nextKept + 1) % ports.length
      const port = ports[this.#nextKept]
      port.housekeeping()
      // The kernel reports that a device goes down, and not that it leaves after that.
      if (!port.isBound()) this.#unbound(port)
    }
  }

  /**
   * Waits up to `timeout` milliseconds for frames, commands or failures, and sees to the latter two. `ports`: looks at
   * the active ports, too.
   */
  #look(timeout: number, ports: boolean): void {
    if (this.#pollSet.wait(timeout, ports) === 0) return
    this.#tickWithin(TICK_INTERVAL_MS, nowMs())
    // Not again before the next tick: there may be very many.
    if (this.#pollSet.takeNews()) {
      this.#pollSet.watchNews(false)
      this.#tellNews()
    }
    const active = this.#active.ports
    for (let i = 0; i < active.length; i++) if (this.#pollSet.hasFailed(i)) this.#deviceFailed(active[i])
    for (let i = 0; i < MOST_PLAYS; i++) if (this.#pollSet.isPlayReady(i)) this.#play(i)
    if (this.#pollSet.isAsideReady) this.#active.wakeAside(nowMs())
    if (this.#pollSet.isSilentReady) this.#active.wake(nowMs(), this.#deviceFailed)
    if (!this.#pollSet.takeWake()) return
    this.#drainCommands()
    // A snapshot may have begun.
    this.#tickWithin(TICK_INTERVAL_OPEN, nowMs())
  }

  readonly #deviceFailed = (port: Port) => {
    this.#failed(port)
    port.failed()
  }

  /** At most one batch, as of a port. */
  #play(i: number): void {
    const play = this.#plays[i]
    if (play === null) return
    this.#played += play.receive(this, nowMs())
    this.flushAll()
    if (play.isOver) this.#pollSet.watchPlay(i, null)
  }

  /** Returns milliseconds until the next tick is due. */
  #tick(now: number): number {
    let interval = CALM_INTERVAL_MS
    for (const forwarder of this.#forwarders) {
      forwarder.tick(now)
      if (forwarder.snapshots.openEpoch !== null) interval = TICK_INTERVAL_OPEN
      else if (!forwarder.isCalm) interval = Math.min(interval, TICK_INTERVAL_MS)
    }
    for (const port of this.#ports) {
      port.tick(now)
      if (!port.isCalm) interval = Math.min(interval, TICK_INTERVAL_MS)
    }
    this.flushAll()
    const most = (KEPT_AT_ONCE * HOUSEKEEPING_INTERVAL_MS) / this.#ports.length
    return Math.min(interval, Math.max(TICK_INTERVAL_MS, Math.min(this.#ticked(now), most)))
  }

  /** At most one batch of each port. */
  #receiveAll(now: number): number {
    let received = 0
    const { ports } = this.#active
    for (let i = 0; i < ports.length; i++) {
      const port = ports[i]
      const brought = port.receive(this, now)
      if (brought === 0) continue
      received += brought
      this.#active.brought(port, now)
      // Each may have megabytes of long frames in hand.
      if (spillsInUse() >= MOST_SPILLS) this.flushAll()
    }
    if (received > 0) this.flushAll()
    return received
  }
}
