// GSO frames in tunnels, as the kernel hands them to a packet socket, and what a receiver would make of frames that are
// no longer GSO: an independent look at every header, length and checksum.

import assert from 'node:assert/strict'
import { Frame, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'

export type Bytes = readonly number[] | Uint8Array

const be16 = (value: number) => [(value >> 8) & 0xff, value & 0xff]
const join = (...parts: Bytes[]) => Uint8Array.from(parts.flatMap((part) => [...part]))

/** One's complement sum of 16-bit words in network order. */
export function sum(...parts: Bytes[]): number {
  const bytes = join(...parts)
  let total = 0
  for (let at = 0; at < bytes.length; at += 2) total += (bytes[at] << 8) | (bytes[at + 1] ?? 0)
  while (total > 0xffff) total = (total & 0xffff) + (total >>> 16)
  return total
}

export interface Piece {
  readonly bytes: Uint8Array
  /** The EtherType, or IP protocol, that this is announced by. */
  readonly type: number
  /** From the start of `bytes`: the innermost transport header. */
  readonly transport: number
}

const A4 = [10, 0, 0, 1]
const B4 = [10, 0, 0, 2]
const A6 = [0xfd, 0, ...new Array(13).fill(0), 1]
const B6 = [0xfd, 0, ...new Array(13).fill(0), 2]
const pseudo = (version: 4 | 6, protocol: number, length: number) =>
  sum(version === 4 ? [...A4, ...B4] : [...A6, ...B6], [0, protocol], be16(length))

export function ip4(inner: Piece, options: Bytes = []): Piece {
  const length = 20 + options.length
  const header = join(
    [
      0x40 | (length / 4),
      0,
      ...be16(length + inner.bytes.length),
      0xff,
      0xf0,
      0x40,
      0,
      64,
      inner.type,
      0,
      0,
      ...A4,
      ...B4,
    ],
    options,
  )
  header.set(be16(~sum(header) & 0xffff), 10)
  return { bytes: join(header, inner.bytes), type: 0x0800, transport: length + inner.transport }
}

/** `options`: an extension header of destination options in front of what is inside. */
export function ip6(inner: Piece, options = false): Piece {
  const extension = options ? [inner.type, 0, 4, 1, 4, 1, 1, 0] : []
  const length = extension.length + inner.bytes.length
  const header = [0x60, 0, 0, 0, ...be16(length), options ? 60 : inner.type, 64, ...A6, ...B6, ...extension]
  const type = 0x86dd
  return { bytes: join(header, inner.bytes), type, transport: header.length + inner.transport }
}

export function tcp(version: 4 | 6, payload: Bytes, flags = 0x18): Piece {
  const header = [3, 232, 7, 208, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1, 0x80, flags, 32, 0, 0, 0, 0, 0]
  // With timestamps, as always.
  const whole = join(header, [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8], payload)
  whole.set(be16(pseudo(version, 6, whole.length)), 16)
  return { bytes: whole, type: 6, transport: 0 }
}

export function udp(version: 4 | 6, payload: Bytes): Piece {
  const whole = join([3, 232, 7, 208], be16(8 + payload.length), [0, 0], payload)
  whole.set(be16(pseudo(version, 17, whole.length)), 6)
  return { bytes: whole, type: 17, transport: 0 }
}

/** A tunnel over UDP; `version`: of the IP header in front, where it has a checksum to come. */
export function overUdp(inner: Piece, header: Bytes, version: 4 | 6 | null): Piece {
  const length = 8 + header.length + inner.bytes.length
  const check = version === null ? [0, 0] : be16(pseudo(version, 17, length))
  const head = join([0xc0, 1, 0x12, 0xb5], be16(length), check, header)
  return { bytes: join(head, inner.bytes), type: 17, transport: head.length + inner.transport }
}

export function gre(inner: Piece, checksum = false): Piece {
  const head = join([checksum ? 0xa0 : 0x20, 0], be16(inner.type), checksum ? [0, 0, 0, 0] : [], [0, 0, 0, 9])
  return { bytes: join(head, inner.bytes), type: 47, transport: head.length + inner.transport }
}

export function ethernet(inner: Piece, tags: Bytes = []): Piece {
  const head = join([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1], tags, be16(inner.type))
  return { bytes: join(head, inner.bytes), type: 0x6558, transport: head.length + inner.transport }
}

export function mpls(inner: Piece, labels = 2): Piece {
  const head = Array.from({ length: labels }, (_, i) => [0, 1, i === labels - 1 ? 1 : 0, 64]).flat()
  return { bytes: join(head, inner.bytes), type: 0x8847, transport: head.length + inner.transport }
}

export function pppoe(inner: Piece): Piece {
  const head = [0x11, 0, 0, 5, ...be16(2 + inner.bytes.length), 0, inner.type === 0x0800 ? 0x21 : 0x57]
  return { bytes: join(head, inner.bytes), type: 0x8864, transport: head.length + inner.transport }
}

/** With its virtio-net header, in memory that a view looks at, as in a port. */
export function gsoFrame(whole: Piece, size: number, type: number, finished = false): Frame {
  const bytes = new Uint8Array(VNET_HEADER_LENGTH + whole.bytes.length)
  const view = new DataView(bytes.buffer)
  view.setUint8(0, finished ? 2 : 1)
  view.setUint8(1, type)
  view.setUint16(4, size, true)
  if (!finished) view.setUint16(6, whole.transport, true)
  if (!finished) view.setUint16(8, (type & 0x7f) === 5 ? 6 : 16, true)
  bytes.set(whole.bytes, VNET_HEADER_LENGTH)
  const frame = new Frame(bytes)
  frame.view = view
  frame.address = 1
  frame.start = VNET_HEADER_LENGTH
  frame.length = whole.bytes.length
  frame.tagTpid = 0x8100
  frame.tagTci = 5
  return frame
}

function setIp(segment: Uint8Array, at: number, i: number): void {
  const words = new DataView(segment.buffer)
  if (segment[at] >> 4 === 6) {
    words.setUint16(at + 4, segment.length - at - 40)
    return
  }
  words.setUint16(at + 2, segment.length - at)
  words.setUint16(at + 4, words.getUint16(at + 4) + i)
  words.setUint16(at + 10, 0)
  words.setUint16(at + 10, ~sum(segment.subarray(at, at + (segment[at] & 15) * 4)))
}

/**
 * The segments of a frame in a tunnel that has told the kernel so, but not of a checksum of the tunnel’s own: as
 * tcp_gso_segment, __udp_gso_segment, __skb_udp_tunnel_segment and gre_gso_segment make them. `header`: virtio-net;
 * `outer`: the length of the outer headers.
 */
export function cutAsKernel(header: Uint8Array, frame: Uint8Array, outer: number): Uint8Array[] {
  const words = new DataView(header.buffer, header.byteOffset)
  const [size, transport] = [words.getUint16(4, true), words.getUint16(6, true)]
  const isTcp = header[1] !== 5
  const payload = transport + (isTcp ? (frame[transport + 12] >> 4) * 4 : 8)
  const segments: Uint8Array[] = []
  for (let from = payload, i = 0; from < frame.length; from += size, i++) {
    const segment = Uint8Array.from([...frame.subarray(0, payload), ...frame.subarray(from, from + size)])
    const view = new DataView(segment.buffer)
    const check = transport + (isTcp ? 16 : 6)
    const length = segment.length - transport
    const left = sum(segment.subarray(check, check + 2), be16(~(frame.length - transport)), be16(length))
    if (isTcp) {
      view.setUint32(transport + 4, view.getUint32(transport + 4) + i * size)
      if (from + size < frame.length) segment[transport + 13] &= ~0x09
    } else view.setUint16(transport + 4, length)
    view.setUint16(check, left)
    view.setUint16(check, ~sum(segment.subarray(transport)))
    setIp(segment, 14 + outer, i)
    setIp(segment, 14, i)
    const udp = segment[14] >> 4 === 4 ? 34 : 54
    if ((segment[14] >> 4 === 4 ? segment[23] : segment[20]) === 17) view.setUint16(udp + 4, segment.length - udp)
    segments.push(segment)
  }
  return segments
}

export interface Seen {
  readonly ids: number[]
  readonly sequence: number
  readonly flags: number
  readonly payload: Uint8Array
}

/** Reads a finished frame as a strict receiver does; throws where anything is wrong. */
export function receive(frame: Uint8Array): Seen {
  const ids: number[] = []
  let at = 12
  let type = word(frame, at)
  at += 2
  for (;;) {
    if (type === 0x8100 || type === 0x88a8) {
      type = word(frame, at + 2)
      at += 4
    } else if (type === 0x6558) {
      type = word(frame, at + 12)
      at += 14
    } else if (type === 0x8847) {
      while ((frame[at + 2] & 1) === 0) at += 4
      at += 4
      type = frame[at] >> 4 === 4 ? 0x0800 : 0x86dd
    } else if (type === 0x8864) {
      assert.equal(word(frame, at + 4), frame.length - at - 6, 'PPPoE length')
      type = frame[at + 7] === 0x21 ? 0x0800 : 0x86dd
      at += 8
    } else {
      const ip = at
      let protocol = frame[ip + 9]
      let addresses = frame.subarray(ip + 12, ip + 20)
      if (type === 0x0800) {
        const length = (frame[ip] & 15) * 4
        assert.equal(sum(frame.subarray(ip, ip + length)), 0xffff, 'IPv4 header checksum')
        assert.equal(word(frame, ip + 2), frame.length - ip, 'IPv4 length')
        ids.push(word(frame, ip + 4))
        at += length
      } else {
        assert.equal(type, 0x86dd)
        assert.equal(word(frame, ip + 4), frame.length - ip - 40, 'IPv6 length')
        addresses = frame.subarray(ip + 8, ip + 40)
        protocol = frame[ip + 6]
        at += 40
        if (protocol === 60) {
          protocol = frame[at]
          at += 8
        }
      }
      const rest = frame.subarray(at)
      if (protocol === 4) type = 0x0800
      else if (protocol === 41) type = 0x86dd
      else if (protocol === 47) {
        if ((rest[0] & 0x80) !== 0) assert.equal(sum(rest), 0xffff, 'GRE checksum')
        type = word(rest, 2)
        at += (rest[0] & 0x80) !== 0 ? 12 : 8
      } else {
        const isTunnel = protocol === 17 && word(rest, 2) === 0x12b5
        if (protocol === 17) assert.equal(word(rest, 4), rest.length, 'UDP length')
        if (!isTunnel || word(rest, 6) !== 0) {
          assert.equal(sum(addresses, [0, protocol], be16(rest.length), rest), 0xffff, 'transport checksum')
        }
        if (!isTunnel) {
          const header = protocol === 6 ? (rest[12] >> 4) * 4 : 8
          const sequence = protocol === 6 ? new DataView(frame.buffer, frame.byteOffset + at).getUint32(4) : 0
          return { ids, sequence, flags: protocol === 6 ? rest[13] : 0, payload: rest.slice(header) }
        }
        // VXLAN, Geneve without and with options, and IP at once.
        const header = rest[8] >> 4 === 4 ? 0 : rest[8] === 8 ? 8 : 8 + (rest[8] & 0x3f) * 4
        at += 8 + header
        type = header === 0 ? 0x0800 : 0x6558
      }
    }
  }
}

/** What was received is this payload in pieces of `size`, numbered and flagged as the kernel's segments are. */
export function checkPieces(seen: readonly Seen[], payload: Uint8Array, size: number, isUdp: boolean): void {
  assert.ok(Buffer.concat(seen.map((one) => one.payload)).equals(payload))
  for (const [i, { ids, sequence, flags, payload: piece }] of seen.entries()) {
    assert.ok(piece.length === size || i === seen.length - 1)
    for (const id of ids) assert.equal(id, (0xfff0 + i) & 0xffff)
    if (isUdp) continue
    assert.equal(sequence, (0xffffff00 + i * size) >>> 0)
    assert.equal(flags, i === seen.length - 1 ? 0x18 : 0x10)
  }
}

const word = (bytes: Uint8Array, at: number) => (bytes[at] << 8) | bytes[at + 1]
