// Memory outside the JavaScript heap, at a known address that never moves: what the kernel reads and writes, and what
// iovecs point into. Seen from JavaScript through typed arrays without a copy.

import koffi from 'koffi'
import { check, libc } from './libc.js'

const PROT_READ_WRITE = 3
const MAP_PRIVATE_ANONYMOUS = 0x22
const MAP_SHARED = 1
const FOUR_GIB = 2 ** 32

/** A mapped range. `address + i` is the address of `bytes[i]`. */
export interface Arena {
  readonly address: number
  /** Upper 32 bits of every address in the arena: it never crosses a 4 GiB line, so pointers are written as two u32. */
  readonly addressHigh: number
  readonly addressLow: number
  readonly length: number
  readonly bytes: Uint8Array
  readonly words: Uint32Array
  readonly view: DataView
}

/** A range that is mapped already, by this thread or another one. */
export function arenaAt(address: number, length: number): Arena {
  const buffer = koffi.view(BigInt(address), length)
  return {
    address,
    addressHigh: Math.floor(address / FOUR_GIB),
    addressLow: address % FOUR_GIB,
    length,
    bytes: new Uint8Array(buffer),
    words: new Uint32Array(buffer),
    view: new DataView(buffer),
  }
}

/**
 * Maps `length` zeroed bytes (rounded up to pages). Arenas live as long as their port: unmapping while a typed array
 * still looks at the range would be a use after free, so `release` is called only when the port is gone.
 */
export function mapArena(length: number): Arena {
  const size = Math.ceil(length / 4096) * 4096
  let address = mapAnonymous(size)
  if (Math.floor(address / FOUR_GIB) !== Math.floor((address + size - 1) / FOUR_GIB)) {
    // Crosses a 4 GiB line: map twice the size, one half of it cannot.
    libc().munmap(address, size)
    const wide = mapAnonymous(size * 2)
    const line = (Math.floor(wide / FOUR_GIB) + 1) * FOUR_GIB
    address = line - wide >= size ? wide : line
  }
  return arenaAt(address, size)
}

function mapAnonymous(size: number): number {
  const address = libc().mmap(0, size, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0)
  check(address === -1 ? -1 : 0, `map ${size} bytes`)
  return address
}

/** Maps memory that the kernel shares with a file descriptor (a packet ring). */
export function mapShared(fd: number, length: number): Arena {
  const address = libc().mmap(0, length, PROT_READ_WRITE, MAP_SHARED, fd, 0)
  check(address === -1 ? -1 : 0, `map ${length} shared bytes`)
  return arenaAt(address, length)
}

export function releaseArena(arena: Arena): void {
  libc().munmap(arena.address, arena.length)
}
