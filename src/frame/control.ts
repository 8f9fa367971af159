// Control frames between switches: discovery and liveness (HELLO), channel closure (MARKER, MARKER_ACK), and on uplinks
// the head of an AGREEMENT (agreement.ts). EtherType 0x88B5, one fixed layout for all; all integers big-endian; padded
// names.
//
//   0 destination 6 | source 6 | 88B5                  14 magic "SNSW" | version 1 | type 1 | accepts 1 | sends 1
//  22 boot id 8 | network 64 | host 64                158 epoch 4 | count 8 | number 8
// 178 heard: boot id 8 | its number 8                 194 bytes
//
// Boot id and number are the sender's end of the channel, `heard` the one that the frame is for (zeroes: none was heard
// of); `accepts` and `sends` are generations (src/epoch/peer-channel.ts), the latter plus 4 when it is not taken on for
// that end. In a HELLO `epoch` is the highest the sender knows of, `count` how many colored frames it has sent in the
// generation that it sends in; in a MARKER `count` is how many of those had a color below `epoch`. A HELLO to
// all on a LAN is of no channel: the sender's ends there have higher numbers. Under a pre-shared key:
// sealed-control.ts.

import { EtherType } from './ethernet.js'

export const CONTROL_LENGTH = 194
/** 1 and 2 (sealed) knew no generations. */
export const CONTROL_VERSION = 3
export const CONTROL_MAGIC = 0x534e5357
const NAME_LENGTH = 64
const LAST_GENERATION = 3
/** Beside `sends`. */
const NOT_TAKEN = 4

export const ControlType = { HELLO: 1, MARKER: 2, MARKER_ACK: 3, AGREEMENT: 4 } as const
export type ControlType = (typeof ControlType)[keyof typeof ControlType]

/** Where control frames go while the peer is unknown: a locally administered group address, forwarded by any bridge. */
export const CONTROL_GROUP = Uint8Array.of(0x03, 0x53, 0x4e, 0x53, 0x57, 0x00)

export interface ControlMessage {
  readonly type: ControlType
  /** 16 hex digits, new with every start of a daemon's datapath. */
  readonly bootId: string
  readonly network: string
  readonly host: string
  readonly number: number
  readonly heard: { readonly bootId: string; readonly number: number }
  readonly accepts: number
  readonly sends: number
  readonly takes: boolean
  readonly epoch: number
  readonly count: number
}

/** Why a control frame was refused; counted under this name. */
export type ControlFault = 'control-malformed' | 'control-version' | 'control-unauthenticated'

export function encodeControl(message: ControlMessage, destination: Uint8Array, source: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(CONTROL_LENGTH)
  const view = new DataView(bytes.buffer)
  bytes.set(destination, 0)
  bytes.set(source, 6)
  view.setUint16(12, EtherType.CONTROL)
  view.setUint32(14, CONTROL_MAGIC)
  view.setUint8(18, CONTROL_VERSION)
  view.setUint8(19, message.type)
  view.setUint8(20, message.accepts)
  view.setUint8(21, message.sends + (message.takes ? 0 : NOT_TAKEN))
  view.setBigUint64(22, BigInt(`0x${message.bootId}`))
  bytes.set(Buffer.from(message.network), 30)
  bytes.set(Buffer.from(message.host), 94)
  view.setUint32(158, message.epoch)
  view.setBigUint64(162, BigInt(message.count))
  view.setBigUint64(170, BigInt(message.number))
  view.setBigUint64(178, BigInt(`0x${message.heard.bootId}`))
  view.setBigUint64(186, BigInt(message.heard.number))
  return bytes
}

/** `bytes` begins at the destination address; longer frames (padding) are accepted. */
export function decodeControl(bytes: Uint8Array, version = CONTROL_VERSION): ControlMessage | ControlFault {
  if (bytes.length < 20) return 'control-malformed'
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  if (view.getUint32(14) !== CONTROL_MAGIC) return 'control-malformed'
  if (view.getUint8(18) !== version) return 'control-version'
  if (bytes.length < CONTROL_LENGTH) return 'control-malformed'
  const type = view.getUint8(19)
  if (!isControlType(type)) return 'control-malformed'
  const network = readName(bytes, 30)
  const host = readName(bytes, 94)
  const [count, number, heard] = [162, 170, 186].map((at) => Number(view.getBigUint64(at)))
  if (network === null || host === null) return 'control-malformed'
  if (![count, number, heard].every(Number.isSafeInteger)) return 'control-malformed'
  const [accepts, sends] = [view.getUint8(20), view.getUint8(21)]
  if (accepts > LAST_GENERATION || sends > LAST_GENERATION + NOT_TAKEN) return 'control-malformed'
  const bootId = (at: number) => view.getBigUint64(at).toString(16).padStart(16, '0')
  return {
    type,
    bootId: bootId(22),
    network,
    host,
    number,
    heard: { bootId: bootId(178), number: heard },
    accepts,
    sends: sends % NOT_TAKEN,
    takes: sends < NOT_TAKEN,
    epoch: view.getUint32(158),
    count,
  }
}

function isControlType(type: number): type is ControlType {
  return type >= ControlType.HELLO && type <= ControlType.AGREEMENT
}

function readName(bytes: Uint8Array, offset: number): string | null {
  const field = bytes.subarray(offset, offset + NAME_LENGTH)
  const end = field.indexOf(0)
  if (end < 0 || field.subarray(end).some((byte) => byte !== 0)) return null
  const text = Buffer.from(field.subarray(0, end)).toString('latin1')
  return /^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$/.test(text) ? text : null
}
