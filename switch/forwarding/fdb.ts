// The forwarding database: MAC address and VLAN -> port, open-addressed in typed arrays. Bounded: when it is full, or a
// port has learned its share, new addresses are not learned and their frames are flooded. Time is a coarse count of
// seconds.

/** No entry: flood. */
export const NO_PORT = -1

const EMPTY = -1

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
  readonly #options: FdbOptions
  readonly #mask: number
  /** (upper 16 bits of the MAC << 12 | VLAN), or EMPTY. */
  readonly #keyHigh: Int32Array
  readonly #keyLow: Int32Array
  readonly #port: Int16Array
  readonly #seen: Int32Array
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
        this.#seen[slot] = seconds
        return this.#port[slot] === port || this.#move(slot, port)
      }
      slot = (slot + 1) & this.#mask
    }
    if (this.size >= this.#options.capacity || this.#learnedBy[port] >= this.#options.perPort) {
      this.refused++
      return false
    }
    keyHigh[slot] = high
    this.#keyLow[slot] = macLow
    this.#port[slot] = port
    this.#seen[slot] = seconds
    this.#learnedBy[port]++
    this.size++
    return true
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

  /** Forgets all that was learned from a port (it went down, was removed, or its machine moved). */
  flushPort(port: number): void {
    for (let slot = 0; slot <= this.#mask; ) {
      if (this.#keyHigh[slot] !== EMPTY && this.#port[slot] === port) this.#remove(slot)
      else slot++
    }
    // Removal shifts later entries back, over the table's end too: one more look catches what wrapped around.
    for (let slot = 0; this.#learnedBy[port] > 0 && slot <= this.#mask; ) {
      if (this.#keyHigh[slot] !== EMPTY && this.#port[slot] === port) this.#remove(slot)
      else slot++
    }
  }

  /** Forgets everything. */
  clear(): void {
    this.#keyHigh.fill(EMPTY)
    this.#learnedBy.fill(0)
    this.size = 0
  }

  visit(
    visit: (macHigh: number, macLow: number, vlan: number, port: number, ageSeconds: number) => void,
    seconds: number,
  ): void {
    for (let slot = 0; slot <= this.#mask; slot++) {
      const high = this.#keyHigh[slot]
      if (high === EMPTY || seconds - this.#seen[slot] > this.#options.ageing) continue
      visit(high >>> 12, this.#keyLow[slot], high & 0xfff, this.#port[slot], seconds - this.#seen[slot])
    }
  }

  /**
   * A port that has learned its share takes over no address either; where it last was is wrong now, so it is flooded.
   */
  #move(slot: number, port: number): boolean {
    if (this.#learnedBy[port] >= this.#options.perPort) {
      this.#remove(slot)
      this.refused++
      return false
    }
    this.#learnedBy[this.#port[slot]]--
    this.#learnedBy[port]++
    this.#port[slot] = port
    return true
  }

  /** Backward-shift deletion (Knuth 6.4, algorithm R): no tombstones, so look-ups never slow down. */
  #remove(slot: number): void {
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
