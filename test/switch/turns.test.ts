// Turns: as many at once as allowed, in order, and none lost.

import t from 'tap'
import { Turns } from '../../switch/agent/turns.js'

t.test('two at once, then one for each that ends, in the order asked', async (t) => {
  const turns = new Turns(2)
  const began: number[] = []
  for (let who = 0; who < 5; who++) void turns.take().then(() => began.push(who))
  const settled = () => new Promise((resolve) => setImmediate(resolve))
  await settled()
  t.same(began, [0, 1])
  turns.give()
  await settled()
  t.same(began, [0, 1, 2])
  for (let i = 0; i < 4; i++) turns.give()
  await settled()
  t.same(began, [0, 1, 2, 3, 4])
  await turns.take()
  await turns.take()
  t.pass('all turns are free again')
})
