// Hold queues and recorders: order, bounds in frames and bytes, and copies that do not change when their origin does.

import t from 'tap'
import { type Frame, type FrameCopy, NO_COLOR, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { ArmedCopies } from '../../switch/forwarding/armed-copies.js'
import { HoldQueue } from '../../switch/forwarding/hold-queue.js'
import { ChannelRecorder } from '../../switch/forwarding/snapshot/channel-recorder.js'
import fc from '../property.js'
import { frame } from './rig.js'

/** A frame of `size` bytes whose first payload bytes are `id`. */
function sized(id: number, size: number, color = 0): Frame {
  const payload = new Uint8Array(Math.max(4, size - 14))
  new DataView(payload.buffer).setUint32(0, id)
  const made = frame({ payload })
  made.color = color
  return made
}
const idOf = (copy: FrameCopy) =>
  new DataView(copy.bytes.buffer, copy.bytes.byteOffset).getUint32(VNET_HEADER_LENGTH + 14)
const bytesOf = (copies: readonly FrameCopy[]) => copies.reduce((sum, copy) => sum + copy.bytes.length, 0)
const sizes = fc.array(fc.integer({ min: 18, max: 300 }), { maxLength: 60 })

function contents(queue: HoldQueue): FrameCopy[] {
  const seen: FrameCopy[] = []
  queue.sift((copy) => {
    seen.push(copy)
    return true
  })
  return seen
}

t.test('a hold queue keeps order and its bounds', async () => {
  const bounds = { frames: 20, bytes: 3000 }
  fc.assert(
    fc.property(sizes, fc.array(fc.boolean()), (list, keeps) => {
      const queue = new HoldQueue(bounds)
      const taken: number[] = []
      for (const [id, size] of list.entries()) {
        const fits = queue.length < bounds.frames && bytesOf(contents(queue)) + size <= bounds.bytes
        if (queue.push(sized(id, size)) !== fits) return false
        if (fits) taken.push(id)
      }
      const before = contents(queue)
      if (before.length > bounds.frames || bytesOf(before) > bounds.bytes + VNET_HEADER_LENGTH) return false
      if (JSON.stringify(before.map(idOf)) !== JSON.stringify(taken)) return false
      let at = 0
      queue.sift(() => keeps[at++] ?? false)
      const kept = taken.filter((_, index) => keeps[index] ?? false)
      return JSON.stringify(contents(queue).map(idOf)) === JSON.stringify(kept) && queue.length === kept.length
    }),
    { numRuns: 300 },
  )
})

t.test('room that a sift or a clear makes is used again', async (t) => {
  const queue = new HoldQueue({ frames: 2, bytes: 100_000 })
  t.equal(queue.push(sized(1, 60)), true)
  t.equal(queue.push(sized(2, 60)), true)
  t.equal(queue.push(sized(3, 60)), false)
  queue.sift((copy) => idOf(copy) === 2)
  t.equal(queue.push(sized(4, 60)), true)
  t.same(contents(queue).map(idOf), [2, 4])
  t.equal(queue.clear(), 2)
  t.equal(queue.clear(), 0)
  t.equal(queue.length, 0)
  t.equal(queue.push(sized(5, 60)), true)
})

t.test('a restored channel state goes before all others', async (t) => {
  const queue = new HoldQueue({ frames: 3, bytes: 100_000 })
  queue.push(sized(10, 60))
  const other = new HoldQueue({ frames: 100, bytes: 100_000 })
  for (const id of [1, 2, 3]) other.push(sized(id, 60))
  queue.prepend(contents(other))
  t.same(contents(queue).map(idOf), [1, 2, 3, 10])
  t.equal(queue.push(sized(11, 60)), false, 'it counts, once it is there')
})

t.test('what is held is a copy, with header, tag and color', async (t) => {
  const queue = new HoldQueue({ frames: 3, bytes: 1000 })
  const held = frame({ id: 7, tag: [0x8100, 42], gso: true })
  held.color = 9
  queue.push(held)
  held.bytes.fill(0)
  const [copy] = contents(queue)
  t.match(copy, { tagTpid: 0x8100, tagTci: 42, color: 9 })
  t.equal(idOf(copy), 7)
  t.equal(copy.bytes[1], 1)
})

t.test('armed copies are the latest ones, within bounds, oldest first', async () => {
  const bounds = { frames: 8, bytes: 900 }
  fc.assert(
    fc.property(sizes, fc.nat(12), (list, wanted) => {
      const armed = new ArmedCopies(bounds)
      const all: { id: number; size: number }[] = []
      for (const [id, size] of list.entries()) {
        armed.push(sized(id, size))
        all.push({ id, size: size + VNET_HEADER_LENGTH })
        const kept = armed.last(1000)
        if (kept.length > bounds.frames || bytesOf(kept) > bounds.bytes + VNET_HEADER_LENGTH) return false
        const latest = all.slice(all.length - kept.length).map((entry) => entry.id)
        if (JSON.stringify(kept.map(idOf)) !== JSON.stringify(latest)) return false
        // The newest one is always there, and none is given up without need.
        if (kept.length < 1) return false
        const next = all[all.length - kept.length - 1]
        // Where the memory ends, up to one frame's length stays empty.
        const wasted = Math.max(...all.map((entry) => entry.size))
        if (next !== undefined && kept.length < bounds.frames && bytesOf(kept) + next.size + wasted <= bounds.bytes)
          return false
      }
      const last = armed.last(wanted).map(idOf)
      const expected = armed.last(1000).map(idOf)
      return JSON.stringify(last) === JSON.stringify(wanted === 0 ? [] : expected.slice(-wanted))
    }),
    { numRuns: 300 },
  )
})

t.test('the channel state has bounds too; residue of the outside world is no part of it', async (t) => {
  const recorder = new ChannelRecorder({ frames: 3, bytes: 100_000 })
  t.equal(recorder.record(4, sized(1, 60, 2), 10.5), true)
  const copies = [sized(2, 60, 2), sized(3, 60, NO_COLOR), sized(4, 60, 2)].map((one) => {
    const queue = new HoldQueue({ frames: 1, bytes: 1000 })
    queue.push(one)
    return contents(queue)[0]
  })
  t.equal(recorder.recordResidue(5, copies, 11), 2)
  t.equal(recorder.record(4, sized(5, 60, 2), 12), false)
  t.same(
    recorder.frames.map(({ port, verdict, copy, at }) => [port, verdict, idOf(copy), at]),
    [
      [4, 'in-transit', 1, 10.5],
      [5, 'residue', 2, 11],
      [5, 'residue', 4, 11],
    ],
  )
  const small = new ChannelRecorder({ frames: 100, bytes: 200 })
  t.equal(small.record(0, sized(1, 150), 0), true)
  t.equal(small.record(0, sized(2, 150), 0), false)
  t.equal(small.record(0, sized(3, 20), 0), true)
})
