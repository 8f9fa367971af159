// Who looks on while frames are forwarded: recordings for the audit, captures, mirrors. A network has one observer, or
// none, which costs a test per frame and port; several are one that passes on.

import type { Frame } from '../../src/frame/frame.js'
import type { DropReason } from './counters.js'
import type { PortState } from './port-state.js'

/** Observers neither keep a frame nor change it: it is the forwarder's cursor, and moves on. */
export interface FrameObserver {
  /** What comes next happens at `now`, Unix time in milliseconds; `came` and `mark` say it, too. */
  at(now: number): void
  /** A frame has come in and has its color. What is said from here to `gone` is of this frame, or of copies of it. */
  came(port: PortState, frame: Frame, now: number): void
  /** It is the same frame, wherever it lies by now. */
  lies(frame: Frame): void
  /** All ports that it is for have been told of. */
  gone(): void
  /** The port that it came in by has turned it away. */
  refused(port: PortState, frame: Frame, reason: DropReason): void
  /** The same before it had a color, or was known to be a frame at all. `came` is not said of it. */
  unread(port: PortState, frame: Frame, reason: DropReason, now: number): void
  /** A port has taken it for its device. */
  left(port: PortState, frame: Frame): void
  /** It does not leave by this port, which it was for. */
  dropped(port: PortState, frame: Frame, reason: DropReason): void
  /** A flood does not reach this port. Nothing counts that. */
  leftOut(port: PortState, frame: Frame, reason: DropReason): void
  /** What became of a frame at its port on the way; `kind`: Event.held, recorded, straggler or residue. */
  note(kind: number, port: PortState, frame: Frame): void
  /** What happens to a port, or (`port` null) to the snapshot on this host; `kind`: an Event from `state` on. */
  mark(kind: number, port: PortState | null, epoch: number, now: number): void
}

export class Observers implements FrameObserver {
  readonly #all: readonly FrameObserver[]

  constructor(all: readonly FrameObserver[]) {
    this.#all = all
  }

  at(now: number): void {
    for (let i = 0; i < this.#all.length; i++) this.#all[i].at(now)
  }

  came(port: PortState, frame: Frame, now: number): void {
    for (let i = 0; i < this.#all.length; i++) this.#all[i].came(port, frame, now)
  }

  lies(frame: Frame): void {
    for (let i = 0; i < this.#all.length; i++) this.#all[i].lies(frame)
  }

  gone(): void {
    for (let i = 0; i < this.#all.length; i++) this.#all[i].gone()
  }

  refused(port: PortState, frame: Frame, reason: DropReason): void {
    for (let i = 0; i < this.#all.length; i++) this.#all[i].refused(port, frame, reason)
  }

  unread(port: PortState, frame: Frame, reason: DropReason, now: number): void {
    for (let i = 0; i < this.#all.length; i++) this.#all[i].unread(port, frame, reason, now)
  }

  left(port: PortState, frame: Frame): void {
    for (let i = 0; i < this.#all.length; i++) this.#all[i].left(port, frame)
  }

  dropped(port: PortState, frame: Frame, reason: DropReason): void {
    for (let i = 0; i < this.#all.length; i++) this.#all[i].dropped(port, frame, reason)
  }

  leftOut(port: PortState, frame: Frame, reason: DropReason): void {
    for (let i = 0; i < this.#all.length; i++) this.#all[i].leftOut(port, frame, reason)
  }

  note(kind: number, port: PortState, frame: Frame): void {
    for (let i = 0; i < this.#all.length; i++) this.#all[i].note(kind, port, frame)
  }

  mark(kind: number, port: PortState | null, epoch: number, now: number): void {
    for (let i = 0; i < this.#all.length; i++) this.#all[i].mark(kind, port, epoch, now)
  }
}
