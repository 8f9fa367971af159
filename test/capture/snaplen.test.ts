// What a capture keeps of each frame: its first bytes as they are on the wire, however few, the tag in its place.

import t from 'tap'
import { PacketField, RecordKind } from '../../src/capture/stream.js'
import { RingReader, ringMemory } from '../../switch/capture/record-ring.js'
import { CaptureTap, lossMemory } from '../../switch/capture/tap.js'
import { createCounters } from '../../switch/forwarding/counters.js'
import { eventsTo, Forwarder } from '../../switch/forwarding/forwarder.js'
import { defaults, frame, mac, RecordingOutput } from '../forwarding/rig.js'

const NOW = 1_700_000_000_000

/** What is kept of a frame that comes in at one port and leaves by another. */
function kept(snaplen: number, tag?: readonly [tpid: number, tci: number]): string[] {
  const events = eventsTo(() => undefined)
  const forwarder = new Forwarder(defaults, createCounters(), events)
  for (const index of [0, 1]) {
    const spec = { index, name: `p${index}`, kind: 'plain', vm: null, epoch: 0, mac: mac(0xff00 + index) } as const
    forwarder.addPort(spec, new RecordingOutput())
  }
  const memory = ringMemory(4096)
  const tap = new CaptureTap({ filter: null, snaplen, memory, losses: lossMemory() })
  forwarder.network.observe(tap)
  tap.begin(forwarder.ports)
  forwarder.receive(0, frame({ id: 0x01020304, ...(tag === undefined ? {} : { tag }) }), NOW)
  const reader = new RingReader(memory)
  const found: string[] = []
  for (let at = reader.next(); at >= 0; at = reader.next()) {
    if (reader.bytes[at] !== RecordKind.PACKET) continue
    const length = reader.words[(at + PacketField.CAPTURED) >> 2]
    const from = at + PacketField.DATA
    found.push(Buffer.from(reader.bytes.subarray(from, from + length)).toString('hex'))
  }
  return found
}

t.test('any number of bytes, with a tag and without', async (t) => {
  const [plain] = kept(1000)
  t.equal(plain.length, 120)
  const cases = [
    { tag: undefined, whole: plain },
    { tag: [0x8100, 0x2005], whole: `${plain.slice(0, 24)}81002005${plain.slice(24)}` },
    { tag: [0x88a8, 0x0fff], whole: `${plain.slice(0, 24)}88a80fff${plain.slice(24)}` },
  ] as const
  for (const { tag, whole } of cases) {
    for (const snaplen of [14, 15, 16, 17, 18, 19, 60, 64, 1000]) {
      const first = whole.slice(0, 2 * snaplen)
      t.same(kept(snaplen, tag), [first, first], `${snaplen} bytes of ${whole}`)
    }
  }
})
