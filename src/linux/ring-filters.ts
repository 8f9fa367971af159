// What a receive ring must not get: a ring of TPACKET_V2 takes no frame any more after one whose virtio-net header the
// kernel cannot write (tpacket_rcv in net/packet/af_packet.c drops it after it has marked the slot as being filled, and
// nothing takes the mark off). Socket filters keep such frames from the ring; they go to a second socket, which is none
// the worse for them.

import { type Arena, mapShared, releaseArena } from './arena.js'
import {
  add,
  addFrom,
  and,
  copy,
  createMap,
  EXIT,
  frame8,
  frame16,
  go,
  type Instruction,
  ifEqual,
  ifNot,
  type Line,
  load32,
  loadProgram,
  ProgramType,
  registers,
  SkBuff,
  set,
  shiftLeft,
  store32,
} from './bpf.js'
import { kernelIsAtLeast } from './kernel.js'
import { check, libc } from './libc.js'
import { innerTcp, outer4, outer6 } from './tunnel-filter.js'

const SOL_SOCKET = 1
const SO_ATTACH_BPF = 50

/** GSO_BY_FRAGS: SCTP, cut where its chunks end. */
export const BY_FRAGS = 0xffff
const TCP = 6

/**
 * One value: how many frames of a device were set aside, by interface index; behind that the lengths of the last ones,
 * with gso_size and gso_segs, in a circle for each device (which two whose indexes are alike share).
 */
const CELLS = 8192
const CELL = 4
const LOG_AT = CELLS * CELL
const NOTES = 16384
const NOTE = 8
const NOTES_EACH = 256
const MAP_BYTES = LOG_AT + NOTES * NOTE

/** Which frames a ring does not take. `setAside` and `keep`: what to do with them, and with the others. */
export function choose(kernelWritesUdp: boolean, setAside: readonly Line[], keep: readonly Line[]): Line[] {
  const tagged = (at: number, next: string): Line[] => [
    ifEqual(0, 0x8100, next),
    ifEqual(0, 0x88a8, next),
    ifEqual(0, 0x0800, `ip4-${at}`),
    ifEqual(0, 0x86dd, `ip6-${at}`),
    go('aside'),
  ]
  const protocol = (at: number): Line[] => [
    `ip4-${at}`,
    ...(kernelWritesUdp ? [frame8(at + 9), go('protocol')] : outer4(at)),
    `ip6-${at}`,
    ...(kernelWritesUdp ? [frame8(at + 6), go('protocol')] : outer6(at)),
  ]
  return [
    copy(6, 1),
    load32(7, 1, SkBuff.GSO_SIZE),
    ifEqual(7, 0, 'keep'),
    ifEqual(7, BY_FRAGS, 'aside'),
    // A guest's frames, whose segments nobody has counted, may be UDP to be fragmented; the kernel's own are not.
    ...(kernelWritesUdp ? [load32(0, 1, SkBuff.GSO_SEGS), ifNot(0, 0, 'keep')] : []),
    frame16(12),
    ...tagged(14, 'tag'),
    'tag',
    frame16(16),
    ...tagged(18, 'second tag'),
    'second tag',
    frame16(20),
    ...tagged(22, 'aside'),
    ...[14, 18, 22].flatMap(protocol),
    'protocol',
    ifEqual(0, TCP, 'keep'),
    ...(kernelWritesUdp ? [] : innerTcp),
    'aside',
    ...setAside,
    EXIT,
    'keep',
    ...keep,
    EXIT,
  ]
}

/** to := to | from. */
const orFrom = (to: number, from: number): Instruction => [0x4f, registers(to, from), 0, 0]
/** r3 := what is at r2, to which r3 is added there (BPF_ADD | BPF_FETCH). */
const FETCH_AND_ADD: Instruction = [0xc3, registers(2, 3), 0, 1]

/** Counts in the map, where we see it without asking, and makes a note. */
function count(map: number): Line[] {
  return [
    load32(4, 6, SkBuff.IFINDEX),
    copy(2, 4),
    and(2, CELLS - 1),
    shiftLeft(2, Math.log2(CELL)),
    // r1 := address of the map's value (BPF_PSEUDO_MAP_VALUE), two instructions long.
    [0x18, registers(1, 2), 0, map],
    [0x00, 0, 0, 0],
    addFrom(2, 1),
    set(3, 1),
    FETCH_AND_ADD,
    shiftLeft(4, Math.log2(NOTES_EACH)),
    and(3, NOTES_EACH - 1),
    orFrom(4, 3),
    and(4, NOTES - 1),
    shiftLeft(4, Math.log2(NOTE)),
    addFrom(1, 4),
    add(1, LOG_AT),
    load32(2, 6, SkBuff.LENGTH),
    store32(1, 0, 2),
    // Both are of 16 bits.
    load32(2, 6, SkBuff.GSO_SEGS),
    shiftLeft(2, 16),
    orFrom(2, 7),
    store32(1, 4, 2),
  ]
}

/** Throws PERMISSION, SYSCALL. */
export const loadFilter = (lines: readonly Line[]) =>
  loadProgram(ProgramType.SOCKET_FILTER, lines, 'MIT', 'load a BPF socket filter')

export class RingFilters {
  readonly #keeping: number
  readonly #aside: number
  readonly #refusing: number
  readonly #map: number
  readonly #arena: Arena
  readonly #cells: Int32Array

  /** Throws PERMISSION or SYSCALL where bpf(2) cannot be had. */
  constructor(kernelWritesUdp = kernelIsAtLeast(6, 2)) {
    this.#map = createMap(MAP_BYTES)
    const taken = set(0, -1)
    const refused = set(0, 0)
    this.#keeping = loadFilter(choose(kernelWritesUdp, [refused], [taken]))
    this.#aside = loadFilter(choose(kernelWritesUdp, [...count(this.#map), taken], [refused]))
    this.#refusing = loadFilter(choose(kernelWritesUdp, [...count(this.#map), refused], [taken]))
    this.#arena = mapShared(this.#map, MAP_BYTES)
    this.#cells = new Int32Array(this.#arena.bytes.buffer)
  }

  /** From now on the socket gets no frame that would jam a ring. */
  keepFromRing(ring: RingFilter): void {
    ring.use(this.#keeping)
  }

  /** The same for a device whose frames of that kind nobody reads: they are counted. */
  refuse(ring: RingFilter): void {
    ring.use(this.#refusing)
  }

  /** From now on the socket gets those frames only. */
  setAside(fd: number): void {
    attachFilter(fd, this.#aside)
  }

  close(): void {
    releaseArena(this.#arena)
    for (const fd of [this.#keeping, this.#aside, this.#refusing, this.#map]) libc().close(fd)
  }

  /** How many frames of a device were set aside, ever; goes round at 2^32. */
  countOf(ifindex: number): number {
    return Atomics.load(this.#cells, ifindex & (CELLS - 1))
  }

  /**
   * gso_size (lower half) and gso_segs (upper half) of one that is `length` bytes long: the `nth`, or one after it, or
   * else one before. 0: there is no note of it any more.
   */
  noteOf(ifindex: number, nth: number, length: number): number {
    for (let i = 0; i < NOTES_EACH; i++) {
      const at = (((ifindex * NOTES_EACH) | ((nth + i) & (NOTES_EACH - 1))) & (NOTES - 1)) * 2 + LOG_AT / 4
      if (this.#cells[at] === length) return this.#cells[at + 1]
    }
    return 0
  }
}

export function attachFilter(fd: number, program: number): void {
  const value = new Uint8Array(Int32Array.of(program).buffer)
  check(libc().setsockopt(fd, SOL_SOCKET, SO_ATTACH_BPF, value, value.length), 'attach a BPF socket filter')
}

/** A program that stands before a socket's filter, and hands on to that by its descriptor. */
export interface FrontFilter {
  readonly program: number
  handOn(to: number): void
}

/** The filter of a socket with a ring. */
export class RingFilter {
  readonly fd: number
  #program = -1
  #front: FrontFilter | null = null

  constructor(fd: number) {
    this.fd = fd
  }

  use(program: number): void {
    if (this.#front === null) attachFilter(this.fd, program)
    else this.#front.handOn(program)
    this.#program = program
  }

  /** False: it has no filter yet, and gets none. Throws SYSCALL. */
  putBefore(front: FrontFilter): boolean {
    if (this.#program < 0) return false
    front.handOn(this.#program)
    attachFilter(this.fd, front.program)
    this.#front = front
    return true
  }

  /** The socket has its own filter again. Throws SYSCALL. */
  takeAway(): void {
    if (this.#front === null) return
    attachFilter(this.fd, this.#program)
    this.#front = null
  }
}

let filters: RingFilters | null | undefined

/** The filters, loaded on first use, once per thread; null where the kernel refuses them. */
export function ringFilters(): RingFilters | null {
  if (filters === undefined) {
    try {
      filters = new RingFilters()
    } catch {
      filters = null
    }
  }
  return filters
}

/** When no socket of this thread uses them any more. */
export function closeRingFilters(): void {
  filters?.close()
  filters = undefined
}
