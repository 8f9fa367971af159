// The datapath's loop: receive a batch -> forward -> flush, to completion, for as long as the daemon lives. Blocks in
// poll, never in the event loop; commands are drained between batches.

import type { Frame } from '../../src/frame/frame.js'
import { closeAsideEvents } from '../../src/linux/epoll.js'
import { closeRingFilters } from '../../src/linux/ring-filters.js'
import { nowMs } from '../../src/runtime/clock.js'
import type { Forwarding } from './core.js'
import type { PlayInput } from './play-input.js'
import { MOST_PLAYS, PollSet } from './poll-set.js'
import type { FrameSink, Port } from './port/port.js'
import type { Polling, WorkerInput } from './protocol.js'

/** Milliseconds that a command waits at most while frames flow. */
const LOOK_INTERVAL_MS = 0.05
/** Bound of a drain: a paused VM sends nothing, so what is queued is at most a socket buffer full. */
export const DRAIN_BATCHES = 4096
const HOUSEKEEPING_INTERVAL_MS = 1000
export const TICK_INTERVAL_MS = 100
export const TICK_INTERVAL_OPEN = 5

export class DatapathLoop implements FrameSink {
  #polling: Polling
  /** Performs the commands that wait. */
  readonly #drainCommands: () => void
  readonly #unbound: (port: Port) => void
  readonly #ticked: (now: number) => void
  readonly #forwarders: Forwarding[] = []
  readonly #ports: Port[] = []
  readonly #plays: (PlayInput | null)[] = new Array<PlayInput | null>(MOST_PLAYS).fill(null)
  readonly #forwarderOf: Forwarding[] = []
  readonly #pollSet: PollSet
  #running = true
  /** Frames that the last look at the plays has brought. */
  #played = 0

  /** `unbound` is told of a port whose device has left it; `ticked` that time has passed, while nothing is in hand. */
  constructor(
    input: WorkerInput,
    drainCommands: () => void,
    unbound: (port: Port) => void,
    ticked: (now: number) => void,
  ) {
    this.#polling = input
    this.#drainCommands = drainCommands
    this.#unbound = unbound
    this.#ticked = ticked
    this.#pollSet = new PollSet(input.wakeFd)
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
    this.#pollSet.watch(this.#ports)
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
    this.#ports.splice(this.#ports.indexOf(port), 1)
    this.#pollSet.watch(this.#ports)
    port.close()
  }

  stop(): void {
    this.#running = false
  }

  /** Reads all that waits in a port's socket. */
  drain(port: Port | undefined): void {
    if (port === undefined) return
    for (let batch = 0; batch < DRAIN_BATCHES && port.receive(this, nowMs()) > 0; batch++) this.flushAll()
  }

  /** Frames that were forwarded go out, and what they lay in is free again. */
  flushAll(): void {
    const ports = this.#ports
    for (let i = 0; i < ports.length; i++) ports[i].flush()
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
    try {
      this.#loop()
    } finally {
      before()
      for (const port of this.#ports) port.close()
      for (const play of this.#plays) play?.close()
      closeRingFilters()
      closeAsideEvents()
    }
  }

  /**
   * The ports are asked for frames directly: their rings are memory, and poll takes the very locks that the kernel
   * needs to fill them. poll is for waiting, and for what memory does not tell: commands, and devices that fail.
   */
  #loop(): void {
    let nextTick = 0
    let nextHousekeeping = 0
    let nextLook = 0
    let lastFrame = 0
    while (this.#running) {
      const now = nowMs()
      const received = this.#receiveAll(now) + this.#played
      this.#played = 0
      if (received > 0) lastFrame = now
      const { poll, spinUs } = this.#polling
      const mayWait = received === 0 && (poll === 'sleep' || (poll === 'adaptive' && (now - lastFrame) * 1000 > spinUs))
      if (mayWait || now >= nextLook) {
        this.#look(mayWait ? Math.ceil(Math.max(0, Math.min(nextTick - now, TICK_INTERVAL_MS))) : 0)
        nextLook = nowMs() + LOOK_INTERVAL_MS
      }
      if (now < nextTick) continue
      nextTick = now + this.#tick(now)
      if (now < nextHousekeeping) continue
      nextHousekeeping = now + HOUSEKEEPING_INTERVAL_MS
      for (const port of this.#ports) {
        port.housekeeping()
        // The kernel reports that a device goes down, and not that it leaves after that.
        if (!port.isBound()) this.#unbound(port)
      }
    }
  }

  /** Waits up to `timeout` milliseconds for frames, commands or failures, and sees to the latter two. */
  #look(timeout: number): void {
    if (this.#pollSet.wait(timeout) === 0) return
    for (let i = 0; i < this.#ports.length; i++) if (this.#pollSet.hasFailed(i)) this.#ports[i].failed()
    for (let i = 0; i < MOST_PLAYS; i++) if (this.#pollSet.isPlayReady(i)) this.#play(i)
    if (this.#pollSet.isAsideReady) for (const port of this.#ports) port.woken()
    if (this.#pollSet.takeWake()) this.#drainCommands()
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
    let interval = TICK_INTERVAL_MS
    for (const forwarder of this.#forwarders) {
      forwarder.tick(now)
      if (forwarder.snapshots.openEpoch !== null) interval = TICK_INTERVAL_OPEN
    }
    for (const port of this.#ports) port.tick(now)
    this.flushAll()
    this.#ticked(now)
    return interval
  }

  /** At most one batch of each port. */
  #receiveAll(now: number): number {
    let received = 0
    for (let i = 0; i < this.#ports.length; i++) received += this.#ports[i].receive(this, now)
    if (received > 0) this.flushAll()
    return received
  }
}
