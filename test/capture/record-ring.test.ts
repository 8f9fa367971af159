// The ring by which records leave the datapath's thread: what is read is what was written, in order and whole, and what
// found no room is counted where it is missing. Once with two real threads.

import { setTimeout } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import t from 'tap'
import { RingReader, RingWriter, ringLosses, ringMemory } from '../../switch/capture/record-ring.js'
import { fileLimit } from '../patience.js'
import fc from '../property.js'

t.setTimeout(fileLimit(60_000))

/** A record of `length` bytes that are all `value`. */
function put(writer: RingWriter, length: number, value: number): number {
  const at = writer.reserve(length)
  if (at >= 0) writer.bytes.fill(value, at, at + length)
  return at
}

function readAll(reader: RingReader): { bytes: number[]; missing: number }[] {
  const found: { bytes: number[]; missing: number }[] = []
  for (let at = reader.next(); at >= 0; at = reader.next()) {
    found.push({ bytes: [...reader.bytes.subarray(at, at + reader.length)], missing: reader.missing })
  }
  reader.release()
  return found
}

t.test('any writes and reads are those of a bounded list', async (t) => {
  const steps = fc.array(
    fc.oneof(
      { weight: 6, arbitrary: fc.record({ kind: fc.constant('write' as const), length: fc.nat(2200) }) },
      { weight: 1, arbitrary: fc.record({ kind: fc.constant('take-back' as const), length: fc.nat(600) }) },
      { weight: 1, arbitrary: fc.record({ kind: fc.constant('read' as const) }) },
      { weight: 1, arbitrary: fc.record({ kind: fc.constant('lose' as const) }) },
    ),
    { maxLength: 200 },
  )
  fc.assert(
    fc.property(steps, (all) => {
      const memory = ringMemory(4096)
      const writer = new RingWriter(memory)
      const reader = new RingReader(memory)
      const expected: { bytes: number[]; missing: number }[] = []
      let missing = 0
      let lost = 0
      const check = () => {
        t.strictSame(readAll(reader), expected)
        expected.length = 0
      }
      for (const [i, step] of all.entries()) {
        if (step.kind === 'read') check()
        else if (step.kind === 'lose') {
          writer.lose()
          missing++
          lost++
        } else {
          const at = put(writer, step.length, i & 0xff)
          if (at < 0) {
            missing++
            lost++
            continue
          }
          if (step.kind === 'take-back') {
            writer.takeBack(at)
            continue
          }
          expected.push({ bytes: new Array(step.length).fill(i & 0xff), missing })
          missing = 0
          writer.publish()
        }
      }
      // What was lost last is told with a record that comes after it.
      check()
      t.equal(ringLosses(memory), lost)
    }),
    { numRuns: 200 },
  )
})

t.test('nothing is read before it is published', async (t) => {
  const memory = ringMemory(0)
  const writer = new RingWriter(memory)
  const reader = new RingReader(memory)
  put(writer, 10, 1)
  t.equal(reader.next(), -1)
  writer.publish()
  t.not(reader.next(), -1)
  t.equal(reader.next(), -1)
})

t.test('a record that no ring of this size can hold is lost, and those behind it are not', async (t) => {
  const memory = ringMemory(4096)
  const writer = new RingWriter(memory)
  const reader = new RingReader(memory)
  t.equal(put(writer, 2040, 1), -1)
  t.not(put(writer, 2032, 2), -1)
  writer.publish()
  t.strictSame(
    readAll(reader).map(({ bytes, missing }) => [bytes.length, missing]),
    [[2032, 1]],
  )
})

t.test('positions begin again at 2^32, and nothing is seen of it', async (t) => {
  const memory = ringMemory(4096)
  const words = new Int32Array(memory)
  // Head and tail, a few bytes before the end.
  words[0] = -4096
  words[32] = -4096
  const writer = new RingWriter(memory)
  const reader = new RingReader(memory)
  for (let i = 0; i < 100; i++) {
    t.not(put(writer, 1000, i), -1)
    writer.publish()
    t.strictSame(readAll(reader), [{ bytes: new Array(1000).fill(i), missing: 0 }])
  }
})

t.test('one thread writes, another reads: all is there or counted, in order and whole', async (t) => {
  const records = 300_000
  const memory = ringMemory(64 * 1024)
  const reader = new RingReader(memory)
  const worker = new Worker(new URL('./ring-writer-thread.js', import.meta.url), {
    workerData: { memory, records, longest: 3000 },
  })
  let running = true
  worker.once('exit', () => {
    running = false
  })
  let next = 0
  let read = 0
  let faults = 0
  for (;;) {
    const over = !running
    for (let at = reader.next(); at >= 0; at = reader.next()) {
      const i = reader.words[at / 4]
      if (i !== next + reader.missing || reader.length !== 4 + ((i * 7919) % 3000)) faults++
      for (let k = 4; k < reader.length; k++) if (reader.bytes[at + k] !== (i & 0xff)) faults++
      next = i + 1
      read++
      reader.release()
    }
    if (over) break
    await setTimeout(0)
  }
  t.equal(faults, 0)
  t.ok(read > 0)
  t.equal(read + reader.lost, records)
})
