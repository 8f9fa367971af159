// What has changed between a look at the catalogue and the moment at which a network is free.

import t from 'tap'
import { fileLimit } from '../patience.js'
import { manifestOf } from './fixtures.js'
import { asked, coordinatorOf, holdUp, lab, waits, watchedClock } from './lab.js'

t.setTimeout(fileLimit(60_000))

const failed = { state: 'failed' as const, epoch: 1, parts: [], figures: null }

t.test('prune: a failed snapshot that is complete by now stays, and one that is gone is not told', async (t) => {
  const { a, catalogue, coordinator, create } = await lab(t)
  await catalogue.write(manifestOf({}, { ...failed, name: 'first' }))
  await catalogue.write(manifestOf({}, { ...failed, name: 'again', network: 'lab1' }))
  await catalogue.write(manifestOf({}, { ...failed, name: 'gone', network: 'lab1' }))
  const goOn = holdUp(a, 'localSnapshot')
  const pruning = coordinator.prune({})
  await asked(a, 'delete')
  await create('again', { network: 'lab1' })
  await catalogue.remove('lab1', 'gone')
  goOn()
  t.match(await pruning, { failed: [{ network: 'lab0', name: 'first', error: null }] })
  t.equal((await pruning).failed.length, 1)
  t.equal((await catalogue.read('lab1', 'again')).state, 'complete')
  t.ok(a.parts.has('again'), 'the hosts have it')
})

t.test('recovery: what has changed while it waited is left alone', async (t) => {
  const { directory, a, b, catalogue } = await lab(t)
  for (const name of ['again', 'gone']) {
    await catalogue.write(manifestOf({}, { ...failed, name, undiscarded: ['b'] }))
  }
  const clock = watchedClock()
  const { coordinator } = coordinatorOf(directory, [a, b], clock)
  const goOn = holdUp(b, 'discard')
  const creating = coordinator.create({ network: 'lab0', name: 'again', deadlineMs: 50_000 }, () => {})
  await asked(b, 'discard')
  const recovering = coordinator.recover()
  await waits(clock, 60_000)
  goOn()
  t.match(await creating, { state: 'complete' })
  await recovering
  t.equal((await catalogue.read('lab0', 'again')).state, 'complete')
  t.equal(b.calls.filter((call) => call.startsWith('discard')).length, 2, 'by the snapshot, once for each')
  await t.rejects(catalogue.read('lab0', 'gone'), { code: 'SNAPSHOT_UNKNOWN' })
  await coordinator.stop()
})
