// Deletions where a name is not enough: hosts have another snapshot under it than the one that is deleted. It is of
// another coordinator, or of a store that was lost, or brought back from a backup.

import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { Manifest } from '../../src/api/schemas.js'
import { tableOfSnapshots } from '../../src/cli/snapshot-report.js'
import { fileLimit } from '../patience.js'
import { manifestOf } from './fixtures.js'
import { type Lab, lab, refused } from './lab.js'

t.setTimeout(fileLimit(60_000))

/** Both hosts have an s1 of which the store knows nothing, and a snapshot of that name was tried in vain. */
async function shadowed(t: Test): Promise<Lab> {
  const all = await lab(t)
  await all.create('s1')
  await rm(join(all.directory, 'store', 'lab0', 's1'), { recursive: true })
  await t.rejects(all.create('s1'), { code: 'SNAPSHOT_EXISTS' })
  t.match(await all.catalogue.read('lab0', 's1'), { state: 'failed', epoch: 2, parts: [] })
  t.ok(all.a.parts.has('s1') && all.b.parts.has('s1'), 'it was discarded by its epoch')
  return all
}

for (const looksAtNames of [false, true]) {
  const hosts = looksAtNames ? 'hosts of a former version' : 'hosts'

  t.test(`delete of a failed record leaves what ${hosts} have under its name`, async (t) => {
    const { a, b, coordinator, catalogue } = await shadowed(t)
    for (const host of [a, b]) host.looksAtNames = looksAtNames
    const report = await coordinator.delete('lab0', 's1')
    t.ok(a.parts.has('s1') && b.parts.has('s1'))
    const kept = [{ file: '/state/a', reason: /of another lab0\/s1 \(epoch 1\)/ }]
    t.match(report.hosts, [{ host: 'a', removed: [], kept }, { host: 'b' }])
    t.same(await catalogue.list(), [])
    t.match(await coordinator.listWithHealth(), [{ name: 's1', error: { action: /remove the parts/ } }])
    await coordinator.delete('lab0', 's1')
    t.notOk(a.parts.has('s1') || b.parts.has('s1'), 'but it can be deleted by itself')
  })

  t.test(`prune of a failed record leaves what ${hosts} have under its name`, async (t) => {
    const { a, b, coordinator, catalogue } = await shadowed(t)
    for (const host of [a, b]) host.looksAtNames = looksAtNames
    t.match(await coordinator.prune({}), { failed: [{ name: 's1', error: null }] })
    t.ok(a.parts.has('s1') && b.parts.has('s1'))
    t.same(await catalogue.list(), [])
  })

  t.test(`delete of a manifest from a backup leaves a later snapshot that ${hosts} have under its name`, async (t) => {
    const { a, b, create, coordinator, catalogue } = await lab(t)
    const before = await create('s1')
    await coordinator.delete('lab0', 's1')
    await create('s1')
    await catalogue.write(before)
    for (const host of [a, b]) host.looksAtNames = looksAtNames
    await coordinator.delete('lab0', 's1')
    t.ok(a.parts.has('s1') && b.parts.has('s1'))
    t.same(await catalogue.list(), [])
  })
}

t.test('a host looks at the epoch, too: what comes after it was asked is spared', async (t) => {
  const { a, create, coordinator } = await lab(t)
  const { epoch } = await create('s1')
  await coordinator.delete('lab0', 's1')
  t.ok(a.calls.includes(`delete ${epoch}`), a.calls.join())
})

t.test('a list has both: the failed one, and the one that hosts have under its name', async (t) => {
  const { coordinator } = await shadowed(t)
  const listed = await coordinator.listWithHealth()
  t.match(listed, [
    {
      name: 's1',
      epoch: 0,
      error: { code: 'STORE_DAMAGED', message: /host a and host b have their parts/, action: /remove that manifest/ },
    },
    { name: 's1', epoch: 2, state: 'failed', error: { code: 'SNAPSHOT_EXISTS' } },
  ])
  t.match(tableOfSnapshots(listed), /^lab0\/s1 +damaged .*^lab0\/s1 +failed /ms)
})

t.test('a damaged manifest hides no parts, and is listed once', async (t) => {
  const { catalogue, create, coordinator } = await lab(t)
  const manifest = await create('s1')
  await catalogue.write({ ...manifest, format: 2 as 1 })
  t.match(await coordinator.listWithHealth(), [{ name: 's1', state: 'failed', error: { code: 'STORE_DAMAGED' } }])
  t.equal((await coordinator.listWithHealth()).length, 1)
})

t.test(
  'a record on a host that cannot be read: it goes with a snapshot that has a part there, and with no other',
  async (t) => {
    const { a, b, create, coordinator, catalogue } = await lab(t)
    for (const host of [a, b]) host.damaged.add('failed')
    await catalogue.write(manifestOf({}, { name: 'failed', state: 'failed' }))
    const { hosts } = await coordinator.delete('lab0', 'failed')
    t.ok(a.damaged.has('failed') && b.damaged.has('failed'))
    t.match(hosts, [{ host: 'a', kept: [{ reason: /cannot be read/ }] }, { host: 'b' }])
    await coordinator.delete('lab0', 'failed').catch(() => {})
    t.notOk(a.damaged.has('failed') || b.damaged.has('failed'), 'by itself it can be deleted')
    await create('whole')
    a.damaged.add('whole')
    await coordinator.delete('lab0', 'whole')
    t.notOk(a.damaged.has('whole') || a.parts.has('whole'))
  },
)

t.test('a snapshot without a name takes none that a host has', async (t) => {
  const { a, b, directory, create, coordinator } = await lab(t)
  const unnamed = async () => (await coordinator.create({ network: 'lab0' }, () => {})).name
  for (const name of ['s1', 's2', 's4']) await create(name)
  await rm(join(directory, 'store', 'lab0'), { recursive: true })
  a.parts.delete('s4')
  b.parts.delete('s1')
  b.damaged.add('s5')
  t.equal(await unnamed(), 's3')
  t.equal(await unnamed(), 's6')
})

/** The same when host a was called `former`, in its part as well. */
function renamed({ a, catalogue }: Lab, manifest: Manifest): Promise<void> {
  const parts = manifest.parts.map((part) => (part.host === 'a' ? { ...part, host: 'former' } : part))
  a.parts.set(manifest.name, parts[0]!)
  return catalogue.write({ ...manifest, parts })
}

t.test('a host that was renamed has its part: what it refuses is an error', async (t) => {
  const all = await lab(t)
  const { a, coordinator, catalogue } = all
  await renamed(all, await all.create())
  for (const code of ['SNAPSHOT_NEEDED', 'STORE_FULL'] as const) {
    a.faults.set('localSnapshot', refused(code))
    await t.rejects(coordinator.delete('lab0', 'demo'), { code, message: /^host a/ })
    t.equal((await catalogue.list()).length, 1)
  }
  a.faults.clear()
  const { hosts } = await coordinator.delete('lab0', 'demo')
  t.same(
    hosts.map(({ host }) => host),
    ['a', 'b'],
    'and nothing stays on a host of the former name',
  )
  t.notOk(a.parts.has('demo'))
  t.same(await catalogue.list(), [])
})

t.test('a host that could not be told to discard its part may have it: what it refuses is an error', async (t) => {
  const { a, b, coordinator, catalogue } = await lab(t)
  await catalogue.write(manifestOf({}, { state: 'failed', undiscarded: ['b'] }))
  for (const host of [a, b]) host.faults.set('localSnapshot', refused('STORE_IO'))
  await t.rejects(coordinator.delete('lab0', 'demo'), { code: 'STORE_IO', message: /^host b/ })
  t.match(await coordinator.prune({}), { failed: [{ name: 'demo', error: { code: 'STORE_IO' } }] })
  t.match(await catalogue.read('lab0', 'demo'), { undiscarded: ['b'] })
  b.faults.clear()
  await coordinator.delete('lab0', 'demo')
  t.same(await catalogue.list(), [])
})
