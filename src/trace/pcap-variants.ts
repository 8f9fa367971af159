// Relatives of pcap that have its magic number and longer records: Wireshark, too, knows them only by trying. Looked
// for when a file does not make sense as what it claims to be.

import { PACKET_LIMIT } from './pcapng.js'

const RECORD_HEADER = 16
/** Records looked at. */
const TRIED = 8
const THIRTY_YEARS_S = 1e9

/** Lengths of record headers (wiretap/libpcap.h: nokia, ss990417, ss990915), and who wrote them. */
const VARIANTS: readonly (readonly [header: number, name: string])[] = [
  [20, 'pcap of Nokia'],
  [24, 'modified pcap (Red Hat 6.1)'],
  [28, 'modified pcap (SuSE 6.3)'],
]

/**
 * The variant's name, or null: standard, or nothing that we know. `view` from `start` on: the records. What can be read
 * as a standard file is one, however odd it is.
 */
export function variantOf(view: DataView, start: number, end: number, littleEndian: boolean): string | null {
  const records = { view, start, end, littleEndian }
  if (records.end - start < RECORD_HEADER || isWalkable(records, RECORD_HEADER)) return null
  return VARIANTS.find(([header]) => isWalkable(records, header) && isPlausible(records, header))?.[1] ?? null
}

interface Records {
  readonly view: DataView
  readonly start: number
  readonly end: number
  readonly littleEndian: boolean
}

/** Whether no length among the first records is impossible. */
function isWalkable({ view, start, end, littleEndian }: Records, header: number): boolean {
  let at = start
  for (let record = 0; record < TRIED && end - at >= header; record++) {
    const captured = view.getUint32(at + 8, littleEndian)
    if (captured > PACKET_LIMIT) return false
    at += header + captured
  }
  return true
}

/** Whether there are two records, their times are near each other, and no packet is longer than it was. */
function isPlausible({ view, start, end, littleEndian }: Records, header: number): boolean {
  let at = start
  for (let record = 0; record < TRIED && end - at >= header; record++) {
    const captured = view.getUint32(at + 8, littleEndian)
    const away = view.getUint32(at, littleEndian) - view.getUint32(start, littleEndian)
    if (captured > view.getUint32(at + 12, littleEndian) || Math.abs(away) > THIRTY_YEARS_S) return false
    at += header + captured
  }
  return at > start + header + view.getUint32(start + 8, littleEndian)
}
