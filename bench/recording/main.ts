// What a recording costs the forwarding thread, per frame, and how fast a replay is: `node
// dist/bench/recording/main.js`. Pairs of rounds, one without and one with a recorder, by turns in one process, so
// that load on the machine is in both. Devices are left out: what they cost is the same in both.

import { Frame, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { RingReader, RingWriter, ringMemory } from '../../switch/capture/record-ring.js'
import { createCounters } from '../../switch/forwarding/counters.js'
import { eventsTo, Forwarder } from '../../switch/forwarding/forwarder.js'
import { performInput } from '../../switch/forwarding/inputs.js'
import type { Output } from '../../switch/forwarding/port-state.js'
import { RecordingFile } from '../../switch/recording/file.js'
import { checkpointOf, Recorder } from '../../switch/recording/recorder.js'
import { Replay } from '../../switch/recording/replay.js'
import { GrowingSink, RingSink } from '../../switch/recording/sink.js'
import { defaults } from '../../test/forwarding/rig.js'

const PAIRS = 15
const LENGTHS = [60, 1514, 65_550] as const
const ROUND_BYTES = 48 * 1024 * 1024
const MOST_FRAMES = 100_000
const REPLAYED = 500_000
const mac = (n: number) => [2, 0, 0, 0, 0, n]

class Bench {
  readonly forwarder: Forwarder
  recorder: Recorder | null = null
  readonly #frames: Frame[]
  #now = 1_700_000_000_000

  constructor(length: number) {
    const device: Output = { send: () => true }
    const outputOf = (port: number): Output => ({
      send: (frame, tci) => this.recorder?.send(port, device, frame, tci) ?? device.send(frame, tci),
    })
    this.forwarder = new Forwarder(
      defaults,
      createCounters(),
      eventsTo(() => undefined),
    )
    for (const index of [0, 1]) {
      const spec = {
        index,
        name: `p${index}`,
        kind: 'member',
        vm: `vm${index}`,
        epoch: 0,
        mac: Uint8Array.from(mac(9)),
      } as const
      performInput(this.forwarder, 'addPort', { spec, now: this.#now }, { outputOf })
    }
    this.#frames = [0, 1].map((port) => {
      const bytes = new Uint8Array(VNET_HEADER_LENGTH + length)
      bytes.set([...mac(2 - port), ...mac(port + 1), 8, 0], VNET_HEADER_LENGTH)
      const frame = new Frame().pointAt({ bytes, tagTpid: 0, tagTci: 0, color: 0 })
      // As in a receive ring, where memory has a fixed address and a view.
      frame.address = 1
      frame.view = new DataView(bytes.buffer)
      return frame
    })
  }

  /** Nanoseconds a frame. */
  round(frames: number): number {
    const to = this.recorder ?? this.forwarder
    const begun = performance.now()
    for (let i = 0; i < frames; i++) to.receive(i & 1, this.#frames[i & 1]!, this.#now)
    this.#now += 100
    to.tick(this.#now)
    return ((performance.now() - begun) * 1e6) / frames
  }
}

const median = (values: readonly number[]) => [...values].sort((a, b) => a - b)[values.length >> 1]!

for (const length of LENGTHS) {
  const frames = Math.min(MOST_FRAMES, Math.floor(ROUND_BYTES / (length + 150)))
  const bench = new Bench(length)
  const memory = ringMemory(128 * 1024 * 1024)
  const reader = new RingReader(memory)
  const recorder = new Recorder(bench.forwarder, new RingSink(new RingWriter(memory)))
  const off: number[] = []
  const on: number[] = []
  for (let pair = -2; pair < PAIRS; pair++) {
    for (const one of [null, recorder]) {
      bench.recorder = one
      const ns = bench.round(frames)
      if (pair >= 0) (one === null ? off : on).push(ns)
      while (reader.next() >= 0) {}
      reader.release()
    }
  }
  if (recorder.isFull) throw new Error('the ring was too small')
  const more = median(off.map((without, at) => on[at]! - without))
  process.stdout.write(
    `${length} bytes: ${median(off).toFixed(0)} ns a frame without, ${median(on).toFixed(0)} ns with a recording; ${more.toFixed(0)} ns more\n`,
  )
}

const bench = new Bench(60)
const sink = new GrowingSink()
const file = new RecordingFile()
const head = file.begin({ version: 'bench', options: bench.forwarder.network.options }, checkpointOf(bench.forwarder))
bench.recorder = new Recorder(bench.forwarder, sink)
for (let i = 0; i < 10; i++) bench.round(REPLAYED / 10)
bench.recorder.mark()
const bytes = Buffer.concat([head, file.blocks(sink.written())])
const pieces = Array.from({ length: Math.ceil(bytes.length / (1 << 20)) }, (_, i) =>
  bytes.subarray(i << 20, (i + 1) << 20),
)
const rates = Array.from({ length: 5 }, () => {
  const begun = performance.now()
  const replay = new Replay(pieces)
  replay.run()
  if (replay.difference !== null) throw new Error('it is not the same')
  return replay.frames / (performance.now() - begun)
})
process.stdout.write(
  `replay: ${median(rates).toFixed(0)} thousand frames of 60 bytes a second (of five, the slowest ${Math.min(...rates).toFixed(0)})\n`,
)
