// Counts per color against a naive model that forgets nothing.

import t from 'tap'
import { ColorCounter } from '../../src/epoch/color-counter.js'
import { StateExchange } from '../../src/epoch/state.js'
import fc from '../property.js'

function naive(colors: readonly number[]): (epoch: number) => number {
  return (epoch) => colors.filter((color) => color < epoch).length
}

t.test('exact for any order of a few colors', async () => {
  const colors = fc.array(fc.nat(8), { maxLength: 200 })
  fc.assert(
    fc.property(colors, fc.nat(1000), (list, base) => {
      const counter = new ColorCounter()
      const shifted = list.map((color) => color + base)
      for (const color of shifted) counter.add(color)
      const below = naive(shifted)
      if (counter.total !== list.length) return false
      for (let epoch = base; epoch <= base + 10; epoch++) if (counter.below(epoch) !== below(epoch)) return false
      return true
    }),
    { numRuns: 500 },
  )
})

t.test('exact around the newest colors, however many there have been', async () => {
  // As on a trunk: epochs go up over time, with frames of the one or two before in between.
  const steps = fc.array(fc.record({ ahead: fc.nat(2), behind: fc.nat(2) }), { maxLength: 400 })
  fc.assert(
    fc.property(steps, (list) => {
      const counter = new ColorCounter()
      const sent: number[] = []
      let epoch = 2
      for (const { ahead, behind } of list) {
        epoch += ahead === 2 ? 1 : 0
        sent.push(epoch - behind)
        counter.add(epoch - behind)
      }
      const below = naive(sent)
      for (let at = epoch - 2; at <= epoch + 2; at++) if (counter.below(at) !== below(at)) return false
      return counter.total === sent.length
    }),
    { numRuns: 500 },
  )
})

t.test('colors of a confused peer cost a bounded amount of memory', async (t) => {
  const counter = new ColorCounter()
  for (let color = 0; color < 100_000; color++) counter.add((color * 7919) % 4094)
  t.equal(counter.total, 100_000)
  const state = StateExchange.saving()
  counter.exchange(state)
  const { length } = state.fields.others as readonly unknown[]
  t.ok(length <= 16, `${length} colors are kept`)
})

t.test('reset begins anew', async (t) => {
  const counter = new ColorCounter()
  for (const color of [1, 2, 3, 3]) counter.add(color)
  counter.reset()
  t.equal(counter.total, 0)
  t.equal(counter.below(100), 0)
  counter.add(3)
  t.equal(counter.below(4), 1)
  t.equal(counter.below(3), 0)
})
