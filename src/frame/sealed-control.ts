// Control frames under a pre-shared key: the layout of control.ts with another version, then what makes a copy useless,
// then a seal over all of it.
//
//   0 as in control.ts, version 4                     194 sequence 8
// 202 heard: boot id 8 | its sequence 8               218 HMAC-SHA-256 of bytes 0 to 217, 32                        250
//                                                     bytes
//
// `sequence` grows with every frame of a boot, whatever its type and whomever it goes to. `heard` is whom the frame is
// for: the receiver's boot and the last sequence heard of it, or zeroes while nothing was heard.
// switch/forwarding/peers/handshake.ts says what is believed.

import { createHmac, timingSafeEqual } from 'node:crypto'
import { CONTROL_LENGTH, type ControlFault, type ControlMessage, decodeControl, encodeControl } from './control.js'

export const SEALED_VERSION = 4
export const SEALED_LENGTH = 250
const SEAL_AT = 218

/** A boot of a switch, and how far it has counted. */
export interface BootSequence {
  /** 16 hex digits. */
  readonly bootId: string
  readonly sequence: number
}

export const NOBODY: BootSequence = { bootId: '0'.repeat(16), sequence: 0 }

export interface SealedMessage {
  readonly message: ControlMessage
  readonly sequence: number
  readonly heard: BootSequence
}

export function encodeSealed(
  { message, sequence, heard }: SealedMessage,
  key: Uint8Array,
  destination: Uint8Array,
  source: Uint8Array,
): Uint8Array {
  const bytes = new Uint8Array(SEALED_LENGTH)
  bytes.set(encodeControl(message, destination, source))
  const view = new DataView(bytes.buffer)
  view.setUint8(18, SEALED_VERSION)
  view.setBigUint64(194, BigInt(sequence))
  view.setBigUint64(202, BigInt(`0x${heard.bootId}`))
  view.setBigUint64(210, BigInt(heard.sequence))
  bytes.set(seal(bytes, key), SEAL_AT)
  return bytes
}

/** Like decodeControl; what does not carry the key's seal is not looked at any further. */
export function decodeSealed(bytes: Uint8Array, key: Uint8Array): SealedMessage | ControlFault {
  if (bytes.length < CONTROL_LENGTH) return 'control-malformed'
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  const plain = decodeControl(bytes)
  if (plain !== 'control-version') return typeof plain === 'string' ? plain : 'control-unauthenticated'
  if (view.getUint8(18) === SEALED_VERSION) {
    if (bytes.length < SEALED_LENGTH) return 'control-malformed'
    if (!timingSafeEqual(seal(bytes, key), bytes.subarray(SEAL_AT, SEALED_LENGTH))) return 'control-unauthenticated'
  }
  const message = decodeControl(bytes, SEALED_VERSION)
  if (typeof message === 'string') return message
  const sequence = Number(view.getBigUint64(194))
  const heard = {
    bootId: view.getBigUint64(202).toString(16).padStart(16, '0'),
    sequence: Number(view.getBigUint64(210)),
  }
  if (!Number.isSafeInteger(sequence) || !Number.isSafeInteger(heard.sequence)) return 'control-malformed'
  return { message, sequence, heard }
}

function seal(bytes: Uint8Array, key: Uint8Array): Uint8Array {
  return createHmac('sha256', key).update(bytes.subarray(0, SEAL_AT)).digest()
}
