// `scripts/bench trace`: how many small frames a second one core writes into traces and reads from them, by format,
// with capinfos (C, counts packets) on the same files beside it.

import { execFileSync } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PcapngWriter } from '../../src/trace/pcapng-writer.js'
import { openTrace } from '../../src/trace/source.js'

const USAGE = `Usage: scripts/bench trace [ROUNDS]     rounds, 5 unless given; each writes and reads a million frames of 60 bytes

Prints medians in thousands of frames a second. The files lie in TMPDIR (about 0.7 GB, for the time of the run).
`
const FRAMES = 1_000_000
const FRAME_BYTES = 60
const TAKEN = 256 * 1024
const FIRST_SECOND = 1_700_000_000

type Write = (writer: PcapngWriter, id: number, at: number, frame: Uint8Array) => void

const seconds = (at: number) => FIRST_SECOND + Math.floor(at / 1e6)
const nanoseconds = (at: number) => (at % 1e6) * 1000

/** Ways of writing: the bare frame, as `capture` does with a verdict in the comment, with all options as objects. */
const ways: Readonly<Record<string, Write>> = {
  'frames with direction': (writer, id, at, frame) =>
    writer.frame(id, seconds(at), nanoseconds(at), frame, 0, FRAME_BYTES, FRAME_BYTES, 1 + (at & 1)),
  'and a comment': (writer, id, at, frame) =>
    writer.frame(id, seconds(at), nanoseconds(at), frame, 0, FRAME_BYTES, FRAME_BYTES, 1, `color=${at & 7} delivered`),
  'options as objects': (writer, id, at, frame) =>
    writer.packet(id, BigInt(seconds(at)) * 1_000_000_000n, frame, {
      direction: 'inbound',
      comment: `color=${at & 7} delivered`,
      dropCount: 0,
    }),
}

export async function trace(argv: readonly string[]): Promise<number> {
  const rounds = argv.length === 0 ? 5 : Number(argv[0])
  if (argv.includes('--help') || argv.length > 1 || !Number.isInteger(rounds) || rounds < 1 || rounds > 100) {
    process.stdout.write(USAGE)
    return argv.includes('--help') ? 0 : 2
  }
  const directory = mkdtempSync(join(tmpdir(), `sswb${process.pid}-`))
  const rates = new Map<string, number[]>()
  const note = (what: string, ms: number) => rates.set(what, [...(rates.get(what) ?? []), FRAMES / ms])
  try {
    for (let round = 0; round < rounds; round++) {
      for (const [name, write] of Object.entries(ways)) note(`write: ${name}`, writeAll(join(directory, name), write))
      for (const [name, path] of filesToRead(directory, round === 0)) {
        note(`read: ${name}`, await readAll(path))
        note(
          `capinfos: ${name}`,
          timed(() => execFileSync('capinfos', ['-c', path], { stdio: 'ignore' })),
        )
      }
    }
  } finally {
    rmSync(directory, { recursive: true, force: true })
  }
  for (const [what, values] of rates) {
    const sorted = values.toSorted((a, b) => a - b)
    process.stdout.write(
      `${what.padEnd(36)}${Math.round(sorted[sorted.length >> 1]!)
        .toString()
        .padStart(7)} k frames/s\n`,
    )
  }
  return 0
}

function writeAll(path: string, write: Write): number {
  return timed(() => {
    const frame = new Uint8Array(FRAME_BYTES)
    const file = openSync(path, 'w')
    const writer = new PcapngWriter()
    const id = writer.interface({ name: 'vm1' })
    for (let at = 0; at < FRAMES; at++) {
      // Bytes that differ: or packing would be no work.
      frame[20] = at
      frame[21] = at >> 8
      frame[22] = Math.imul(at, 2654435761) >> 13
      write(writer, id, at, frame)
      if (writer.pending > TAKEN) writeSync(file, writer.take())
    }
    writeSync(file, writer.take())
    closeSync(file)
  })
}

/** The files of the first two ways, and conversions of the first one. */
function filesToRead(directory: string, make: boolean): [name: string, path: string][] {
  const [plain, comment] = Object.keys(ways).map((name) => join(directory, name)) as [string, string]
  const [classic, gzip, zstd] = ['pcap', 'gz', 'zst'].map((name) => join(directory, name)) as [string, string, string]
  if (make) {
    execFileSync('editcap', ['-F', 'pcap', plain, classic])
    execFileSync('sh', ['-c', 'gzip -c "$0" >"$1"', plain, gzip])
    execFileSync('zstd', ['-q', '-o', zstd, plain])
  }
  return [
    ['pcapng', plain],
    ['pcapng, comments looked at', comment],
    ['pcap', classic],
    ['pcapng in gzip', gzip],
    ['pcapng in zstd', zstd],
  ]
}

async function readAll(path: string): Promise<number> {
  const before = performance.now()
  const readsComments = path.endsWith('comment')
  let packets = 0
  let bytes = 0
  for await (const cursor of openTrace(path)) {
    for (let kind = cursor.next(); kind !== null; kind = cursor.next()) {
      if (kind !== 'packet') continue
      const { packet } = cursor
      packets++
      // The frame is looked at, as whoever reads traces does.
      bytes += packet.buffer[packet.start + 20]! + packet.nanoseconds
      if (readsComments) bytes += packet.comments.length
    }
  }
  if (packets !== FRAMES || bytes === 0) throw new Error(`${path}: ${packets} frames read`)
  return performance.now() - before
}

function timed(act: () => void): number {
  const before = performance.now()
  act()
  return performance.now() - before
}
