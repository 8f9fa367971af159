// A hash map of the kernel's, written and swept from here: attributes and room for keys and values are laid out once,
// and nothing is allocated per call. bpf(2), linux/bpf.h.

import { type Arena, mapArena, releaseArena } from './arena.js'
import { Errno, errno, libc, syscallError } from './libc.js'

const BPF_MAP_UPDATE_ELEM = 2
const BPF_MAP_DELETE_ELEM = 3
const BPF_MAP_LOOKUP_BATCH = 24
const ELEMENT_LENGTH = 32
const BATCH_LENGTH = 56
const BATCH_KEYS_AT = 256

export class BpfHash {
  /** Where the key of the next `put` or `remove` is written, and the value. */
  readonly key: DataView
  readonly value: DataView
  readonly keyBytes: Uint8Array
  /** Of the last `sweep`: keys, and values, one behind the other. */
  readonly keys: DataView
  readonly values: DataView
  readonly #arena: Arena
  readonly #keyLength: number
  readonly #most: number
  readonly #element = new Uint8Array(ELEMENT_LENGTH)
  /** Its key alone: bpf(2) takes no other field when an element is to go. */
  readonly #keyOnly = new Uint8Array(ELEMENT_LENGTH)
  readonly #batch = new Uint8Array(BATCH_LENGTH)
  readonly #batchView = new DataView(this.#batch.buffer)
  readonly #where: number
  #begun = false

  /** `most`: how many elements a `sweep` looks at. Keys and values: at most 64 bytes. */
  constructor(fd: number, keyLength: number, valueLength: number, most: number) {
    this.#keyLength = keyLength
    this.#most = most
    const valuesAt = BATCH_KEYS_AT + most * keyLength
    const arena = mapArena(valuesAt + most * valueLength + 8)
    this.#arena = arena
    const view = (at: number, length: number) => new DataView(arena.bytes.buffer, arena.bytes.byteOffset + at, length)
    this.key = view(0, keyLength)
    this.keyBytes = new Uint8Array(arena.bytes.buffer, arena.bytes.byteOffset, keyLength)
    this.value = view(64, valueLength)
    this.keys = view(BATCH_KEYS_AT, most * keyLength)
    this.values = view(valuesAt, most * valueLength)
    this.#where = arena.address + 128
    const element = new DataView(this.#element.buffer)
    element.setUint32(0, fd, true)
    element.setBigUint64(8, BigInt(arena.address), true)
    element.setBigUint64(16, BigInt(arena.address + 64), true)
    this.#keyOnly.set(this.#element.subarray(0, 16))
    const batch = this.#batchView
    batch.setBigUint64(8, BigInt(this.#where), true)
    batch.setBigUint64(16, BigInt(arena.address + BATCH_KEYS_AT), true)
    batch.setBigUint64(24, BigInt(arena.address + valuesAt), true)
    batch.setUint32(36, fd, true)
  }

  /** False: the map is full. Throws SYSCALL. */
  put(): boolean {
    if (libc().bpf(BPF_MAP_UPDATE_ELEM, this.#element, ELEMENT_LENGTH) >= 0) return true
    const value = errno()
    if (value !== Errno.E2BIG && value !== Errno.ENOMEM) throw syscallError('write to a BPF map', value)
    return false
  }

  /** Takes an element of the last `sweep` out. */
  removeSwept(i: number): void {
    const at = i * this.#keyLength
    for (let k = 0; k < this.#keyLength; k++) this.key.setUint8(k, this.keys.getUint8(at + k))
    libc().bpf(BPF_MAP_DELETE_ELEM, this.#keyOnly, ELEMENT_LENGTH)
  }

  /** The last `sweep` came to the end: the next one begins anew. */
  get isAtEnd(): boolean {
    return !this.#begun
  }

  /** The next elements: how many; after the last ones, or when it fails, it begins anew. */
  sweep(): number {
    const batch = this.#batchView
    batch.setBigUint64(0, this.#begun ? BigInt(this.#where) : 0n, true)
    batch.setUint32(32, this.#most, true)
    const result = libc().bpf(BPF_MAP_LOOKUP_BATCH, this.#batch, BATCH_LENGTH)
    this.#begun = result >= 0
    if (result < 0 && errno() !== Errno.ENOENT) return 0
    return batch.getUint32(32, true)
  }

  close(): void {
    releaseArena(this.#arena)
  }
}
