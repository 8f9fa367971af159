// All that is to be done at a beat is done in one go, for as long as it is wanted.

import t from 'tap'
import { beatSoon, onBeat, tellsOfNews } from '../../src/runtime/beat.js'
import { until } from '../linux/namespace.js'

t.test('a beat for two', async (t) => {
  const acts: string[] = []
  const first = onBeat(() => acts.push('first'))
  const second = onBeat(() => acts.push('second'))
  await until(() => acts.length >= 4, 'two beats')
  t.same(acts, ['first', 'second', 'first', 'second'])
  first()
  await until(() => acts.length >= 6, 'two more')
  t.same(acts.slice(4), ['second', 'second'])
  second()
  t.equal(acts.length, 6)
})

t.test('beats are seldom where somebody tells', async (t) => {
  const times: number[] = []
  let isCalm = true
  const end = onBeat(() => {
    times.push(performance.now())
    return isCalm
  })
  t.teardown(end)
  await until(() => times.length >= 2, 'two beats')
  tellsOfNews(() => true)
  t.teardown(() => tellsOfNews(() => false))
  await until(() => times.length >= 5, 'three more')
  const [before, after] = times.slice(3)
  t.ok(after! - before! > 400, 'not ten times a second')
  beatSoon()
  await until(() => times.length >= 6, 'the next')
  t.ok(times[5]! - times[4]! >= 95, 'but never more often than that')
  isCalm = false
  beatSoon()
  const told = times.length
  await until(() => times.length >= told + 3, 'three soon')
})

t.test('at some beats only', async (t) => {
  let all = 0
  let some = 0
  const ends = [onBeat(() => all++), onBeat(() => some++, 300)]
  t.teardown(() => {
    for (const end of ends) end()
  })
  await until(() => some >= 2, 'the second of the seldom ones')
  t.ok(all >= 4, `${all} beats`)
})
