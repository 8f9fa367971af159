// Deleting, flattening and pruning take as long as disks do: called off when the coordinator stops, or when a host
// falls silent.

import t from 'tap'
import { SnapswitchError } from '../../src/errors/errors.js'
import { systemClock } from '../../src/runtime/clock.js'
import { fileLimit, patience } from '../patience.js'
import { asked, coordinatorOf, holdUp, lab, refused } from './lab.js'

t.setTimeout(fileLimit(60_000))

/** Hosts that are looked after are asked more often. */
const hasty = {
  now: () => systemClock.now(),
  after: (ms: number, act: () => void) => systemClock.after(ms === 30_000 ? 5 : ms, act),
}

const marked = { state: 'failed', error: { code: 'SNAPSHOT_DISCARDED', message: /deletion was begun/ } }

t.test('the coordinator stops: it waits for no host that deletes', async (t) => {
  const { a, create, coordinator, catalogue } = await lab(t)
  await create()
  a.faults.set('localSnapshot', 'silent')
  const deleting = coordinator.delete('lab0', 'demo').catch((error: unknown) => error)
  await asked(a, 'delete')
  await coordinator.stop(patience(5_000))
  t.match(await deleting, { code: 'SNAPSHOT_DISCARDED', message: 'the coordinator is being stopped' })
  t.match(await catalogue.read('lab0', 'demo'), marked, 'the host may go on with it')
})

t.test('the answer is lost: the mark stays, though the part is whole still', async (t) => {
  const { a, create, coordinator, catalogue } = await lab(t)
  await create()
  a.faults.set('localSnapshot', refused('SOCKET_UNREACHABLE'))
  await t.rejects(coordinator.delete('lab0', 'demo'), { code: 'SOCKET_UNREACHABLE', message: /^host a/ })
  t.match(await catalogue.read('lab0', 'demo'), marked)
  a.faults.clear()
  await coordinator.delete('lab0', 'demo')
  t.same(await catalogue.list(), [])
})

t.test('a host that deletes is looked after: silent for long, it is waited for no longer', async (t) => {
  const { directory, a, b, create, catalogue } = await lab(t)
  await create()
  const { coordinator } = coordinatorOf(directory, [a, b], hasty)
  t.teardown(() => coordinator.stop(100))
  const goOn = holdUp(a, 'localSnapshot')
  const deleting = coordinator.delete('lab0', 'demo')
  await asked(a, 'ports', 5)
  a.faults.set('ports', refused('STORE_IO'))
  await asked(a, 'ports', 10)
  goOn()
  a.faults.delete('localSnapshot')
  b.faults.set('localSnapshot', 'silent')
  await asked(b, 'ports', 2)
  b.faults.set('ports', new SnapswitchError('REQUEST_TIMEOUT', 'nobody answers', ''))
  await t.rejects(deleting, { code: 'SOCKET_UNREACHABLE', message: /^host b.* silent$/, action: /finishes it/ })
  t.equal(b.calls.filter((call) => call.startsWith('delete')).length, 1)
  t.match(await catalogue.read('lab0', 'demo'), marked)
  b.faults.clear()
  await coordinator.delete('lab0', 'demo')
  t.same(await catalogue.list(), [])
})

t.test('a host that flattens, too', async (t) => {
  const { directory, a, b, create, catalogue } = await lab(t)
  await create()
  const { coordinator } = coordinatorOf(directory, [a, b], hasty)
  t.teardown(() => coordinator.stop(100))
  b.faults.set('flattenPart', 'silent')
  const flattening = coordinator.flatten('lab0', 'demo')
  await asked(b, 'ports', 2)
  b.faults.set('ports', new SnapswitchError('REQUEST_TIMEOUT', 'nobody answers', ''))
  await t.rejects(flattening, { code: 'SOCKET_UNREACHABLE', message: /^host b.* silent$/, action: /flatten it again/ })
  t.equal((await catalogue.read('lab0', 'demo')).state, 'complete')
})

t.test('a host that prunes, too: it is told, and the others have done their part', async (t) => {
  const { directory, a, b } = await lab(t)
  const { coordinator } = coordinatorOf(directory, [a, b], hasty)
  t.teardown(() => coordinator.stop(100))
  b.faults.set('pruneDisks', 'silent')
  const pruning = coordinator.prune({ network: 'lab0' })
  await asked(b, 'ports', 2)
  b.faults.set('ports', new SnapswitchError('REQUEST_TIMEOUT', 'nobody answers', ''))
  t.match((await pruning).hosts, [
    { host: 'a', error: null },
    { host: 'b', pruned: null, error: { code: 'SOCKET_UNREACHABLE', message: /silent/ } },
  ])
})
