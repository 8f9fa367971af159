// The table of verdicts that a simulated kernel has, as BpfHash shows the real one to the production code.

import type { VerdictTable } from '../../switch/datapath/kernel/kernel.js'
import { KEY_LENGTH, Key, VERDICT_LENGTH } from '../../switch/datapath/kernel/layout.js'

const ADDRESSES = 12
/** More than a schedule has pairs. */
const SWEPT = 512

const made = new Uint8Array(KEY_LENGTH)
const madeView = new DataView(made.buffer)

/** Valid until the next call. `at`: where the frame's addresses lie. */
export function key(port: number, vlan: number, tag: number, bytes: Uint8Array, at: number): Uint8Array {
  madeView.setUint16(Key.PORT, port, true)
  madeView.setUint16(Key.VLAN, vlan, true)
  madeView.setUint16(Key.TAG, tag, true)
  for (let i = 0; i < ADDRESSES; i++) made[Key.TO + i] = bytes[at + i]
  return made
}

export const nameOf = (bytes: Uint8Array) => String.fromCharCode(...bytes)

export class VirtualTable implements VerdictTable {
  readonly keyBytes = new Uint8Array(KEY_LENGTH)
  readonly key = new DataView(this.keyBytes.buffer)
  readonly value = new DataView(new ArrayBuffer(VERDICT_LENGTH))
  readonly keys = new DataView(new ArrayBuffer(SWEPT * KEY_LENGTH))
  readonly values = new DataView(new ArrayBuffer(SWEPT * VERDICT_LENGTH))
  /** One look is enough for all. */
  readonly isAtEnd = true
  readonly #entries = new Map<
    string,
    { readonly key: Uint8Array; readonly value: Uint8Array; readonly view: DataView }
  >()

  put(): boolean {
    const value = new Uint8Array(this.value.buffer.slice(0))
    const key = this.keyBytes.slice()
    this.#entries.set(nameOf(key), { key, value, view: new DataView(value.buffer) })
    return this.#entries.size <= SWEPT
  }

  find(key: Uint8Array): DataView | undefined {
    return this.#entries.get(nameOf(key))?.view
  }

  sweep(): number {
    let count = 0
    for (const { key, value } of this.#entries.values()) {
      new Uint8Array(this.keys.buffer).set(key, count * KEY_LENGTH)
      new Uint8Array(this.values.buffer).set(value, count++ * VERDICT_LENGTH)
    }
    return count
  }

  removeSwept(i: number): void {
    const swept = new Uint8Array(this.keys.buffer, i * KEY_LENGTH, KEY_LENGTH)
    this.keyBytes.set(swept)
    this.#entries.delete(nameOf(swept))
  }

  clear(): void {
    this.#entries.clear()
  }
}
