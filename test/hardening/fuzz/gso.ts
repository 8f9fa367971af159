// Cutting up GSO frames under damaged input: headers that lie, checksums that begin anywhere, segments of any size. It
// ends, it writes nowhere but where it may, and what it makes is in all no longer than what the sizes say.

import assert from 'node:assert/strict'
import { Fragmenter } from '../../../src/frame/fragmenter.js'
import { Frame, VNET_HEADER_LENGTH } from '../../../src/frame/frame.js'
import type { SegmentMemory } from '../../../src/frame/segment-memory.js'
import { Segmenter } from '../../../src/frame/segmenter.js'
import { segmentsOf } from '../../../src/frame/segments.js'
import { NO_MARK } from '../../../src/frame/tunnel-mark.js'
import { ethernet, gre, gsoFrame, ip4, ip6, mpls, overUdp, type Piece, pppoe, tcp, udp } from '../../frame/tunnels.js'
import type { Random } from '../../simulation/chance.js'
import { mutate, randomBytes } from './mutate.js'

const VXLAN = [8, 0, 0, 0, 0, 0, 7, 0]
const MEMORY = 80_000
/** Behind it nothing may be written. */
const GUARD = 64

function tunnel(random: Random): Piece {
  const version = random.pick([4, 6] as const)
  const payload = randomBytes(random, random.integer(0, 400))
  const transport = random.chance(0.5) ? tcp(version, payload) : udp(version, payload)
  const inner = version === 4 ? ip4(transport) : ip6(transport, random.chance(0.2))
  const bare = (piece: Piece): Piece => ({ ...piece, type: piece.type === 0x0800 ? 4 : 41 })
  const kinds: (() => Piece)[] = [
    () => ip4(overUdp(ethernet(inner), VXLAN, random.pick([4, null]))),
    () => ip6(overUdp(inner, random.chance(0.5) ? [] : randomBytes(random, random.integer(0, 20)), 6)),
    () => ip4(gre(random.chance(0.5) ? inner : ethernet(inner), random.chance(0.5))),
    () => ip6(bare(inner), true),
    () => ip4(bare(ip4(gre(inner)))),
    () => mpls(inner, random.integer(1, 4)),
    () => pppoe(inner),
    () => inner,
  ]
  return ethernet(random.pick(kinds)(), random.chance(0.3) ? [0x81, 0, 0, 7] : [])
}

function damaged(random: Random): Frame {
  const made = gsoFrame(tunnel(random), random.pick([0, 1, 2, 8, 100, 1400, 0xffff]), random.pick([1, 3, 4, 5, 0x81]))
  let bytes = made.bytes
  if (random.chance(0.8)) bytes = mutate(random, bytes)
  if (random.chance(0.2)) bytes[7] = 0
  if (random.chance(0.2) && bytes.length > 8) bytes[6] = random.integer(0, 255)
  if (bytes.length < VNET_HEADER_LENGTH + 14) bytes = new Uint8Array(VNET_HEADER_LENGTH + 14)
  const frame = new Frame(bytes)
  frame.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  frame.address = 1
  frame.start = VNET_HEADER_LENGTH
  frame.length = bytes.length - VNET_HEADER_LENGTH
  return frame
}

interface Cutter {
  readonly more: boolean
  next(frame: Frame, memory: SegmentMemory, free: number): number
}

/** Bytes of payload beyond the headers cannot become more; each piece has headers at most as long as the frame. */
function cut(cutter: Cutter, frame: Frame, expected: number | null): void {
  const whole = new Uint8Array(MEMORY + GUARD).fill(0xa5)
  const memory = { bytes: whole, address: 1, view: new DataView(whole.buffer), length: MEMORY }
  const piece = new Frame()
  let free = 0
  let pieces = 0
  let counted = 0
  while (cutter.more) {
    const after = cutter.next(piece, memory, free)
    if (after < 0) {
      assert.ok(free > 0, 'one always fits into empty memory')
      free = 0
      continue
    }
    assert.ok(piece.start >= free && piece.start + piece.length <= MEMORY)
    assert.ok(after > free)
    free = after
    counted += segmentsOf(piece)
    assert.ok(++pieces <= frame.length, 'no more pieces than bytes')
  }
  if (expected !== null) assert.equal(counted, expected, 'counted the same before and after')
  assert.ok(
    whole.subarray(MEMORY).every((byte) => byte === 0xa5),
    'nothing behind the memory',
  )
}

/** The head of a frame that leaves whole: where it may be; it and what is left count as the frame. */
function takeHead(segmenter: Segmenter, frame: Frame): void {
  const bytes = new Uint8Array(MEMORY + GUARD).fill(0xa5)
  const memory = { bytes, address: 1, view: new DataView(bytes.buffer), length: MEMORY }
  assert.ok(segmenter.head(memory, MEMORY - 20) < 0, 'no room')
  const free = segmenter.head(memory, 0)
  const { headLength, headPayload } = segmenter
  assert.ok(free >= headLength && free < 2048)
  assert.ok(headPayload >= 2 * segmenter.size && headLength - VNET_HEADER_LENGTH + headPayload <= frame.length)
  assert.ok(
    bytes.subarray(free).every((byte) => byte === 0xa5),
    'nothing behind the head',
  )
  const counted = Math.ceil(headPayload / segmenter.size)
  cut(segmenter, frame, segmentsOf(frame) - counted)
}

export function gso(random: Random): void {
  const frame = damaged(random)
  const before = frame.bytes.slice()
  const segmenter = new Segmenter(random.chance(0.5))
  if (segmenter.begin(frame)) {
    const canStayWhole = segmenter.mark !== NO_MARK && segmenter.payloadLength >= 2 * segmenter.size
    if (canStayWhole && random.chance(0.5)) takeHead(segmenter, frame)
    else cut(segmenter, frame, segmentsOf(frame))
  }
  assert.deepEqual(frame.bytes, before, 'what is cut is only read')
  const fragmenter = new Fragmenter()
  const [size, mtu] = [random.integer(0, 0xffff), random.pick([0, 68, 1280, 1500, 65_535])]
  if (fragmenter.begin(frame, size, mtu, random.chance(0.5))) cut(fragmenter, frame, null)
}
