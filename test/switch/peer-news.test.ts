// News of peers that anybody can make up: a budget a minute, the rest in one piece with the highest epoch.

import { mock } from 'node:test'
import t from 'tap'
import { systemClock } from '../../src/runtime/clock.js'
import { PeerNewsdesk } from '../../switch/agent/peer-news.js'

t.test('a flood of new peers becomes few words', async (t) => {
  mock.timers.enable({ apis: ['setTimeout'] })
  t.teardown(() => mock.timers.reset())
  const told: [string, number, number][] = []
  const desk = new PeerNewsdesk(systemClock, ({ network, epoch }, more) => told.push([network, epoch, more]))
  const flood = (count: number) => {
    for (let i = 0; i < count; i++) desk.heard({ network: 'lab0', host: `h${i}`, epoch: i % 5000 })
  }
  flood(20_000)
  t.equal(told.length, 64, 'the first ones at once')
  desk.heard({ network: 'lab1', host: 'b', epoch: 7 })
  t.same(told.at(-1), ['lab1', 7, 0], 'other networks are not affected')
  mock.timers.tick(60_000)
  t.same(told.slice(65), [['lab0', 4999, 20_000 - 64 - 1]], 'the others with the highest epoch of all')
  flood(1)
  t.same(told.at(-1), ['lab0', 0, 0], 'and at once again')
  mock.timers.tick(60_000)
  t.equal(told.length, 67, 'nothing is left over')
  desk.close()
})
