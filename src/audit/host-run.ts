// One host's recording, walked through event by event: every rule that can be checked where it was recorded. What a
// switch does with a frame it does before it takes the next one, so a frame's events follow its arrival at once, unless
// it was held.

import type { EventTable } from '../trace/event-reader.js'
import { Event } from '../trace/events.js'
import type { Book } from './book.js'
import { checkEnd, checkMachines } from './host-end.js'
import { PortRun } from './port-run.js'

/** Where an address lives; what a frame to it must reach. */
export interface Home {
  readonly host: string
  readonly port: string
}

const WORLD = 1099511627776 // 2^40: divides the first octet off an address

export class HostRun {
  readonly table: EventTable
  /** The snapshot's epoch. */
  readonly cut: number
  readonly ports: PortRun[]
  /** By port: numbers of the events of what went to, and came from, a trunk. */
  readonly toTrunk: number[][]
  readonly fromTrunk: number[][]
  /** Frames dropped, by port and reason. */
  readonly drops = new Map<string, number>()
  begin = -1
  closed = -1
  readonly #book: Book
  readonly #homes: ReadonlyMap<number, Home>
  readonly #portNumbers: ReadonlyMap<string, number>
  /** The frame whose way is being followed, and the ports it has reached. */
  #current = -1
  readonly #reached: number[] = []
  #refused = false

  constructor(table: EventTable, cut: number, homes: ReadonlyMap<number, Home>, book: Book) {
    this.table = table
    this.cut = cut
    this.#homes = homes
    this.#book = book
    this.#portNumbers = new Map(table.ports.map((port, number) => [port.name, number]))
    this.ports = table.ports.map(() => new PortRun())
    this.toTrunk = table.ports.map(() => [])
    this.fromTrunk = table.ports.map(() => [])
  }

  *walk(): Generator<void, void, undefined> {
    const { table } = this
    const book = this.#book
    for (let at = 0; at < table.length; at++) {
      this.#event(at)
      if (at % 8192 === 0) yield
    }
    book.examined('events', table.length)
    // A recording that ran out of room breaks off anywhere.
    if (table.overflow > 0) return
    this.#frameIsDone()
    checkEnd(this, book)
    checkMachines(this, book)
  }

  #event(at: number): void {
    const { table } = this
    const book = this.#book
    const port = table.port[at]
    switch (table.kind[at]) {
      case Event.sent:
        this.#frameIsDone()
        this.#current = at
        book.examined('no orphan')
        if (this.ports[port].flip >= 0 && this.ports[port].firstSent < 0) this.ports[port].firstSent = at
        if (table.color[at] !== this.ports[port].epoch || table.epoch[at] !== this.ports[port].epoch) {
          this.#fault(
            'no orphan',
            at,
            `sent with color ${table.color[at]} by a port at epoch ${this.ports[port].epoch}`,
          )
        }
        return
      case Event['from-trunk']:
        this.#frameIsDone()
        this.#current = at
        this.fromTrunk[port].push(at)
        return
      case Event.delivered:
        this.#delivered(at, port)
        return
      case Event['to-trunk']:
        if (this.#ofCurrent(at)) this.toTrunk[port].push(at)
        return
      case Event.held:
        if (this.#ofCurrent(at)) this.ports[port].held.push(at)
        return
      case Event.dropped:
        this.#dropped(at, port)
        return
      case Event.straggler:
        this.ports[port].stragglers++
        return
      case Event.recorded:
        this.ports[port].recorded++
        return
      case Event.residue:
        this.ports[port].residue.push(at)
        return
      default:
        this.#frameIsDone()
        this.#current = -1
        this.#mark(at, port)
    }
  }

  #mark(at: number, port: number): void {
    const { table } = this
    const run = port < 0 ? null : this.ports[port]
    switch (table.kind[at]) {
      case Event.state:
        run!.epoch = table.epoch[at]
        if (run!.epoch >= this.cut) this.#fault('no orphan', at, `at epoch ${run!.epoch} before the cut ${this.cut}`)
        return
      case Event['gate-closed']:
        run!.closed = true
        return
      case Event.flip:
        this.#flip(at, port)
        return
      case Event['gate-opened']:
        run!.closed = false
        return
      case Event.begin:
        if (table.epoch[at] !== this.cut) this.#fault('events', at, `begins epoch ${table.epoch[at]}, not ${this.cut}`)
        this.begin = at
        return
      case Event.closed:
        this.closed = at
        this.ports.forEach((one, number) => {
          if (table.ports[number].kind !== 'member' || one.epoch < 0) return
          if (one.closed || one.flip < 0) {
            const what = one.closed ? 'its gate is closed' : 'it has made no cut'
            this.#fault('termination', at, `channels are closed while of port ${table.ports[number].name} ${what}`)
          }
        })
    }
  }

  #flip(at: number, port: number): void {
    const { table } = this
    const run = this.ports[port]
    if (!run.closed) this.#fault('no orphan', at, 'the port cuts while its gate is open')
    if (run.flip >= 0) this.#fault('no orphan', at, 'the port cuts a second time')
    if (table.epoch[at] !== this.cut || run.epoch >= this.cut) {
      this.#fault(
        'no orphan',
        at,
        `the port goes from epoch ${run.epoch} to ${table.epoch[at]}, the cut is ${this.cut}`,
      )
    }
    run.epoch = table.epoch[at]
    run.flip = at
    // What lay unread is what was delivered last.
    const last = run.residue.length === 0 ? [] : run.before.slice(-run.residue.length)
    run.residue.forEach((residue, i) => {
      const delivered = last[i]
      if (delivered === undefined || table.identity[delivered] !== table.identity[residue]) {
        this.#fault('channel state', residue, 'residue that is not what the port was given last')
      }
    })
  }

  #delivered(at: number, port: number): void {
    const { table } = this
    const book = this.#book
    const run = this.ports[port]
    const color = table.color[at]
    const arrival = table.cause[at] >= 0 ? table.cause[at] : this.#release(at, port)
    if (table.cause[at] >= 0 && !this.#ofCurrent(at)) return
    book.examined('no orphan')
    book.examined('undisturbed run')
    if (table.epoch[at] !== run.epoch) {
      this.#fault('events', at, `says epoch ${table.epoch[at]}, the port is at ${run.epoch}`)
    }
    if (run.closed) this.#fault('no orphan', at, 'delivered through a closed gate')
    if (color > run.epoch) {
      this.#fault('no orphan', at, `sent after its sender’s cut (color ${color}), received before (epoch ${run.epoch})`)
    }
    if (run.flip < 0) run.before.push(at)
    else if (color < this.cut) run.inTransit.push(at)
    if (arrival >= 0) this.#inOrder(at, port, arrival)
  }

  #inOrder(at: number, port: number, arrival: number): void {
    const { table } = this
    const { lastOf } = this.ports[port]
    const from = table.port[arrival]
    let sources = lastOf.get(from)
    if (sources === undefined) {
      sources = new Map()
      lastOf.set(from, sources)
    }
    const source = table.source[at]
    const last = sources.get(source) ?? -1
    if (arrival <= last)
      this.#fault('undisturbed run', at, `the frame that came as #${arrival} is delivered after #${last}`)
    sources.set(source, Math.max(last, arrival))
  }

  /** A frame comes out of the hold queue; gives the number of its arrival. */
  #release(at: number, port: number): number {
    const { table } = this
    const run = this.ports[port]
    const found = run.held.findIndex((held) => table.identity[held] === table.identity[at])
    if (found < 0) {
      this.#fault('undisturbed run', at, 'delivered, but it neither came just now nor was it held: doubled or made up')
      return -1
    }
    const held = run.held[found]
    for (let i = 0; i < found; i++) {
      if (table.color[run.held[i]] > run.epoch) continue
      this.#fault('undisturbed run', at, `overtakes event #${run.held[i]}, which is still held`)
      break
    }
    if (table.color[held] !== table.color[at]) {
      this.#fault('no orphan', at, `held with color ${table.color[held]}, delivered with ${table.color[at]}`)
    }
    if (found === 0) run.held.shift()
    else run.held.splice(found, 1)
    return table.cause[held]
  }

  #dropped(at: number, port: number): void {
    const { table } = this
    const reason = table.reasons.get(at) ?? 'unknown'
    if (reason === 'record-overflow') {
      this.ports[port].overflow++
      return
    }
    const key = `at ${table.ports[port].name}: ${reason}`
    this.drops.set(key, (this.drops.get(key) ?? 0) + 1)
    if (table.cause[at] < 0) {
      this.#release(at, port)
      return
    }
    if (!this.#ofCurrent(at)) return
    if (port === table.port[this.#current]) this.#refused = true
  }

  /** Whether an event is of the frame that came in last, as it says; notes its port. */
  #ofCurrent(at: number): boolean {
    const { table } = this
    const current = this.#current
    const of = table.cause[at]
    if (of < 0 || of !== current) {
      this.#fault('events', at, of < 0 ? 'of no frame' : `of #${of}, while #${current} is on its way`)
      return false
    }
    if (table.identity[at] !== table.identity[of]) {
      this.#fault('undisturbed run', at, `not the frame that came in as #${of}`)
    } else if (table.color[at] !== table.color[of]) {
      this.#fault('no orphan', at, `its color is ${table.color[at]}, it came in as #${of} with ${table.color[of]}`)
    }
    if (this.#reached.includes(table.port[at])) this.#fault('undisturbed run', at, 'a second time to the same port')
    this.#reached.push(table.port[at])
    return true
  }

  /** The next one comes: the current frame must have reached whom it was for. */
  #frameIsDone(): void {
    if (this.#current >= 0 && !this.#refused) this.#checkReached(this.#current)
    this.#current = -1
    this.#refused = false
    this.#reached.length = 0
  }

  #checkReached(frame: number): void {
    const { table } = this
    const reached = this.#reached
    const destination = table.destination[frame]
    const from = table.port[frame]
    const isSent = table.kind[frame] === Event.sent
    if ((Math.floor(destination / WORLD) & 1) === 1) {
      this.ports.forEach((run, port) => {
        const { kind, name } = table.ports[port]
        const mustReach = kind === 'member' ? run.epoch >= 0 : isSent
        if (port !== from && mustReach && !reached.includes(port)) {
          this.#fault('undisturbed run', frame, `a frame to all that never reached ${name}`)
        }
      })
      return
    }
    const home = this.#homes.get(destination)
    if (home === undefined) return
    if (home.host === table.head.host) {
      const port = this.#portNumbers.get(home.port)
      if (port === undefined || port === from || reached.includes(port)) return
      this.#fault('undisturbed run', frame, `a frame to ${home.port} that never reached it`)
    } else if (isSent && !reached.some((port) => table.ports[port].kind === 'trunk')) {
      this.#fault('undisturbed run', frame, `a frame to ${home.port} on ${home.host} that never went there`)
    }
  }

  #fault(check: Parameters<Book['violatedBy']>[0], at: number, what: string): void {
    this.#book.violatedBy(check, this.table, at, what)
  }
}
