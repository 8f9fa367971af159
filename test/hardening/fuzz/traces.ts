// Captures of any origin under damage: pcapng with every block, classic pcap, in both byte orders, packed with zstd, in
// pieces of any size. What is read makes sense and is bounded by the bytes that came; the rest is refused.

import assert from 'node:assert/strict'
import { SnapswitchError } from '../../../src/errors/errors.js'
import { Unzstd } from '../../../src/linux/zstd.js'
import { TraceCursor } from '../../../src/trace/cursor.js'
import type { Random } from '../../simulation/chance.js'
import { Encoder, type Opt } from '../../trace/encode.js'
import { mutate, randomBytes } from './mutate.js'

const OPTIONS = [1, 2, 3, 4, 5, 9, 13, 14, 2988, 2989, 0x8001]
const MAGICS = [0xa1b2c3d4, 0xa1b23c4d, 0xa1b2cd34]
/** "snapswitch " forty times, packed; the frame has its checksum. */
const PACKED = new Uint8Array(Buffer.from('KLUv/QRYlQAAWHNuYXBzd2l0Y2ggAQCqVosXbEb+SQ==', 'base64'))
/** More than anything here unpacks to, and less than would fill memory. */
const UNPACKED_LIMIT = 256 * 1024 * 1024

function options(random: Random): Opt[] {
  return Array.from({ length: random.integer(0, 3) }, () => ({
    code: random.pick(OPTIONS),
    value: randomBytes(random, random.pick([1, 4, 8, random.integer(0, 20)])),
  }))
}

function anyPcapng(random: Random): Uint8Array {
  const encoder = new Encoder(random.chance(0.5)).section(options(random)).interface(options(random))
  for (let blocks = random.integer(0, 6); blocks > 0; blocks--) {
    const bytes = randomBytes(random, random.integer(0, 90))
    const ticks = BigInt(random.integer(0, Number.MAX_SAFE_INTEGER))
    const act = [
      () => encoder.enhanced(0, ticks, bytes, bytes.length, options(random)),
      () => encoder.obsolete(0, 3, ticks, bytes, options(random)),
      () => encoder.simple(bytes),
      () => encoder.statistics(0, options(random)),
      () => encoder.block(random.pick([4, 9, 10, 0xbad, 0x80737377]), bytes),
      () => encoder.section().interface(),
    ]
    random.pick(act)()
  }
  return encoder.take()
}

function anyClassic(random: Random): Uint8Array {
  const packets = Array.from({ length: random.integer(0, 6) }, () => ({
    seconds: random.integer(0, 0xffffffff),
    fraction: random.integer(0, 0xffffffff),
    bytes: randomBytes(random, random.integer(0, 90)),
  }))
  const minor = random.integer(2, 4)
  return new Encoder(random.chance(0.5)).classic(packets, { magic: random.pick(MAGICS), minor })
}

function readAll(file: Uint8Array, size: number): string {
  const cursor = new TraceCursor({ anyLinkType: true })
  let told = ''
  try {
    for (let at = 0; at < file.length; at += size) {
      cursor.push(file.slice(at, at + size))
      for (let kind = cursor.next(); kind !== null; kind = cursor.next()) {
        told += kind
        if (kind !== 'packet') continue
        const { packet } = cursor
        assert.ok(packet.offset < file.length && packet.bytes.length === packet.length)
        assert.ok(packet.length <= file.length && packet.nanoseconds >= 0 && packet.nanoseconds < 1e9)
        assert.ok(Number.isInteger(packet.seconds))
        for (const { value } of packet.options) assert.ok(value.length <= file.length)
        told += `${packet.timeNs} ${packet.flags} ${packet.dropCount} ${packet.packetId} ${packet.comments}`
      }
    }
    cursor.end()
    return told
  } catch (thrown) {
    if (!(thrown instanceof SnapswitchError)) throw thrown
    assert.ok(thrown.code === 'TRACE_UNSUPPORTED' || /at byte \d+/.test(thrown.message), thrown.message)
    return `${told} ${thrown.message}`
  }
}

export function traces(random: Random): void {
  // A copy: a Buffer's slice shares its bytes.
  const good = new Uint8Array(random.chance(0.5) ? anyPcapng(random) : anyClassic(random))
  const file = random.chance(0.1) ? good : mutate(random, good)
  // Which variant of the classic format it may be depends on how much of it is seen.
  const pieces = readAll(file, random.integer(1, 200))
  const whole = readAll(file, file.length + 1)
  const isVariant = [pieces, whole].some((told) => told.includes('which is not read'))
  if (!isVariant) assert.equal(pieces, whole)
}

export function zstd(random: Random): void {
  const file = random.chance(0.01) ? PACKED : mutate(random, PACKED)
  const unpacker = new Unzstd()
  let length = 0
  try {
    for (const piece of unpacker.unpack(file)) {
      length += piece.length
      assert.ok(length < UNPACKED_LIMIT)
    }
    if (file === PACKED) assert.equal(length, 440)
  } catch (thrown) {
    if (thrown instanceof assert.AssertionError || file === PACKED) throw thrown
  } finally {
    unpacker.close()
  }
}
