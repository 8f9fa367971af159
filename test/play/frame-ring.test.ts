// The ring between the thread that reads a capture and the one that sends: every frame comes out as it went in, once,
// in order, wherever the memory wraps; a full ring takes nothing.

import assert from 'node:assert/strict'
import t from 'tap'
import { mapArena, releaseArena } from '../../src/linux/arena.js'
import { RingReader, RingWriter, ringHandle } from '../../src/play/frame-ring.js'
import fc from '../property.js'

const PAGE = 4096
/** Each step: a frame of so many bytes is written, shifted as by a tag; or so many frames are read. */
const step = fc.oneof(
  fc.record({ write: fc.integer({ min: 14, max: 900 }), shift: fc.constantFrom(-4, 0, 4) }),
  fc.record({ read: fc.integer({ min: 1, max: 8 }) }),
)

function bytesOf(id: number, length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => (id * 31 + i * 7) & 0xff)
}

t.test('frames come out as they went in', async () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
      const arena = mapArena(PAGE)
      try {
        const handle = ringHandle(arena)
        const writer = new RingWriter(handle)
        const reader = new RingReader(handle)
        const waiting: { id: number; length: number; number: number }[] = []
        let id = 0
        for (const one of steps) {
          if ('write' in one) {
            const at = writer.begin(one.write)
            if (at < 0) {
              assert.ok(waiting.length > 0, 'an empty ring has room')
              continue
            }
            const start = at + one.shift
            writer.bytes.set(bytesOf(id, one.write), start)
            writer.commit(start, one.write, id % 7, id % 1000, id * 10)
            waiting.push({ id, length: one.write, number: id % 1000 })
            id++
            continue
          }
          for (let i = 0; i < one.read; i++) {
            const next = waiting.shift()
            assert.equal(reader.look(), next !== undefined)
            if (next === undefined) break
            const { arena: memory, start, length, dueNs, target } = reader
            assert.deepEqual(
              { dueNs, target, length },
              { dueNs: next.id * 10, target: next.id % 7, length: next.length },
            )
            assert.deepEqual(
              Uint8Array.from(memory.bytes.subarray(start, start + length)),
              bytesOf(next.id, next.length),
            )
            // What a switch is told before it: the port's number, then zeros and an empty virtio-net header.
            const prefix = Array.from(memory.bytes.subarray(start - 18, start))
            assert.deepEqual(prefix, [next.number & 0xff, next.number >> 8, ...new Array(16).fill(0)])
            reader.take()
          }
          reader.release()
        }
      } finally {
        releaseArena(arena)
      }
    }),
    { numRuns: 300 },
  )
})

t.test('the end is seen', async (t) => {
  const arena = mapArena(PAGE)
  t.teardown(() => releaseArena(arena))
  const handle = ringHandle(arena)
  const writer = new RingWriter(handle)
  const reader = new RingReader(handle)
  t.notOk(reader.look())
  t.notOk(reader.ended)
  writer.end()
  t.ok(reader.ended)
  t.equal(writer.filled, 0)
})
