// What a capture or a mirror costs the forwarding thread, per frame: `node dist/bench/capture/main.js`. Rounds without
// and with it by turns in one process, so that load on the machine is in both; the median of the differences counts.
// Devices are left out: what they cost is the same in both.

import { type Filter, parseFilter } from '../../src/capture/filter.js'
import { Frame, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { mapArena } from '../../src/linux/arena.js'
import { RingReader, ringMemory } from '../../switch/capture/record-ring.js'
import { CaptureTap, lossMemory } from '../../switch/capture/tap.js'
import { createCounters } from '../../switch/forwarding/counters.js'
import { Forwarder } from '../../switch/forwarding/forwarder.js'
import { defaults } from '../../test/forwarding/rig.js'

const PAIRS = 21
const ROUND_BYTES = 32 * 1024 * 1024
const MOST_FRAMES = 50_000
/** Between two looks of the reader; as many as the ring has room for. */
const BURST = 50
const LENGTHS = [60, 1514, 65_550] as const
const MIRROR = 2
const mac = (n: number) => [2, 0, 0, 0, 0, n]

const events = { early: () => undefined, peer: () => undefined, closed: () => undefined }

interface Mode {
  readonly name: string
  readonly filter?: Filter | null
  readonly snaplen?: number
  readonly mirrors?: boolean
}

const MODES: readonly Mode[] = [
  { name: 'every frame', filter: null },
  { name: 'the first 96 bytes', filter: null, snaplen: 96 },
  { name: 'a filter that nothing fits', filter: parseFilter('port three or vlan 7') },
  { name: 'dropped frames only', filter: parseFilter('dropped') },
  { name: 'a mirror of one port', mirrors: true },
]

class Bench {
  readonly forwarder = new Forwarder(defaults, createCounters(), events)
  readonly #frames: Frame[]
  readonly #length: number
  #now = 1_700_000_000_000

  constructor(length: number) {
    this.#length = length
    for (const index of [0, 1, MIRROR]) {
      const kind = index === MIRROR ? ('plain' as const) : ('member' as const)
      const spec = { index, name: `p${index}`, kind, vm: null, epoch: 0, mac: Uint8Array.from(mac(9)) }
      this.forwarder.addPort(spec, { send: () => true })
    }
    this.#frames = [0, 1].map((port) => {
      // As in a receive ring, where memory has a fixed address and a view.
      const { bytes, address, view } = mapArena(VNET_HEADER_LENGTH + length)
      bytes.set([...mac(2 - port), ...mac(port + 1), 8, 0], VNET_HEADER_LENGTH)
      const frame = new Frame(bytes)
      frame.address = address
      frame.view = view
      return frame
    })
  }

  /** Nanoseconds per frame; `drain` makes room in a ring, and its time is not the forwarding thread's. */
  round(drain: () => void): number {
    let spent = 0
    const frames = Math.min(MOST_FRAMES, Math.floor(ROUND_BYTES / this.#length))
    for (let done = 0; done < frames; done += BURST) {
      const began = process.hrtime.bigint()
      for (let i = 0; i < BURST; i++) {
        const frame = this.#frames[i & 1]!
        frame.vnet = 0
        frame.start = VNET_HEADER_LENGTH
        frame.length = this.#length
        this.forwarder.receive(i & 1, frame, this.#now)
      }
      spent += Number(process.hrtime.bigint() - began)
      this.#now++
      drain()
    }
    return spent / (Math.ceil(frames / BURST) * BURST)
  }

  /** The median without, and the median difference with `mode`. */
  pairs(mode: Mode): { off: number; more: number } {
    const off: number[] = []
    const more: number[] = []
    for (let pair = -5; pair < PAIRS; pair++) {
      const without = this.round(() => undefined)
      const { begin, end, drain } = this.#with(mode)
      begin()
      const and = this.round(drain)
      end()
      if (pair < 0) continue
      off.push(without)
      more.push(and - without)
    }
    return { off: median(off), more: median(more) }
  }

  #with(mode: Mode): { begin(): void; end(): void; drain(): void } {
    const { network } = this.forwarder
    if (mode.mirrors === true) {
      const set = (rules: object) => this.forwarder.setRules(MIRROR, rules)
      return { begin: () => set({ mirror: { of: ['p0'] } }), end: () => set({}), drain: () => undefined }
    }
    const memory = ringMemory(16 * 1024 * 1024)
    const tap = new CaptureTap({
      filter: mode.filter ?? null,
      snaplen: mode.snaplen ?? 262_144,
      memory,
      losses: lossMemory(),
    })
    const reader = new RingReader(memory)
    const drain = () => {
      while (reader.next() >= 0);
      reader.release()
    }
    return { begin: () => network.observe(tap), end: () => network.unobserve(tap), drain }
  }
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1]!
}

for (const length of LENGTHS) {
  const bench = new Bench(length)
  for (const mode of MODES) {
    const { off, more } = bench.pairs(mode)
    process.stdout.write(`${length} bytes, ${mode.name}: ${Math.round(off)} ns, and ${Math.round(more)} ns more\n`)
  }
}
