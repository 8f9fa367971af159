// Datagrams in fragments: a receiver that puts them together has what was sent, with its checksum right; everything
// else is refused. What the kernel's own receiver makes of them: test/hardening/ufo.test.ts.

import assert from 'node:assert/strict'
import t from 'tap'
import { Fragmenter } from '../../src/frame/fragmenter.js'
import { Frame } from '../../src/frame/frame.js'
import fc from '../property.js'
import { ethernet, gsoFrame, ip4, ip6, type Piece, receive, tcp, udp } from './tunnels.js'

function fragments(whole: Piece, size: number, mtu = 9000): Uint8Array[] {
  const fragmenter = new Fragmenter()
  if (!fragmenter.begin(gsoFrame(whole, size, 3), size, mtu, true)) return []
  const memory = new Uint8Array(4096)
  const place = { bytes: memory, address: 1, view: new DataView(memory.buffer), length: memory.length }
  const made: Uint8Array[] = []
  const next = new Frame()
  for (let free = 0; fragmenter.more; ) {
    const after = fragmenter.next(next, place, free)
    if (after < 0) assert.ok(free > 0, 'one always fits into empty memory')
    else made.push(memory.slice(next.start, next.start + next.length))
    free = Math.max(0, after)
  }
  return made
}

/** The datagram's frame again. `at`: of the IP header. */
function together(parts: Uint8Array[], at: number, six: boolean): Uint8Array {
  const head = six ? at + 40 : at + (parts[0][at] & 15) * 4
  const payload: Uint8Array[] = []
  let expected = 0
  for (const [i, part] of parts.entries()) {
    const words = new DataView(part.buffer)
    const field = words.getUint16(six ? head + 2 : at + 6)
    assert.equal(six ? field & 0xfff8 : (field & 0x1fff) * 8, expected)
    assert.equal((field & (six ? 1 : 0x2000)) !== 0, i < parts.length - 1)
    if (six) assert.deepEqual([part[at + 6], part[head]], [44, 17])
    if (six) assert.equal(words.getUint32(head + 4), new DataView(parts[0].buffer).getUint32(head + 4))
    else assert.equal(words.getUint16(at + 2), part.length - at)
    payload.push(part.subarray(six ? head + 8 : head))
    expected += payload[i].length
  }
  const whole = Uint8Array.from(Buffer.concat([parts[0].subarray(0, head), ...payload]))
  const words = new DataView(whole.buffer)
  if (six) {
    whole[at + 6] = 17
    words.setUint16(at + 4, whole.length - head)
    return whole
  }
  // As it was before: then its header's checksum is right again.
  words.setUint16(at + 2, whole.length - at)
  words.setUint16(at + 6, 0)
  words.setUint16(at + 10, 0)
  let sum = 0
  for (let i = at; i < head; i += 2) sum += words.getUint16(i)
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16)
  words.setUint16(at + 10, ~sum)
  return whole
}

t.test('put together they are what was sent', async (t) => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 9000 }),
      fc.integer({ min: 8, max: 1500 }),
      fc.constantFrom(4, 6),
      fc.boolean(),
      (length, size, version, tagged) => {
        const payload = Uint8Array.from({ length }, (_, i) => i * 7)
        const tags = tagged ? [0x81, 0, 0, 9] : []
        const ip = version === 4 ? ip4(udp(4, payload), [1, 1, 1, 0]) : ip6(udp(6, payload))
        const parts = fragments(ethernet(ip, tags), size)
        assert.equal(parts.length, Math.ceil((length + 8) / (size & ~7)))
        assert.deepEqual(receive(together(parts, 14 + tags.length, version === 6)).payload, payload)
      },
    ),
  )
  t.pass()
})

t.test('no fragment is longer than the MTU, whatever was asked for', async (t) => {
  for (const ip of [ip4(udp(4, new Uint8Array(4000)), [1, 1, 1, 0]), ip6(udp(6, new Uint8Array(4000)))]) {
    const longest = Math.max(...fragments(ethernet(ip), 65_535, 1500).map(({ length }) => length))
    t.ok(longest > 1500 && longest <= 1514, `${longest} bytes`)
  }
})

t.test('what is no whole UDP datagram is refused', async (t) => {
  const payload = new Uint8Array(3000)
  t.same(fragments(ethernet(ip4(tcp(4, payload))), 1480), [])
  t.same(fragments(ethernet(ip6(tcp(6, payload))), 1480), [])
  t.same(fragments({ bytes: new Uint8Array(14), type: 0, transport: 0 }, 1480), [])
  const fragment = ethernet(ip4(udp(4, payload)))
  fragment.bytes[20] = 0x20
  t.same(fragments(fragment, 1480), [])
})
