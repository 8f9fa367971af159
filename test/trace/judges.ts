// What others' programs say of a capture: tshark's view of each packet, and ours in the same words.

import { execFileSync, spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { createRequire } from 'node:module'
import { SnapswitchError } from '../../src/errors/errors.js'
import { openTrace } from '../../src/trace/source.js'
import { patience } from '../patience.js'

export function run(program: string, args: readonly string[], input?: Uint8Array): Buffer {
  return execFileSync(program, args, {
    stdio: ['pipe', 'pipe', 'pipe'],
    timeout: patience(60_000),
    maxBuffer: 64 * 1024 * 1024,
    ...(input === undefined ? {} : { input }),
  })
}

export interface Verdict {
  /** A line a packet: time, lengths, interface, flags, comments, digest of the bytes. */
  readonly packets: readonly string[]
  /** Why the file was not read to its end; null: it was. */
  readonly error: string | null
}

const FIELDS = ['time_epoch', 'len', 'cap_len', 'interface_id', 'packet_flags', 'comment', 'md5_hash']

export function tsharkSees(file: string): Verdict {
  const fields = FIELDS.flatMap((field) => ['-e', `frame.${field}`])
  const options = [
    '-o',
    'frame.generate_md5_hash:TRUE',
    '-n',
    '-T',
    'fields',
    '-E',
    'separator=|',
    '-E',
    'aggregator=&',
  ]
  const { stdout, stderr, status } = spawnSync('tshark', [...options, ...fields, '-r', file], {
    encoding: 'utf8',
    timeout: patience(60_000),
    maxBuffer: 64 * 1024 * 1024,
  })
  return { packets: stdout.split('\n').slice(0, -1), error: status === 0 ? null : stderr.trim() }
}

/** In tshark's words; it gives no interface for classic files. */
export async function weSee(file: string, anyLinkType = false): Promise<Verdict & { readonly code: string | null }> {
  const packets: string[] = []
  try {
    for await (const cursor of openTrace(file, { anyLinkType })) {
      for (let kind = cursor.next(); kind !== null; kind = cursor.next()) {
        if (kind !== 'packet') continue
        const { packet } = cursor
        const seconds = packet.isTimed ? `${packet.seconds}.${String(packet.nanoseconds).padStart(9, '0')}` : ''
        const flags = packet.flags === 0 ? '' : `0x${packet.flags.toString(16).padStart(8, '0')}`
        const md5 = digest(packet.bytes)
        const from = cursor.format === 'pcap' ? '' : packet.interface.id
        const comments = packet.comments.join('&')
        packets.push([seconds, packet.originalLength, packet.length, from, flags, comments, md5].join('|'))
      }
    }
    return { packets, error: null, code: null }
  } catch (error) {
    if (!(error instanceof SnapswitchError)) throw error
    return { packets, error: error.message, code: error.code }
  }
}

function digest(bytes: Uint8Array): string {
  return createHash('md5').update(bytes).digest('hex')
}

interface ClassicPacket {
  readonly header: { readonly timestampSeconds: number; readonly timestampMicroseconds: number }
  readonly data: Buffer
}

interface ClassicSeen {
  readonly timeUs: bigint
  readonly hex: string
  readonly md5: string
}

/** pcap-parser: another author's reader of the classic format. */
export async function pcapParserSees(path: string): Promise<readonly ClassicSeen[]> {
  const pcap = createRequire(import.meta.url)('pcap-parser') as {
    parse(stream: NodeJS.ReadableStream): NodeJS.EventEmitter
  }
  const parser = pcap.parse(createReadStream(path))
  const packets: ClassicSeen[] = []
  return new Promise((resolve, reject) => {
    parser.on('packet', ({ header, data }: ClassicPacket) => {
      const timeUs = BigInt(header.timestampSeconds) * 1_000_000n + BigInt(header.timestampMicroseconds)
      packets.push({ timeUs, hex: data.toString('hex'), md5: digest(data) })
    })
    parser.on('end', () => resolve(packets))
    parser.on('error', reject)
  })
}
