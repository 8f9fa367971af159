// The forwarding database: MAC address and VLAN -> port, open-addressed in typed arrays. Bounded: when it is full, or a
// port has learned its share, new addresses are not learned and their frames are flooded. Time is a coarse count of
// seconds. Static entries do not age; as in the kernel's bridge (br_fdb_update) they move with their address, unless
// they are sticky.

import type { StateExchange } from '../../src/epoch/state.js'

/** No entry: flood. */
export const NO_PORT = -1

const EMPTY = -1
/** What an entry is saved as: slot, key, port, when it was seen, whether it is sticky. */
const SAVED_WORDS = 6
/** Later than any time: the entry does not age. */
const STATIC = 0x7fffffff

export interface FdbOptions {
  /** Most entries; the table has at least twice as many slots. */
  readonly capacity: number
  /** Most addresses learned from one port. */
  readonly perPort: number
  /** Seconds without a frame after which an entry is gone. */
  readonly ageing: number
}

export const defaultFdbOptions: FdbOptions = { capacity: 16384, perPort: 4096, ageing: 300 }

export class Fdb {
  size = 0
  /** Addresses that were not learned because a bound was reached. */
  refused = 0
  /** An address that was pinned is gone from a port, or behind another one by now. */
  unpinned: ((port: number) => void) | null = null
  readonly #options: FdbOptions
  readonly #mask: number
  /** (upper 16 bits of the MAC << 12 | VLAN), or EMPTY. */
  readonly #keyHigh: Int32Array
  readonly #keyLow: Int32Array
  readonly #port: Int16Array
  /** When it was last seen, or STATIC. */
  readonly #seen: Int32Array
  readonly #sticky: Uint8Array
  readonly #pinned: Uint8Array
  readonly #learnedBy: Uint32Array
  #sweepAt = 0

  constructor(options: FdbOptions = defaultFdbOptions, ports = 1024) {
    this.#options = options
    let slots = 16
    while (slots < options.capacity * 2) slots *= 2
    this.#mask = slots - 1
    this.#keyHigh = new Int32Array(slots).fill(EMPTY)
    this.#keyLow = new Int32Array(slots)
    this.#port = new Int16Array(slots)
    this.#seen = new Int32Array(slots)
    this.#sticky = new Uint8Array(slots)
    this.#pinned = new Uint8Array(slots)
    this.#learnedBy = new Uint32Array(ports)
  }

  /** The port behind an address, or NO_PORT. `seconds` decides whether the entry is still fresh. */
  lookUp(macHigh: number, macLow: number, vlan: number, seconds: number): number {
    const high = (macHigh << 12) | vlan
    let slot = this.#hash(high, macLow)
    const keyHigh = this.#keyHigh
    while (keyHigh[slot] !== EMPTY) {
      if (this.#keyLow[slot] === macLow && keyHigh[slot] === high) {
        return seconds - this.#seen[slot] > this.#options.ageing ? NO_PORT : this.#port[slot]
      }
      slot = (slot + 1) & this.#mask
    }
    return NO_PORT
  }

  /** False when a bound is reached and the address was not learned; one that was another port's is forgotten then. */
  learn(macHigh: number, macLow: number, vlan: number, port: number, seconds: number): boolean {
    const high = (macHigh << 12) | vlan
    let slot = this.#hash(high, macLow)
    const keyHigh = this.#keyHigh
    while (keyHigh[slot] !== EMPTY) {
      if (this.#keyLow[slot] === macLow && keyHigh[slot] === high) {
        if (this.#seen[slot] !== STATIC) this.#seen[slot] = seconds
        return this.#port[slot] === port || this.#move(slot, port)
      }
      slot = (slot + 1) & this.#mask
    }
    if (this.size >= this.#options.capacity || this.#learnedBy[port] >= this.#options.perPort) {
      this.refused++
      return false
    }
    this.#fill(slot, high, macLow, port, seconds, 0)
    return true
  }

  /**
   * Whoever goes by where this address is now is told when it is there no more (`unpinned`). False: it is not behind
   * that port.
   */
  pin(macHigh: number, macLow: number, vlan: number, port: number): boolean {
    const slot = this.#find((macHigh << 12) | vlan, macLow)
    if (slot === NO_PORT || this.#port[slot] !== port) return false
    this.#pinned[slot] = 1
    return true
  }

  /** A frame that was not shown to `learn` has come from there: nothing when the address is elsewhere, or not known. */
  seenAt(macHigh: number, macLow: number, vlan: number, port: number, seconds: number): void {
    const slot = this.#find((macHigh << 12) | vlan, macLow)
    if (slot === NO_PORT || this.#port[slot] !== port) return
    if (this.#seen[slot] !== STATIC && this.#seen[slot] < seconds) this.#seen[slot] = seconds
  }

  /** Enters an address that is not learned and does not age. False when there is no room. */
  place(macHigh: number, macLow: number, vlan: number, port: number, sticky: boolean): boolean {
    const high = (macHigh << 12) | vlan
    const known = this.#find(high, macLow)
    if (known !== NO_PORT) this.#remove(known)
    if (this.size >= this.#options.capacity) {
      this.refused++
      return false
    }
    let slot = this.#hash(high, macLow)
    while (this.#keyHigh[slot] !== EMPTY) slot = (slot + 1) & this.#mask
    this.#fill(slot, high, macLow, port, STATIC, sticky ? 1 : 0)
    return true
  }

  /** Forgets an address, if `port` has it. */
  forget(macHigh: number, macLow: number, vlan: number, port: number): void {
    const slot = this.#find((macHigh << 12) | vlan, macLow)
    if (slot !== NO_PORT && this.#port[slot] === port) this.#remove(slot)
  }

  /** The slot of an entry, or NO_PORT. */
  #find(high: number, low: number): number {
    let slot = this.#hash(high, low)
    while (this.#keyHigh[slot] !== EMPTY) {
      if (this.#keyLow[slot] === low && this.#keyHigh[slot] === high) return slot
      slot = (slot + 1) & this.#mask
    }
    return NO_PORT
  }

  #fill(slot: number, high: number, low: number, port: number, seen: number, sticky: number): void {
    this.#keyHigh[slot] = high
    this.#keyLow[slot] = low
    this.#port[slot] = port
    this.#seen[slot] = seen
    this.#sticky[slot] = sticky
    this.#pinned[slot] = 0
    this.#learnedBy[port]++
    this.size++
  }

  /**
   * Looks at up to `budget` slots for entries past their age and removes them: called now and then, never for all at
   * once.
   */
  sweep(seconds: number, budget: number): void {
    for (let i = 0; i < budget; i++) {
      const slot = this.#sweepAt
      if (this.#keyHigh[slot] !== EMPTY && seconds - this.#seen[slot] > this.#options.ageing) this.#remove(slot)
      else this.#sweepAt = (slot + 1) & this.#mask
    }
  }

  /** Forgets all that was learned from a port (it went down, or its machine moved). */
  flushPort(port: number): void {
    this.#removeWhere((slot) => this.#port[slot] === port && this.#seen[slot] !== STATIC)
  }

  /** The same, in VLANs that `isLeft` says true for. */
  flushVlans(port: number, isLeft: (vlan: number) => boolean): void {
    this.#removeWhere((slot) => {
      return this.#port[slot] === port && this.#seen[slot] !== STATIC && isLeft(this.#keyHigh[slot] & 0xfff)
    })
  }

  /** The same, of addresses that `isGone` says true for. */
  flushAddresses(port: number, isGone: (macHigh: number, macLow: number) => boolean): void {
    this.#removeWhere((slot) => {
      if (this.#port[slot] !== port || this.#seen[slot] === STATIC) return false
      return isGone(this.#keyHigh[slot] >>> 12, this.#keyLow[slot])
    })
  }

  /** Forgets what was learned from a port that is no more, and what was placed there. */
  removePort(port: number): void {
    this.#removeWhere((slot) => this.#port[slot] === port)
  }

  /** Forgets all that was learned. */
  clear(): void {
    this.#removeWhere((slot) => this.#seen[slot] !== STATIC)
  }

  #removeWhere(goes: (slot: number) => boolean): void {
    if (this.size === 0) return
    // Removal shifts later entries back, over the table's end too: one more look catches what wrapped around.
    for (let round = 0; round < 2; round++) {
      for (let slot = 0; slot <= this.#mask; ) {
        if (this.#keyHigh[slot] !== EMPTY && goes(slot)) this.#remove(slot)
        else slot++
      }
    }
  }

  visit(
    visit: (
      macHigh: number,
      macLow: number,
      vlan: number,
      port: number,
      ageSeconds: number,
      state: 'learned' | 'static' | 'sticky',
    ) => void,
    seconds: number,
  ): void {
    for (let slot = 0; slot <= this.#mask; slot++) {
      const high = this.#keyHigh[slot]
      if (high === EMPTY || seconds - this.#seen[slot] > this.#options.ageing) continue
      const isStatic = this.#seen[slot] === STATIC
      const state = this.#sticky[slot] === 1 ? 'sticky' : isStatic ? 'static' : 'learned'
      const age = isStatic ? 0 : seconds - this.#seen[slot]
      visit(high >>> 12, this.#keyLow[slot], high & 0xfff, this.#port[slot], age, state)
    }
  }

  /** All that is in the table, aged or not. `key`: upper 16 bits of the address and VLAN. */
  visitAll(visit: (key: number, macLow: number, port: number, seen: number) => void): void {
    const keyHigh = this.#keyHigh
    for (let slot = 0; slot <= this.#mask; slot++) {
      if (keyHigh[slot] !== EMPTY) visit(keyHigh[slot], this.#keyLow[slot], this.#port[slot], this.#seen[slot])
    }
  }

  /**
   * Slot by slot: the order in which entries are visited is a part of the state. The capacity must be the one that it
   * was saved with.
   */
  exchange(state: StateExchange): void {
    this.refused = state.value('refused', this.refused)
    this.#sweepAt = state.value('sweepAt', this.#sweepAt)
    const entries = state.value('entries', state.isLoading ? new Uint8Array() : this.#saved())
    if (!state.isLoading) return
    this.size = 0
    this.#keyHigh.fill(EMPTY)
    this.#learnedBy.fill(0)
    const words = new Int32Array(entries.slice().buffer)
    for (let at = 0; at < words.length; at += SAVED_WORDS) {
      this.#fill(words[at] & this.#mask, words[at + 1], words[at + 2], words[at + 3], words[at + 4], words[at + 5])
    }
  }

  #saved(): Uint8Array {
    const words = new Int32Array(this.size * SAVED_WORDS)
    let at = 0
    for (let slot = 0; slot <= this.#mask; slot++) {
      if (this.#keyHigh[slot] === EMPTY) continue
      words[at++] = slot
      words[at++] = this.#keyHigh[slot]
      words[at++] = this.#keyLow[slot]
      words[at++] = this.#port[slot]
      words[at++] = this.#seen[slot]
      words[at++] = this.#sticky[slot]
    }
    return new Uint8Array(words.buffer)
  }

  /**
   * A port that has learned its share takes over no address either; where it last was is wrong now, so it is flooded.
   */
  #move(slot: number, port: number): boolean {
    if (this.#sticky[slot] === 1) return true
    if (this.#learnedBy[port] >= this.#options.perPort) {
      this.#remove(slot)
      this.refused++
      return false
    }
    if (this.#pinned[slot] === 1) this.#unpin(slot)
    this.#learnedBy[this.#port[slot]]--
    this.#learnedBy[port]++
    this.#port[slot] = port
    return true
  }

  #unpin(slot: number): void {
    this.#pinned[slot] = 0
    this.unpinned?.(this.#port[slot])
  }

  /** Backward-shift deletion (Knuth 6.4, algorithm R): no tombstones, so look-ups never slow down. */
  #remove(slot: number): void {
    if (this.#pinned[slot] === 1) this.#unpin(slot)
    this.#learnedBy[this.#port[slot]]--
    this.size--
    let hole = slot
    let next = (hole + 1) & this.#mask
    while (this.#keyHigh[next] !== EMPTY) {
      const home = this.#hash(this.#keyHigh[next], this.#keyLow[next])
      if (((next - home) & this.#mask) >= ((next - hole) & this.#mask)) {
        this.#keyHigh[hole] = this.#keyHigh[next]
        this.#keyLow[hole] = this.#keyLow[next]
        this.#port[hole] = this.#port[next]
        this.#seen[hole] = this.#seen[next]
        this.#sticky[hole] = this.#sticky[next]
        this.#pinned[hole] = this.#pinned[next]
        hole = next
      }
      next = (next + 1) & this.#mask
    }
    this.#keyHigh[hole] = EMPTY
  }

  #hash(high: number, low: number): number {
    let h = Math.imul(low ^ Math.imul(high, 0x9e3779b1), 0x85ebca6b)
    h ^= h >>> 15
    h = Math.imul(h, 0xc2b2ae35)
    return (h ^ (h >>> 13)) & this.#mask
  }
}
