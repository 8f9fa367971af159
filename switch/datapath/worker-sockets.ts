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
  /** By port. */
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
    const sockets = await openPortSockets(device, this.#ports.size + this.#opening).finally(() => this.#opening--)
    this.#ports.set(index, sockets)
    return sockets
  }

  /** The worker has opened another one for the port. */
  addAside(index: number, aside: number): void {
    const sockets = this.#ports.get(index)
    if (sockets !== undefined) this.#ports.set(index, { ...sockets, aside })
  }

  close(index: number): void {
    const sockets = this.#ports.get(index)
    if (sockets === undefined) return
    this.#ports.delete(index)
    this.#closeAside(closePortSockets(sockets))
  }

  /** All of a worker that has ended, and what it had mapped with it; call the result to close them. */
  takeAll(): () => void {
    const ports = [...this.#ports.values()]
    const oversize = this.#oversize
    this.#ports.clear()
    this.#oversize = []
    return () => {
      for (const sockets of ports) this.#closeAside(closePortSockets(sockets))
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
