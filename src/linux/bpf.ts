// eBPF programs without a compiler: a few instructions written down, assembled and loaded with bpf(2). linux/bpf.h,
// Documentation/bpf/standardization/instruction-set.rst.

import { endianness } from 'node:os'
import { mapArena, releaseArena } from './arena.js'
import { Errno, errno, errnoName, libc, SystemCallError, syscallError } from './libc.js'

const BPF_MAP_CREATE = 0
const BPF_MAP_UPDATE_ELEM = 2
const BPF_PROG_LOAD = 5
const BPF_F_MMAPABLE = 1 << 10
/** union bpf_attr, as far as programs and maps need it. */
const ATTRIBUTES_LENGTH = 72
const NAME_LENGTH = 15
const MAP_NAME_AT = 28
const PROGRAM_NAME_AT = 48
const LOG_LENGTH = 64 * 1024
/** The verifier gives up when a signal comes (bpf_check in kernel/bpf/verifier.c), as timers and children send them. */
const LOAD_ATTEMPTS = 20

export const ProgramType = { SOCKET_FILTER: 1, SCHED_CLS: 3, XDP: 6 } as const

/** struct __sk_buff, offsets. */
export const SkBuff = {
  LENGTH: 0,
  MARK: 8,
  PROTOCOL: 16,
  VLAN_PRESENT: 20,
  IFINDEX: 40,
  /** The first of five words: notes of one program for the next that sees the frame. */
  CONTROL_BLOCK: 48,
  GSO_SEGS: 164,
  GSO_SIZE: 176,
} as const

export type Instruction = readonly [code: number, registers: number, offset: number, immediate: number]
/** An instruction, or one that jumps to a label, or a label. */
export type Line = Instruction | { readonly jump: Instruction; readonly to: string } | string

const LITTLE_ENDIAN = endianness() === 'LE'

export const registers = (destination: number, source = 0) => destination | (source << 4)
export const set = (to: number, value: number): Instruction => [0xb7, registers(to), 0, value]
export const copy = (to: number, from: number): Instruction => [0xbf, registers(to, from), 0, 0]
export const add = (to: number, value: number): Instruction => [0x07, registers(to), 0, value]
export const addFrom = (to: number, from: number): Instruction => [0x0f, registers(to, from), 0, 0]
export const and = (to: number, value: number): Instruction => [0x57, registers(to), 0, value]
export const or = (to: number, value: number): Instruction => [0x47, registers(to), 0, value]
export const shiftLeft = (to: number, bits: number): Instruction => [0x67, registers(to), 0, bits]
export const shiftRight = (to: number, bits: number): Instruction => [0x77, registers(to), 0, bits]
export const negate = (to: number): Instruction => [0x87, registers(to), 0, 0]
export const toHostOrder16 = (to: number): Instruction => [0xdc, registers(to), 0, 16]
export const load32 = (to: number, from: number, offset: number): Instruction => [0x61, registers(to, from), offset, 0]
export const load16 = (to: number, from: number, offset: number): Instruction => [0x69, registers(to, from), offset, 0]
export const store32 = (to: number, offset: number, from: number): Instruction => [0x63, registers(to, from), offset, 0]
export const store64 = (to: number, offset: number, from: number): Instruction => [0x7b, registers(to, from), offset, 0]
/** r0 := what lies at `offset` of the frame; r6 is the context; r1 to r5 are lost. */
export const frame16 = (offset: number): Instruction => [0x28, 0, 0, offset]
export const frame8 = (offset: number): Instruction => [0x30, 0, 0, offset]
/** The same, at `offset` behind where a register points. */
export const frame32From = (at: number, offset: number): Instruction => [0x40, registers(0, at), 0, offset]
export const frame16From = (at: number, offset: number): Instruction => [0x48, registers(0, at), 0, offset]
export const frame8From = (at: number, offset: number): Instruction => [0x50, registers(0, at), 0, offset]
export const call = (helper: number): Instruction => [0x85, 0, 0, helper]
export const EXIT: Instruction = [0x95, 0, 0, 0]
const branch = (code: number, register: number, value: number, to: string): Line => ({
  jump: [code, registers(register), 0, value],
  to,
})
export const ifEqual = (register: number, value: number, to: string): Line => branch(0x15, register, value, to)
export const ifNot = (register: number, value: number, to: string): Line => branch(0x55, register, value, to)
/** Unsigned. */
export const ifAtMost = (register: number, value: number, to: string): Line => branch(0xb5, register, value, to)
export const ifMore = (register: number, value: number, to: string): Line => branch(0x25, register, value, to)
const compare = (code: number, register: number, other: number, to: string): Line => ({
  jump: [code, registers(register, other), 0, 0],
  to,
})
export const ifEqualTo = (register: number, other: number, to: string) => compare(0x1d, register, other, to)
/** Unsigned. */
export const ifMoreThan = (register: number, other: number, to: string) => compare(0x2d, register, other, to)
export const ifHasNone = (register: number, bits: number, has: string, to: string): Line[] => [
  branch(0x45, register, bits, has),
  go(to),
  has,
]
export const go = (to: string): Line => branch(0x05, 0, 0, to)

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
    view.setUint8(i * 8, code)
    view.setUint8(i * 8 + 1, pair)
    view.setInt16(i * 8 + 2, 'jump' in line ? labels.get(line.to)! - i - 1 : offset, LITTLE_ENDIAN)
    view.setInt32(i * 8 + 4, immediate, LITTLE_ENDIAN)
  }
  return bytes
}

export const MapType = { HASH: 1, ARRAY: 2, PROGRAMS: 3 } as const

export interface MapShape {
  readonly type: number
  /** Bytes. */
  readonly key: number
  readonly value: number
  readonly entries: number
  /** An array that can be mapped. */
  readonly mapped?: boolean
  /** Up to 15 letters, for whoever lists maps. */
  readonly name?: string
}

/** A map’s descriptor. Throws PERMISSION, SYSCALL. */
export function createMapOf({ type, key, value, entries, mapped = false, name = '' }: MapShape): number {
  const attributes = new Uint8Array(ATTRIBUTES_LENGTH)
  new Uint32Array(attributes.buffer).set([type, key, value, entries, mapped ? BPF_F_MMAPABLE : 0])
  attributes.set(new TextEncoder().encode(name.slice(0, NAME_LENGTH)), MAP_NAME_AT)
  const fd = libc().bpf(BPF_MAP_CREATE, attributes, attributes.length)
  if (fd < 0) throw syscallError(`create a BPF map${name === '' ? '' : ` (${name})`}`)
  return fd
}

/** Writes an element of two numbers of 32 bits, key and value. Throws SYSCALL. */
export function putNumber(map: number, key: number, value: number): void {
  const memory = mapArena(8)
  try {
    memory.words[0] = key
    memory.words[1] = value
    const attributes = new Uint8Array(ATTRIBUTES_LENGTH)
    const view = new DataView(attributes.buffer)
    view.setUint32(0, map, LITTLE_ENDIAN)
    view.setBigUint64(8, BigInt(memory.address), LITTLE_ENDIAN)
    view.setBigUint64(16, BigInt(memory.address + 4), LITTLE_ENDIAN)
    if (libc().bpf(BPF_MAP_UPDATE_ELEM, attributes, attributes.length) < 0) throw syscallError('write to a BPF map')
  } finally {
    releaseArena(memory)
  }
}

/** An array of one value, which can be mapped. Throws PERMISSION, SYSCALL. */
export const createMap = (bytes: number) =>
  createMapOf({ type: MapType.ARRAY, key: 4, value: bytes, entries: 1, mapped: true })

/** A program's descriptor. `license`: helpers may ask for GPL. Throws PERMISSION, SYSCALL. */
export function loadProgram(type: number, lines: readonly Line[], license: 'MIT' | 'GPL', what: string): number {
  return loadCode(type, assemble(lines), license, what)
}

/** The same of assembled code. What the verifier says of a program that it does not take is in the error's action. */
export function loadCode(type: number, code: Uint8Array, license: 'MIT' | 'GPL', what: string, name = ''): number {
  const logAt = code.length + 16
  const memory = mapArena(logAt + LOG_LENGTH)
  try {
    memory.bytes.set(code)
    memory.bytes.set(new TextEncoder().encode(`${license}\0`), code.length)
    const attributes = new Uint8Array(ATTRIBUTES_LENGTH)
    const view = new DataView(attributes.buffer)
    view.setUint32(0, type, LITTLE_ENDIAN)
    view.setUint32(4, code.length / 8, LITTLE_ENDIAN)
    view.setBigUint64(8, BigInt(memory.address), LITTLE_ENDIAN)
    view.setBigUint64(16, BigInt(memory.address + code.length), LITTLE_ENDIAN)
    attributes.set(new TextEncoder().encode(name.slice(0, NAME_LENGTH)), PROGRAM_NAME_AT)
    const load = () => {
      for (let attempt = 1; ; attempt++) {
        const fd = libc().bpf(BPF_PROG_LOAD, attributes, attributes.length)
        if (fd >= 0 || errno() !== Errno.EAGAIN || attempt === LOAD_ATTEMPTS) return fd
      }
    }
    const fd = load()
    if (fd >= 0) return fd
    const failure = errno()
    view.setUint32(24, 1, LITTLE_ENDIAN)
    view.setUint32(28, LOG_LENGTH, LITTLE_ENDIAN)
    view.setBigUint64(32, BigInt(memory.address + logAt), LITTLE_ENDIAN)
    const second = load()
    if (second >= 0) return second
    const log = new TextDecoder().decode(memory.bytes.slice(logAt, logAt + LOG_LENGTH)).replace(/\0.*$/s, '')
    const known = syscallError(what, failure)
    if (log.trim() === '') throw known
    throw new SystemCallError(failure, known.code, `${what}: ${errnoName(failure)}`, verdictOf(log))
  } finally {
    releaseArena(memory)
  }
}

/** The verifier's last words, which say what it does not like. */
const verdictOf = (log: string) => `The kernel’s verifier says: ${log.trim().split('\n').slice(-6).join(' / ')}.`
