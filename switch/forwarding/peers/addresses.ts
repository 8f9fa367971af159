// Sets and maps of addresses that are asked for every frame: the FDB's table, without VLANs and without ageing.

import type { StateExchange } from '../../../src/epoch/state.js'
import { Fdb, NO_PORT } from '../fdb.js'

/** An address as one number of 48 bits: for lists that change now and then, not for frames. */
export function macNumber(high: number, low: number): number {
  return high * 2 ** 32 + (low >>> 0)
}

export class AddressTable {
  readonly #fdb: Fdb

  /** `values`: above the highest value. */
  constructor(capacity: number, values: number) {
    this.#fdb = new Fdb({ capacity, perPort: capacity, ageing: Number.POSITIVE_INFINITY }, values)
  }

  /** NO_PORT when the address is not in it. */
  get(macHigh: number, macLow: number): number {
    return this.#fdb.lookUp(macHigh, macLow, 0, 0)
  }

  has(macHigh: number, macLow: number): boolean {
    return this.#fdb.lookUp(macHigh, macLow, 0, 0) !== NO_PORT
  }

  add(mac: number, value: number): void {
    this.#fdb.learn(Math.floor(mac / 2 ** 32), mac | 0, 0, value, 0)
  }

  clear(): void {
    this.#fdb.clear()
  }

  exchange(state: StateExchange): void {
    this.#fdb.exchange(state)
  }
}

/** A set of them. */
export class AddressSet extends AddressTable {
  #members: readonly number[] = []

  constructor(capacity: number) {
    super(capacity, 1)
  }

  assign(macs: readonly number[]): void {
    this.clear()
    this.#members = macs
    for (const mac of macs) this.add(mac, 0)
  }

  override exchange(state: StateExchange): void {
    this.#members = state.value('members', this.#members)
    super.exchange(state)
  }

  /** Only those that are in `macs`, too. */
  keep(macs: readonly number[]): void {
    const wanted = new Set(macs)
    this.assign(this.#members.filter((mac) => wanted.has(mac)))
  }
}
