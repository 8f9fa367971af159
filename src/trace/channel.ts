// The channel state of a snapshot as a pcapng file: the frames that were sent before their sender's cut and had not
// been read at their receiver's. Wireshark opens it as it is: one interface per receiving port, color and verdict in
// the packet comment. It is strict on reading: a restore hands these frames to guests, so a doubtful file is refused
// whole.

import { SnapswitchError } from '../errors/errors.js'
import type { InterfaceBlock, PacketBlock } from './pcapng.js'
import { readPcapng } from './pcapng-reader.js'
import { PcapngWriter } from './pcapng-writer.js'
import { decodeRecord, encodeRecord } from './records.js'

/**
 * `in-transit`: reached the switch after the receiver's cut. `residue`: delivered before it, but still unread in the
 * receiver's device queue.
 */
export type ChannelVerdict = 'in-transit' | 'residue'

export interface VlanTag {
  /** EtherType of the tag: 0x8100 or 0x88a8. */
  readonly tpid: number
  /** Priority, DEI and VLAN id. */
  readonly tci: number
}

export interface ChannelFrame {
  /** The receiving port and the machine that it belongs to. */
  readonly port: string
  readonly vm: string
  /** Epoch of the sender when it sent the frame (u32). */
  readonly color: number
  readonly verdict: ChannelVerdict
  /** Nanoseconds of CLOCK_REALTIME at which the switch got the frame. */
  readonly timeNs: bigint
  /** struct virtio_net_hdr, 10 bytes, little endian: what checksum and segmentation work is still to be done. */
  readonly vnetHeader: Uint8Array
  /** The outer tag when the kernel keeps it beside the frame. A frame that was read from a file has it in `bytes`. */
  readonly vlanTag: VlanTag | null
  readonly bytes: Uint8Array
}

const TITLE = 'snapswitch channel state, version 1'
/** The names that src/api allows. */
const NAME = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$/
const COMMENT = /^snapswitch color=(0|[1-9][0-9]{0,9}) verdict=(in-transit|residue) vnet=([0-9a-f]{20})$/
const VM = /^vm=(.+)$/
/** Its payload is the number of frames (u32): a file that lost its tail at a block boundary shows. */
const END_RECORD = 1

const VNET_LENGTH = 10
const VNET_NEEDS_CSUM = 1
const MAC_ADDRESSES = 12
const TAG_LENGTH = 4

/**
 * The channel state as a file, frames in the given order.
 * @throws SnapswitchError TRACE_INVALID when a frame has a name, header or length that the file cannot carry
 */
export function writeChannel(frames: readonly ChannelFrame[]): Uint8Array {
  const writer = new PcapngWriter({ application: 'snapswitch', comment: TITLE })
  const interfaces = new Map<string, number>()
  for (const given of frames) {
    checkFrame(given)
    const frame = inlineVlanTag(given)
    const key = `${frame.port} ${frame.vm}`
    let id = interfaces.get(key)
    if (id === undefined) {
      id = writer.interface({ name: frame.port, description: `vm=${frame.vm}` })
      interfaces.set(key, id)
    }
    const vnet = Buffer.from(frame.vnetHeader).toString('hex')
    writer.packet(id, frame.timeNs, frame.bytes, {
      direction: 'outbound',
      comment: `snapswitch color=${frame.color} verdict=${frame.verdict} vnet=${vnet}`,
    })
  }
  const count = new Uint8Array(4)
  new DataView(count.buffer).setUint32(0, frames.length, true)
  writer.local(encodeRecord({ kind: END_RECORD, payload: count }))
  return writer.take()
}

/**
 * The frames of a channel-state file, in order; `bytes` are views into the file.
 * @throws SnapswitchError TRACE_INVALID when anything in it is not as `writeChannel` writes it
 */
export function readChannel(file: Uint8Array): ChannelFrame[] {
  const frames: ChannelFrame[] = []
  let expected: number | null = null
  for (const block of readPcapng(file)) {
    if (expected !== null) throw invalid(block.offset, 'blocks follow the end of the channel state')
    if (block.kind === 'section') {
      if (block.offset !== 0 || !block.comments.includes(TITLE)) {
        throw invalid(block.offset, `the file is not titled “${TITLE}”`)
      }
    } else if (block.kind === 'packet') {
      frames.push(parseFrame(block))
    } else if (block.kind === 'other') {
      const record = decodeRecord(block)
      if (record?.kind !== END_RECORD || record.payload.length !== 4) {
        throw invalid(block.offset, `a block of type 0x${block.type.toString(16)} does not belong in a channel state`)
      }
      expected = new DataView(record.payload.buffer, record.payload.byteOffset).getUint32(0, true)
    }
  }
  if (expected === null) throw invalid(file.length, 'the channel state has no end record: it was cut short')
  if (expected !== frames.length) {
    throw invalid(file.length, `the channel state should have ${expected} frames and has ${frames.length}`)
  }
  return frames
}

/**
 * The same frame with its outer tag where it is on the wire, after the MAC addresses. Checksum start and (for GSO)
 * header length count from the frame's first byte (linux/virtio_net.h), so both move by the tag's length.
 */
export function inlineVlanTag(frame: ChannelFrame): ChannelFrame {
  const { vlanTag, bytes, vnetHeader } = frame
  if (vlanTag === null) return frame
  const tagged = new Uint8Array(bytes.length + TAG_LENGTH)
  tagged.set(bytes.subarray(0, MAC_ADDRESSES))
  const tag = new DataView(tagged.buffer, MAC_ADDRESSES, TAG_LENGTH)
  tag.setUint16(0, vlanTag.tpid)
  tag.setUint16(2, vlanTag.tci)
  tagged.set(bytes.subarray(MAC_ADDRESSES), MAC_ADDRESSES + TAG_LENGTH)
  const header = new Uint8Array(vnetHeader)
  const view = new DataView(header.buffer)
  if (view.getUint8(0) & VNET_NEEDS_CSUM) view.setUint16(6, view.getUint16(6, true) + TAG_LENGTH, true)
  if (view.getUint8(1) !== 0) view.setUint16(2, view.getUint16(2, true) + TAG_LENGTH, true)
  return { ...frame, vlanTag: null, vnetHeader: header, bytes: tagged }
}

function checkFrame(frame: ChannelFrame): void {
  const reject = (what: string) =>
    new SnapswitchError(
      'TRACE_INVALID',
      what,
      'This is a defect of the switch; please report it with the daemon’s log.',
    )
  if (!NAME.test(frame.port)) throw reject(`“${frame.port}” cannot be the port of a recorded frame`)
  if (!NAME.test(frame.vm)) throw reject(`“${frame.vm}” cannot be the machine of a recorded frame`)
  if (!isU32(frame.color)) throw reject(`${frame.color} cannot be the color of a recorded frame`)
  if (frame.vnetHeader.length !== VNET_LENGTH) {
    throw reject(`a recorded frame has a virtio-net header of ${frame.vnetHeader.length} bytes, not ${VNET_LENGTH}`)
  }
  if (frame.vlanTag !== null && frame.bytes.length < MAC_ADDRESSES) {
    throw reject(`a recorded frame of ${frame.bytes.length} bytes cannot have a VLAN tag`)
  }
}

function parseFrame(block: PacketBlock): ChannelFrame {
  if (block.comments.length !== 1) throw invalid(block.offset, 'a frame does not have exactly one comment')
  const found = COMMENT.exec(block.comments[0])
  if (found === null) throw invalid(block.offset, `a frame's comment is not ours: “${block.comments[0]}”`)
  const color = Number(found[1])
  if (!isU32(color)) throw invalid(block.offset, `color ${color} does not fit 32 bits`)
  if (block.timeNs === null) throw invalid(block.offset, 'a frame has no time')
  if (block.originalLength !== block.bytes.length) throw invalid(block.offset, 'a frame is cut short')
  return {
    ...receiverOf(block.interface),
    color,
    verdict: found[2] as ChannelVerdict,
    timeNs: block.timeNs,
    vnetHeader: new Uint8Array(Buffer.from(found[3], 'hex')),
    vlanTag: null,
    bytes: block.bytes,
  }
}

function receiverOf(block: InterfaceBlock): { port: string; vm: string } {
  const port = block.name ?? ''
  const vm = VM.exec(block.description ?? '')?.[1] ?? ''
  if (!NAME.test(port) || !NAME.test(vm)) {
    throw invalid(block.offset, 'an interface does not name its port and machine')
  }
  return { port, vm }
}

function isU32(value: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= 0xffffffff
}

function invalid(offset: number, what: string): SnapswitchError {
  return new SnapswitchError(
    'TRACE_INVALID',
    `${what} (at byte ${offset})`,
    'Use the channel-state file as the snapshot left it; fetch it anew when it came from another host.',
  )
}
