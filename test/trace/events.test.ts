// Recordings of events: what is written is read, and whatever is damaged is refused with TRACE_INVALID, nothing else.

import t from 'tap'
import { SnapswitchError } from '../../src/errors/errors.js'
import { type EventTable, readEvents } from '../../src/trace/event-reader.js'
import { EventTraceWriter, MAX_EVENT_BYTES } from '../../src/trace/event-writer.js'
import { Event, type TraceEvent } from '../../src/trace/events.js'
import { dropReasons } from '../../switch/forwarding/counters.js'
import { seeded, syntheticRun } from '../audit/synthetic.js'
import { putTogether } from '../audit/tamper.js'

function read(file: Uint8Array): EventTable {
  const work = readEvents(file)
  for (;;) {
    const step = work.next()
    if (step.done === true) return step.value
  }
}

const { recording } = syntheticRun(1).hosts[0]
const file = putTogether(recording)

t.test('what is written is read', async (t) => {
  const table = read(file)
  t.same(table.head, recording.head)
  t.same(table.ports, recording.ports)
  t.equal(table.length, recording.events.length)
  t.equal(table.overflow, 0)
  recording.events.forEach((event, at) => {
    const isFrame = event.kind < Event.state
    const found = [table.kind[at], table.port[at], table.cause[at], table.color[at], table.identity[at]]
    const identity = Number(event.digest & 0x1fffffffffffffn)
    const expected = [event.kind, event.port, event.cause, isFrame ? event.color : -1, isFrame ? identity : -1]
    if (JSON.stringify(found) !== JSON.stringify(expected)) t.same(found, expected, `event ${at}`)
  })
})

t.test('damage is refused, with the place', async (t) => {
  const random = seeded(42)
  let refused = 0
  const tries = 400
  for (let i = 0; i < tries; i++) {
    const damaged = new Uint8Array(file)
    const at = Math.floor(random() * file.length)
    damaged[at] ^= 1 << Math.floor(random() * 8)
    try {
      read(i % 4 === 0 ? damaged.subarray(0, at) : damaged)
    } catch (error) {
      if (!(error instanceof SnapswitchError) || error.code !== 'TRACE_INVALID' || !/at byte \d+/.test(error.message)) {
        t.fail(`byte ${at}: ${String(error)}`)
      }
      refused++
    }
  }
  // Only the last record, with two numbers in it, comes after the last running digest.
  t.ok(refused > tries * 0.98, `${refused} of ${tries}`)
})

t.test('a head that is none', async (t) => {
  for (const ports of [[{}], [{ name: 'x', kind: 'member', vm: null, lostAtDevice: 0 }]]) {
    t.throws(() => read(putTogether({ ...recording, ports: ports as never, events: [] })), { code: 'TRACE_INVALID' })
  }
})

t.test('no event takes more room than is set aside for it', async (t) => {
  const worst: TraceEvent = {
    kind: Event['from-trunk'],
    port: 0,
    color: 0xffffffff,
    epoch: 0xffffffff,
    length: 65_535,
    cause: 999_999_999,
    digest: 0xffffffffffffffffn,
    reason: [...dropReasons].sort((a, b) => b.length - a.length)[0],
    timeNs: 1_700_000_000_000_000_000n,
    head: new Uint8Array(14),
  }
  const ports = [{ ...recording.ports[0], kind: 'member' as const }]
  const writer = new EventTraceWriter(recording.head, ports)
  const events = 100_000
  for (let i = 0; i < events; i++) writer.add(worst)
  const perEvent = writer.take().length / events
  // Numbers of events that long are never reached, so this is more than any event takes.
  t.ok(perEvent + 4 <= MAX_EVENT_BYTES, `${perEvent} bytes`)
})
