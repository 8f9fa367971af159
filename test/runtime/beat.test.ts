// All that is to be done at a beat is done in one go, for as long as it is wanted.

import t from 'tap'
import { onBeat } from '../../src/runtime/beat.js'
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
