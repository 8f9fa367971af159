// Reads what tcpdump wrote (the classic format, pcap-savefile(5)) as far as a TCP flow's progress needs it.

import type { Gap, Retransmission } from './rows.js'

const FILE_HEADER = 24
const RECORD_HEADER = 16
const MAGIC_MICROSECONDS = 0xa1b2c3d4
const ETHERNET = 14

/** One TCP segment of an IPv4 frame without VLAN tag. */
export interface Segment {
  readonly atUs: number
  readonly sequence: number
  /** Bytes of payload. */
  readonly length: number
  readonly acknowledgment: number
}

export function segments(file: Buffer): Segment[] {
  if (file.length < FILE_HEADER) return []
  if (file.readUInt32LE(0) !== MAGIC_MICROSECONDS) throw new Error('not a little-endian pcap file with microseconds')
  const found: Segment[] = []
  for (let at = FILE_HEADER; at + RECORD_HEADER <= file.length; ) {
    const atUs = file.readUInt32LE(at) * 1e6 + file.readUInt32LE(at + 4)
    const captured = file.readUInt32LE(at + 8)
    const frame = at + RECORD_HEADER
    at = frame + captured
    // The last record may be half written.
    if (at > file.length) break
    if (captured < ETHERNET + 40 || file.readUInt16BE(frame + 12) !== 0x0800) continue
    const tcp = frame + ETHERNET + (file[frame + ETHERNET]! & 15) * 4
    if (file[frame + ETHERNET + 9] !== 6 || tcp + 20 > at) continue
    const length = file.readUInt16BE(frame + ETHERNET + 2) - (tcp - frame - ETHERNET) - (file[tcp + 12]! >> 4) * 4
    found.push({ atUs, sequence: file.readUInt32BE(tcp + 4), length, acknowledgment: file.readUInt32BE(tcp + 8) })
  }
  return found
}

/**
 * The times, of `leastUs` at least, between two advances of the acknowledgment number: how long a flow's receiver got
 * nothing new, as seen from the receiver's own answers.
 */
export function acknowledgmentGaps(answers: readonly Segment[], leastUs: number): { gaps: Gap[]; bytes: number } {
  const gaps: Gap[] = []
  let bytes = 0
  let last: Segment | undefined
  for (const answer of answers) {
    if (last !== undefined) {
      const advance = (answer.acknowledgment - last.acknowledgment) | 0
      if (advance <= 0) continue
      bytes += advance
      const length = answer.atUs - last.atUs
      if (length >= leastUs) gaps.push([last.atUs, length])
    }
    last = answer
  }
  return { gaps, bytes }
}

/** Segments that bring what the same sender has sent before; read where it sends, so that nothing is overtaken yet. */
export function retransmissions(sent: readonly Segment[]): Retransmission[] {
  const found: Retransmission[] = []
  let next: number | undefined
  for (const { atUs, sequence, length } of sent) {
    if (length === 0) continue
    const end = (sequence + length) | 0
    if (next !== undefined && ((end - next) | 0) <= 0) found.push([atUs, 1])
    else next = end
  }
  return found
}
