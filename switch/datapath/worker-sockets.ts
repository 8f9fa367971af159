// The sockets that the worker uses. The control thread opens them, and closes them when the worker has said that it
// does not use them any more, or has ended.

import {
  closeAll,
  closePortSockets,
  openPortSockets,
  openSendRings,
  type PortDevice,
  type PortSockets,
} from '../../src/linux/port-sockets.js'
import { OVERSIZE_SHAPES } from './port/oversize-sender.js'

export class WorkerSockets {
  /** All that the worker may use, and for each of them what it has opened besides; -1: nothing. */
  readonly #open = new Map<PortSockets, number>()
  /** By port, until it is to be removed. */
  readonly #ports = new Map<number, PortSockets>()
  /** Ports whose sockets are being opened. */
  #opening = 0
  #oversize: readonly number[] = []
  /** Sockets that are being closed. */
  readonly #closing = new Set<Promise<void>>()

  /** Those that all ports share, for frames that no ring takes. */
  async openOversize(): Promise<readonly number[]> {
    this.#oversize = await openSendRings(OVERSIZE_SHAPES)
    return this.#oversize
  }

  /** Throws SYSCALL, PERMISSION, DEVICE_MISSING. */
  async open(index: number, device: PortDevice): Promise<PortSockets> {
    this.#opening++
    // When all that are opened together have been counted: the more there are, the smaller the rings.
    await Promise.resolve()
    const sockets = await openPortSockets(device, this.#open.size + this.#opening).finally(() => this.#opening--)
    this.#open.set(sockets, -1)
    this.#ports.set(index, sockets)
    return sockets
  }

  /** The worker has opened another one beside them. */
  addAside(sockets: PortSockets, aside: number): void {
    if (this.#open.has(sockets)) this.#open.set(sockets, aside)
  }

  /** The port is being removed: they are to be closed when the worker has let go of it. Null: it has none. */
  take(index: number): PortSockets | null {
    const sockets = this.#ports.get(index) ?? null
    this.#ports.delete(index)
    return sockets
  }

  /** Nothing when they are closed, or to be closed with all of a worker that has ended. */
  close(sockets: PortSockets): void {
    const aside = this.#open.get(sockets)
    if (aside === undefined) return
    this.#open.delete(sockets)
    this.#closeAside(closePortSockets({ ...sockets, aside }))
  }

  /** All of a worker that has ended, and what it had mapped with it; call the result to close them. */
  takeAll(): () => void {
    const open = [...this.#open]
    const oversize = this.#oversize
    this.#open.clear()
    this.#ports.clear()
    this.#oversize = []
    return () => {
      for (const [sockets, aside] of open) this.#closeAside(closePortSockets({ ...sockets, aside }))
      this.#closeAside(closeAll(oversize))
    }
  }

  /** Returns when those that are being closed are closed. */
  async closed(): Promise<void> {
    await Promise.all(this.#closing)
  }

  /** Nobody waits for it. */
  #closeAside(closed: Promise<void>): void {
    // A descriptor is gone whatever close says of it.
    const settled = closed.catch(() => undefined).finally(() => this.#closing.delete(settled))
    this.#closing.add(settled)
  }
}
