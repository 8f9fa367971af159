// eBPF socket filters without a compiler: a few instructions written down here, loaded with bpf(2). linux/bpf.h,
// Documentation/bpf/standardization/instruction-set.rst.
//
// What they are for: a ring of TPACKET_V2 takes no frame any more after one whose virtio-net header the kernel cannot
// write (tpacket_rcv in net/packet/af_packet.c drops it after it has marked the slot as being filled, and nothing takes
// the mark off). Such frames are kept from the ring and go to a second socket, which is none the worse for them.

import { endianness } from 'node:os'
import koffi from 'koffi'
import { type Arena, mapArena, mapShared, releaseArena } from './arena.js'
import { kernelIsAtLeast } from './kernel.js'
import { check, libc } from './libc.js'

const SYSCALL_NUMBER: Record<string, number> = { x64: 321, arm64: 280 }
const BPF_MAP_CREATE = 0
const BPF_PROG_LOAD = 5
const BPF_MAP_TYPE_ARRAY = 2
const BPF_F_MMAPABLE = 1 << 10
/** BPF_PROG_TYPE_… */
export const ProgramType = { socketFilter: 1, classifier: 3 } as const
const SOL_SOCKET = 1
const SO_ATTACH_BPF = 50

/** struct __sk_buff */
const SKB = { IFINDEX: 40, GSO_SEGS: 164, GSO_SIZE: 176 } as const
/** GSO_BY_FRAGS: SCTP, cut where its chunks end. */
const BY_FRAGS = 0xffff
const TCP = 6

/** One value of many cells, by interface index: how many frames were set aside, and the gso_size of the last. */
const CELLS = 8192
const CELL = 8
const MAP_BYTES = CELLS * CELL

export type Instruction = readonly [code: number, registers: number, offset: number, immediate: number]
/** An instruction, or one that jumps to a label, or a label. */
export type Line = Instruction | { readonly jump: Instruction; readonly to: string } | string

export const registers = (destination: number, source = 0) => destination | (source << 4)
export const move = (to: number, value: number): Instruction => [0xb7, registers(to), 0, value]
export const copy = (to: number, from: number): Instruction => [0xbf, registers(to, from), 0, 0]
const load32 = (to: number, from: number, offset: number): Instruction => [0x61, registers(to, from), offset, 0]
/** r0 := what lies at `offset` of the frame; r6 is the context; r1 to r5 are lost. */
const frame16 = (offset: number): Instruction => [0x28, 0, 0, offset]
const frame8 = (offset: number): Instruction => [0x30, 0, 0, offset]
const ifEqual = (register: number, value: number, to: string): Line => ({
  jump: [0x15, registers(register), 0, value],
  to,
})
const ifNot = (register: number, value: number, to: string): Line => ({
  jump: [0x55, registers(register), 0, value],
  to,
})
const go = (to: string): Line => ({ jump: [0x05, 0, 0, 0], to })
export const EXIT: Instruction = [0x95, 0, 0, 0]

/** Bytes of a program; jumps count instructions from the one behind them. */
export function assemble(lines: readonly Line[]): Uint8Array {
  const labels = new Map<string, number>()
  const instructions: Exclude<Line, string>[] = []
  for (const line of lines) {
    if (typeof line === 'string') labels.set(line, instructions.length)
    else instructions.push(line)
  }
  const bytes = new Uint8Array(instructions.length * 8)
  const view = new DataView(bytes.buffer)
  for (const [i, line] of instructions.entries()) {
    const [code, pair, offset, immediate] = 'jump' in line ? line.jump : line
    const little = endianness() === 'LE'
    view.setUint8(i * 8, code)
    view.setUint8(i * 8 + 1, pair)
    view.setInt16(i * 8 + 2, 'jump' in line ? labels.get(line.to)! - i - 1 : offset, little)
    view.setInt32(i * 8 + 4, immediate, little)
  }
  return bytes
}

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
    frame8(at + 9),
    go('protocol'),
    `ip6-${at}`,
    frame8(at + 6),
    go('protocol'),
  ]
  return [
    copy(6, 1),
    load32(7, 1, SKB.GSO_SIZE),
    ifEqual(7, 0, 'keep'),
    ifEqual(7, BY_FRAGS, 'aside'),
    // A guest's frames, whose segments nobody has counted, may be UDP to be fragmented; the kernel's own are not.
    ...(kernelWritesUdp ? [load32(0, 1, SKB.GSO_SEGS), ifNot(0, 0, 'keep')] : []),
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
    'aside',
    ...setAside,
    EXIT,
    'keep',
    ...keep,
    EXIT,
  ]
}

/** Counts in the map, where we see it without asking, and notes gso_size. */
function count(map: number): Line[] {
  return [
    load32(2, 6, SKB.IFINDEX),
    [0x57, registers(2), 0, CELLS - 1],
    [0x67, registers(2), 0, 3],
    // r1 := address of the map's value (BPF_PSEUDO_MAP_VALUE), two instructions long.
    [0x18, registers(1, 2), 0, map],
    [0x00, 0, 0, 0],
    [0x0f, registers(1, 2), 0, 0],
    [0x63, registers(1, 7), 4, 0],
    move(3, 1),
    [0xc3, registers(1, 3), 0, 0],
  ]
}

let call: ((number: number, command: number, attributes: Uint8Array, length: number) => number) | undefined

function bpf(command: number, attributes: Uint8Array, what: string): number {
  const number = SYSCALL_NUMBER[process.arch]
  call ??= koffi.load('libc.so.6').func('long syscall(long, int, void *, uint32_t)') as unknown as typeof call
  return check(number === undefined ? -1 : Number(call!(number, command, attributes, attributes.length)), what)
}

/** An array of one value that can be mapped. */
export function createMap(bytes: number): number {
  const attributes = new Uint32Array([BPF_MAP_TYPE_ARRAY, 4, bytes, 1, BPF_F_MMAPABLE])
  return bpf(BPF_MAP_CREATE, new Uint8Array(attributes.buffer), 'create a BPF map')
}

export function loadProgram(program: Uint8Array, type: number = ProgramType.socketFilter): number {
  const memory = mapArena(program.length + 16)
  try {
    memory.bytes.set(program)
    memory.bytes.set(new TextEncoder().encode('MIT\0'), program.length)
    const attributes = new Uint8Array(48)
    const view = new DataView(attributes.buffer)
    const little = endianness() === 'LE'
    view.setUint32(0, type, little)
    view.setUint32(4, program.length / 8, little)
    view.setBigUint64(8, BigInt(memory.address), little)
    view.setBigUint64(16, BigInt(memory.address + program.length), little)
    return bpf(BPF_PROG_LOAD, attributes, 'load a BPF program')
  } finally {
    releaseArena(memory)
  }
}

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
    const taken = move(0, -1)
    const refused = move(0, 0)
    this.#keeping = loadProgram(assemble(choose(kernelWritesUdp, [refused], [taken])))
    this.#aside = loadProgram(assemble(choose(kernelWritesUdp, [...count(this.#map), taken], [refused])))
    this.#refusing = loadProgram(assemble(choose(kernelWritesUdp, [...count(this.#map), refused], [taken])))
    this.#arena = mapShared(this.#map, MAP_BYTES)
    this.#cells = new Int32Array(this.#arena.bytes.buffer)
  }

  /** From now on the socket gets no frame that would jam a ring. */
  keepFromRing(fd: number): void {
    attachFilter(fd, this.#keeping)
  }

  /** The same for a device whose frames of that kind nobody reads: they are counted. */
  refuse(fd: number): void {
    attachFilter(fd, this.#refusing)
  }

  /** From now on the socket gets those frames only. */
  setAside(fd: number): void {
    attachFilter(fd, this.#aside)
  }

  close(): void {
    releaseArena(this.#arena)
    for (const fd of [this.#keeping, this.#aside, this.#refusing, this.#map]) libc().close(fd)
  }

  /** How many frames of a device were set aside, ever; goes round at 2^31. */
  countOf(ifindex: number): number {
    return Atomics.load(this.#cells, (ifindex & (CELLS - 1)) * 2)
  }

  /** gso_size of the last of them. */
  sizeOf(ifindex: number): number {
    return Atomics.load(this.#cells, (ifindex & (CELLS - 1)) * 2 + 1)
  }
}

export function attachFilter(fd: number, program: number): void {
  const value = new Uint8Array(Int32Array.of(program).buffer)
  check(libc().setsockopt(fd, SOL_SOCKET, SO_ATTACH_BPF, value, value.length), 'attach a BPF socket filter')
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
