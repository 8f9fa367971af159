// Which ports the loop asks for frames, by a look at memory each. Where there are many ports, most are silent most of
// the time: one epoll descriptor stands for these, so a round costs as much as the ports that have traffic.

import { asideEvents, Events } from '../../src/linux/epoll.js'
import { MAX_PORTS } from '../forwarding/counters.js'
import type { Port } from './port/port.js'

/** So many are always asked: looking at their memory costs less than epoll does for each frame that wakes one. */
const ALWAYS = 16
/** A port that has brought nothing for so long is silent. */
const SILENCE_MS = 200

export class ActivePorts {
  /** These are asked. */
  readonly ports: Port[] = []
  /** By index: a port that is not asked. */
  readonly #silent: (Port | undefined)[] = []
  readonly #all: (Port | undefined)[] = []
  readonly #lastFrame = new Float64Array(MAX_PORTS)
  readonly #events = new Events()
  readonly #changed: () => void
  readonly #always: number

  /** `changed`: `ports` is another list. Throws SYSCALL. */
  constructor(changed: () => void, always = ALWAYS) {
    this.#changed = changed
    this.#always = always
  }

  /** Readable when a silent port has something. */
  get fd(): number {
    return this.#events.fd
  }

  add(port: Port, now: number): void {
    this.#all[port.index] = port
    this.#lastFrame[port.index] = now
    this.ports.push(port)
    this.#changed()
  }

  remove(port: Port): void {
    this.activate(port, 0)
    this.#all[port.index] = undefined
    this.ports.splice(this.ports.indexOf(port), 1)
    this.#changed()
  }

  /** It is asked from now on. */
  activate(port: Port, now: number): void {
    if (this.#silent[port.index] === undefined) return
    this.#silent[port.index] = undefined
    this.#events.remove(port.fd)
    this.#lastFrame[port.index] = now
    this.ports.push(port)
    this.#changed()
  }

  brought(port: Port, now: number): void {
    this.#lastFrame[port.index] = now
  }

  /** Those that have been silent for long are not asked any more. */
  rest(now: number): void {
    const { ports } = this
    if (ports.length <= this.#always) return
    let more = ports.length - this.#always
    let kept = 0
    for (const port of ports) {
      const rests = more > 0 && port.fd >= 0 && now - this.#lastFrame[port.index] >= SILENCE_MS
      if (!rests || !this.#watch(port)) ports[kept++] = port
      else more--
    }
    if (kept === ports.length) return
    ports.length = kept
    this.#changed()
  }

  #watch(port: Port): boolean {
    try {
      this.#events.add(port.fd, port.index)
    } catch {
      // There are too many watches for this user: it goes on to be asked.
      return false
    }
    this.#silent[port.index] = port
    return true
  }

  /** Silent ones that have something are asked again. `failed` is told of those whose devices have failed. */
  wake(now: number, failed = (port: Port) => port.failed()): void {
    const count = this.#events.look()
    for (let i = 0; i < count; i++) {
      const port = this.#silent[this.#events.dataOf(i)]
      if (port === undefined) continue
      if (this.#events.hasFailed(i)) failed(port)
      this.activate(port, now)
    }
  }

  /** The same for what lies beside their rings. */
  wakeAside(now: number): void {
    const events = asideEvents()
    const count = events.look()
    for (let i = 0; i < count; i++) {
      const port = this.#all[events.dataOf(i)]
      if (port === undefined) continue
      port.woken()
      this.activate(port, now)
    }
  }

  close(): void {
    this.#events.close()
  }
}
