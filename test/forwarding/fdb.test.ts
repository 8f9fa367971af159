// The forwarding database against a plain Map: learning, moves, ageing, flushes, bounds, and deletion in the middle of
// collisions, over the table's end too.

import t from 'tap'
import { Fdb, type FdbOptions, NO_PORT } from '../../switch/forwarding/fdb.js'
import fc from '../property.js'

/** What an Fdb promises, without a hash table. */
class Model {
  readonly entries = new Map<string, { high: number; low: number; vlan: number; port: number; seen: number }>()
  refused = 0
  readonly options: FdbOptions

  constructor(options: FdbOptions) {
    this.options = options
  }

  learn(high: number, low: number, vlan: number, port: number, seconds: number): void {
    const key = `${high}/${low}/${vlan}`
    const known = this.entries.get(key)
    const ofPort = [...this.entries.values()].filter((entry) => entry.port === port).length
    if (known !== undefined && known.port !== port && ofPort >= this.options.perPort) {
      this.entries.delete(key)
      this.refused++
      return
    }
    if (known !== undefined) {
      known.port = port
      known.seen = seconds
      return
    }
    if (this.entries.size >= this.options.capacity || ofPort >= this.options.perPort) {
      this.refused++
      return
    }
    this.entries.set(key, { high, low, vlan, port, seen: seconds })
  }

  lookUp(high: number, low: number, vlan: number, seconds: number): number {
    const known = this.entries.get(`${high}/${low}/${vlan}`)
    return known === undefined || seconds - known.seen > this.options.ageing ? NO_PORT : known.port
  }

  flushPort(port: number): void {
    for (const [key, entry] of this.entries) if (entry.port === port) this.entries.delete(key)
  }

  expire(seconds: number): void {
    for (const [key, entry] of this.entries) if (seconds - entry.seen > this.options.ageing) this.entries.delete(key)
  }
}

/** Sweeps once around. */
const sweepAll = (fdb: Fdb, seconds: number) => fdb.sweep(seconds, 16 * 4)

const options: FdbOptions = { capacity: 8, perPort: 5, ageing: 10 }
// 16 slots for few addresses: runs of collisions, and runs over the end, are the rule.
const address = fc.record({
  high: fc.constantFrom(0, 0x0200, 0xffff),
  low: fc.nat(11),
  vlan: fc.constantFrom(0, 1, 0xfff),
})
const operation = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant('learn' as const), address, port: fc.nat(3) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('flush' as const), port: fc.nat(3) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('wait' as const), seconds: fc.nat(8) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant('sweep' as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant('clear' as const) }) },
)

function compare(fdb: Fdb, model: Model, seconds: number): void {
  const found = new Map<string, number>()
  fdb.visit((high, low, vlan, port, age) => {
    const key = `${high}/${low}/${vlan}`
    const entry = model.entries.get(key)
    if (found.has(key)) throw new Error(`${key} stands twice`)
    if (entry === undefined) throw new Error(`${key} should be gone`)
    if (age !== seconds - entry.seen) throw new Error(`${key} is ${age} s old`)
    found.set(key, port)
  }, seconds)
  for (const [key, { high, low, vlan, port, seen }] of model.entries) {
    const fresh = seconds - seen <= model.options.ageing
    if (fdb.lookUp(high, low, vlan, seconds) !== (fresh ? port : NO_PORT)) throw new Error(`${key} looked up wrongly`)
    if (fresh !== found.has(key)) throw new Error(`${key} visited wrongly`)
  }
  if (fdb.size !== model.entries.size) throw new Error(`size ${fdb.size}, not ${model.entries.size}`)
  if (fdb.refused !== model.refused) throw new Error(`${fdb.refused} refused, not ${model.refused}`)
}

t.test('behaves like a Map, in any order of operations', async () => {
  fc.assert(
    fc.property(fc.array(operation, { maxLength: 120 }), (operations) => {
      const fdb = new Fdb(options, 4)
      const model = new Model(options)
      let seconds = 1_700_000_000
      for (const step of operations) {
        if (step.kind === 'learn') {
          const { high, low, vlan } = step.address
          fdb.learn(high, low, vlan, step.port, seconds)
          model.learn(high, low, vlan, step.port, seconds)
        } else if (step.kind === 'flush') {
          fdb.flushPort(step.port)
          model.flushPort(step.port)
        } else if (step.kind === 'wait') seconds += step.seconds
        else if (step.kind === 'sweep') {
          sweepAll(fdb, seconds)
          model.expire(seconds)
        } else {
          fdb.clear()
          model.entries.clear()
        }
        compare(fdb, model, seconds)
        for (let low = 0; low < 12; low++) {
          if (fdb.lookUp(1, low, 0, seconds) !== NO_PORT) throw new Error('an address that was never seen')
        }
      }
    }),
    { numRuns: 1000 },
  )
})

t.test('a full table of random addresses: every one is found; flushed, every one is gone', async (t) => {
  const fdb = new Fdb({ capacity: 4096, perPort: 4096, ageing: 300 }, 4)
  const model = new Model({ capacity: 1e9, perPort: 1e9, ageing: 300 })
  let state = 12345
  const random = () => {
    state = (Math.imul(state, 1664525) + 1013904223) | 0
    return state
  }
  for (let i = 0; i < 4096; i++) {
    const [high, low, vlan] = [random() >>> 16, random(), (random() >>> 8) & 0xfff]
    fdb.learn(high, low, vlan, i % 4, 1000)
    model.learn(high, low, vlan, i % 4, 1000)
  }
  compare(fdb, model, 1000)
  t.equal(fdb.size, 4096)
  for (let port = 0; port < 4; port++) {
    fdb.flushPort(port)
    model.flushPort(port)
    compare(fdb, model, 1000)
  }
  t.equal(fdb.size, 0)
})

t.test('full, or one port over its share: not learned, counted; a known address still moves', async (t) => {
  const fdb = new Fdb({ capacity: 4, perPort: 2, ageing: 300 }, 4)
  fdb.learn(2, 1, 0, 0, 0)
  fdb.learn(2, 2, 0, 0, 0)
  fdb.learn(2, 3, 0, 0, 0)
  t.equal(fdb.refused, 1)
  t.equal(fdb.lookUp(2, 3, 0, 0), NO_PORT, 'flooded')
  fdb.learn(2, 3, 0, 1, 0)
  fdb.learn(2, 4, 0, 1, 0)
  fdb.learn(2, 5, 0, 2, 0)
  t.equal(fdb.refused, 2)
  fdb.learn(2, 1, 0, 2, 0)
  t.equal(fdb.lookUp(2, 1, 0, 0), 2)
  fdb.flushPort(1)
  fdb.learn(2, 6, 0, 0, 0)
  t.equal(fdb.lookUp(2, 6, 0, 0), 0, 'after a move and a flush there is room again')
})

t.test(
  'a known address does not move to a port that has its share: it is flooded, and learned again elsewhere',
  async (t) => {
    const fdb = new Fdb({ capacity: 8, perPort: 2, ageing: 300 }, 4)
    fdb.learn(2, 1, 0, 0, 0)
    fdb.learn(2, 2, 0, 0, 0)
    fdb.learn(2, 9, 0, 1, 0)
    t.equal(fdb.learn(2, 9, 0, 0, 5), false)
    t.equal(fdb.refused, 1)
    t.equal(fdb.lookUp(2, 9, 0, 5), NO_PORT)
    t.equal(fdb.size, 2)
    t.equal(fdb.learn(2, 1, 0, 0, 6), true, 'what it has it keeps')
    t.equal(fdb.learn(2, 9, 0, 1, 7), true)
    t.equal(fdb.lookUp(2, 9, 0, 7), 1)
  },
)

t.test('an entry lives exactly as long as its ageing', async (t) => {
  const fdb = new Fdb(options, 4)
  fdb.learn(2, 1, 5, 3, 100)
  t.equal(fdb.lookUp(2, 1, 5, 110), 3)
  t.equal(fdb.lookUp(2, 1, 5, 111), NO_PORT)
  t.equal(fdb.lookUp(2, 1, 0, 100), NO_PORT, 'in its VLAN only')
  fdb.sweep(110, 64)
  t.equal(fdb.size, 1)
  fdb.sweep(111, 64)
  t.equal(fdb.size, 0)
})

t.test('a sweep of a few slots at a time gets around', async (t) => {
  const fdb = new Fdb({ capacity: 64, perPort: 64, ageing: 10 }, 1)
  for (let low = 0; low < 64; low++) fdb.learn(2, low, 0, 0, low < 32 ? 0 : 100)
  for (let call = 0; call < 60; call++) fdb.sweep(50, 3)
  t.equal(fdb.size, 32, 'the old ones are gone')
  for (let low = 32; low < 64; low++) t.equal(fdb.lookUp(2, low, 0, 105), 0)
})
