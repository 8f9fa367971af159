// The capture that all players play: numbered frames at gaps of a kind.

import { writeFileSync } from 'node:fs'

const ETHERTYPE = [0x88, 0xb6]
/** Where a frame has its number. */
export const NUMBER_AT = 14
const FRAME_LENGTH = 60
const FIRST_GAP_US = 500_000

/** Classic pcap with microseconds, which both read alike. Returns times in nanoseconds since the first frame. */
export function writeCapture(file: string, frames: number, gapUs: (i: number) => number): number[] {
  const record = 16 + FRAME_LENGTH
  const bytes = Buffer.alloc(24 + frames * record)
  bytes.writeUInt32LE(0xa1b2c3d4, 0)
  bytes.writeUInt16LE(2, 4)
  bytes.writeUInt16LE(4, 6)
  bytes.writeUInt32LE(65535, 16)
  bytes.writeUInt32LE(1, 20)
  const times: number[] = []
  let us = 0
  for (let i = 0; i < frames; i++) {
    if (i > 0) us += gapUs(i)
    times.push(us * 1000)
    const at = 24 + i * record
    bytes.writeUInt32LE(1_790_000_000 + Math.floor(us / 1e6), at)
    bytes.writeUInt32LE(us % 1e6, at + 4)
    bytes.writeUInt32LE(FRAME_LENGTH, at + 8)
    bytes.writeUInt32LE(FRAME_LENGTH, at + 12)
    bytes.set([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, ...ETHERTYPE], at + 16)
    bytes.writeUInt32BE(i, at + 16 + NUMBER_AT)
  }
  writeFileSync(file, bytes)
  return times
}

/** Exponential gaps, the same each time: traffic of many independent senders. */
export function randomGaps(meanUs: number): (i: number) => number {
  let state = 1
  return (i) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return i === 1 ? FIRST_GAP_US : Math.round(-Math.log((state + 1) / 2 ** 32) * meanUs)
  }
}
