// The semaphore: as many at once as allowed, in order, and none lost.

import t from 'tap'
import { Semaphore } from '../../switch/agent/semaphore.js'

t.test('two at once, then one for each that ends, in the order asked', async (t) => {
  const semaphore = new Semaphore(2)
  const began: number[] = []
  for (let who = 0; who < 5; who++) void semaphore.acquire().then(() => began.push(who))
  const settled = () => new Promise((resolve) => setImmediate(resolve))
  await settled()
  t.same(began, [0, 1])
  semaphore.release()
  await settled()
  t.same(began, [0, 1, 2])
  for (let i = 0; i < 4; i++) semaphore.release()
  await settled()
  t.same(began, [0, 1, 2, 3, 4])
  await semaphore.acquire()
  await semaphore.acquire()
  t.pass('all places are free again')
})
