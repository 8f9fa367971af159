// An AGREEMENT: what a switch tells a peer on a shared LAN of how it reads the frames that come from there, and which
// of them it may send. It follows the control frame's head (control.ts or sealed-control.ts); all integers big-endian.
//
//   0 heard: the receiver's boot id 8 | carries 1 | zero 1 | number of claims 2
//  12 version of the claims 4 | version held 4 | version read 4 | reads from 4 | lowest color 4
//  32 refused: a bit for each claim held 32             64 claims: 6 each
//  with a key: HMAC-SHA-256 of all that came before, the frame's head included, 32
//
// `claims`: addresses of machines on the sender's host. `held`: which version of the receiver's claims the sender
// holds; `refused` says which of those it does not grant, because another switch claims them. `read`: in frames to the
// claims of this version the sender reads the bit of color-dscp.ts, as colors `reads from` and the one after it (all
// ones: not yet). `carries`: the sender's own members' frames to the receiver are colored from now on. `lowest`: the
// lowest color that the sender may still give a frame.

import { createHmac, timingSafeEqual } from 'node:crypto'

/** Most addresses that one switch claims: what fits an ordinary frame beside the rest. */
export const MAX_CLAIMS = 192
/** No color yet. A small integer, as colors mostly are: it shares a field with what is looked at for every frame. */
export const NONE = -1
const NONE_ON_WIRE = 0xffffffff

const FIXED = 64
const REFUSED_AT = 32
const SEAL = 32
const MAC = 6

export interface Agreement {
  /** 16 hex digits. */
  readonly heard: string
  readonly carries: boolean
  readonly version: number
  readonly held: number
  readonly read: number
  readonly readsFrom: number
  readonly lowest: number
  /** By place in the claims held. */
  readonly refused: readonly boolean[]
  /** Addresses as numbers of 48 bits. */
  readonly claims: readonly number[]
}

export function encodeAgreement(agreement: Agreement): Uint8Array {
  const { heard, carries, version, held, read, readsFrom, lowest, refused, claims } = agreement
  const bytes = new Uint8Array(FIXED + claims.length * MAC)
  const view = new DataView(bytes.buffer)
  view.setBigUint64(0, BigInt(`0x${heard}`))
  view.setUint8(8, carries ? 1 : 0)
  view.setUint16(10, claims.length)
  for (const [at, field] of [version, held, read, readsFrom, lowest].entries()) view.setUint32(12 + at * 4, field)
  for (const [at, isRefused] of refused.entries()) if (isRefused) bytes[REFUSED_AT + (at >> 3)] |= 1 << (at & 7)
  for (const [at, mac] of claims.entries()) {
    view.setUint16(FIXED + at * MAC, Math.floor(mac / 2 ** 32))
    view.setUint32(FIXED + at * MAC + 2, mac % 2 ** 32)
  }
  return bytes
}

/** `bytes` begins where the head ends, and may be longer (padding). Null: it is damaged. */
export function decodeAgreement(bytes: Uint8Array): Agreement | null {
  if (bytes.length < FIXED) return null
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const count = view.getUint16(10)
  if (count > MAX_CLAIMS || bytes.length < FIXED + count * MAC || bytes[8] > 1 || bytes[9] !== 0) return null
  const word = (at: number) => view.getUint32(12 + at * 4)
  const color = (at: number) => (word(at) === NONE_ON_WIRE ? NONE : word(at))
  return {
    heard: view.getBigUint64(0).toString(16).padStart(16, '0'),
    carries: bytes[8] === 1,
    version: word(0),
    held: word(1),
    read: word(2),
    readsFrom: color(3),
    lowest: color(4),
    refused: refusedOf(bytes),
    claims: Array.from(
      { length: count },
      (_, at) => view.getUint16(FIXED + at * MAC) * 2 ** 32 + view.getUint32(FIXED + at * MAC + 2),
    ),
  }
}

function refusedOf(bytes: Uint8Array): boolean[] {
  const refused: boolean[] = new Array(MAX_CLAIMS).fill(false)
  for (let at = 0; at < MAX_CLAIMS; at++) refused[at] = (bytes[REFUSED_AT + (at >> 3)] & (1 << (at & 7))) !== 0
  return refused
}

/** Joins a control frame's head and an agreement, sealed when there is a key. */
export function appendAgreement(head: Uint8Array, agreement: Uint8Array, key: Uint8Array | null): Uint8Array {
  const whole = Buffer.concat([head, agreement])
  return key === null ? whole : Buffer.concat([whole, seal(whole, key)])
}

/** The agreement behind a head of `headLength` bytes. Null: damaged, or without the key's seal. */
export function readAgreement(frame: Uint8Array, headLength: number, key: Uint8Array | null): Agreement | null {
  const agreement = decodeAgreement(frame.subarray(headLength))
  if (agreement === null || key === null) return agreement
  const end = headLength + FIXED + agreement.claims.length * MAC
  if (frame.length < end + SEAL) return null
  return timingSafeEqual(seal(frame.subarray(0, end), key), frame.subarray(end, end + SEAL)) ? agreement : null
}

function seal(bytes: Uint8Array, key: Uint8Array): Uint8Array {
  return createHmac('sha256', key).update(bytes).digest()
}
