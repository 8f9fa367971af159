// A finished snapshot whose part.json is lost or damaged is no unfinished one: nothing of it goes until somebody
// deletes it. With real records and files, and a machine made up.

import { existsSync, mkdtempSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { DiskKeeper } from '../../switch/agent/disks/keeper.js'
import { DiskRecords } from '../../switch/agent/disks/records.js'
import type { DaemonHost } from '../../switch/agent/host.js'
import { Journal } from '../../switch/agent/journal.js'
import { LocalStore } from '../../switch/agent/local-store.js'
import { finishRemovals, removePart } from '../../switch/agent/removal.js'
import { memberOf, partOf } from '../coordinator/fixtures.js'
import { fileLimit } from '../patience.js'
import { bareInfo, controlOf, machinesBy } from './made-up-machine.js'
import { root } from './world.js'

t.setTimeout(fileLimit(30_000))

/** A host with one finished snapshot of a machine, which writes to an overlay since. */
async function host(t: Test) {
  const state = mkdtempSync(join(tmpdir(), 'snapswitch-part-'))
  t.teardown(() => rmSync(state, { recursive: true, force: true }))
  const store = new LocalStore(state)
  await store.open()
  const journal = new Journal(state)
  const file = (name: string) => join(state, name)
  const layers = [
    { file: file('vm-vda.demo-e4.qcow2'), format: 'qcow2' as const },
    { file: file('disk.raw'), format: 'raw' as const },
  ]
  for (const layer of layers) writeFileSync(layer.file, '')
  const disks = await DiskRecords.open(state, async () => ({ made: [], actives: [] }))
  await disks.noteMade('vm', layers[0]!.file)
  await disks.noteOrigins('vm', { vda: layers.slice(1) })
  await store.create('lab0', 'demo', 'a', ['vm'])
  const { path: memory } = await store.writeFile('lab0', 'demo', 'vms/vm/memory.img', 'of the machine')
  await journal.writeCut('lab0', 'demo', 'vm', {
    label: 'demo-e4',
    incarnation: '1:1',
    disks: [{ name: 'vda', layers: layers.slice(1) }],
  })
  const frozen = { file: await store.reference(layers[1]!.file), format: 'raw' as const }
  const member = { ...memberOf('a', 'vm'), disks: [{ name: 'vda', overlay: layers[0]!.file, layers: [frozen] }] }
  await store.writePart({ ...partOf('a', ['vm'], 'demo', 4), members: [member] })
  const info = { ...bareInfo, disks: [{ name: 'vda', bytes: 0, layers }] }
  const control = controlOf({ inspect: async () => info })
  const machines = machinesBy({ vm: { qmp: '/none' } }, { attach: async () => control })
  const log = pino({ level: 'silent' })
  const daemon = { name: 'a', store, disks, machines, journal, log } as DaemonHost
  const keeper = new DiskKeeper(daemon, () => new Set())
  t.teardown(() => keeper.close())
  const part = join(store.directory('lab0', 'demo'), 'part.json')
  return { store, journal, keeper, daemon, part, memory, disk: layers[1]!.file }
}

t.test('a part.json that is lost: the snapshot is damaged, and not undone', root, async (t) => {
  const { store, journal, keeper, part, memory, disk } = await host(t)
  await keeper.protect()
  t.equal(statSync(disk).mode & 0o222, 0)
  renameSync(part, `${part}.elsewhere`)
  t.same(await journal.unfinished(), [])
  const damaged = { code: 'STORE_DAMAGED', message: /part\.json is missing/ }
  await t.rejects(store.readPart('lab0', 'demo'), damaged)
  await t.rejects(store.create('lab0', 'demo', 'a', ['vm']), damaged, 'nor does another one take its place')
  await keeper.exclusively(() => keeper.tidy())
  await keeper.protect()
  t.equal(statSync(disk).mode & 0o222, 0, 'its disks stay frozen')
  t.ok(existsSync(memory))
  renameSync(`${part}.elsewhere`, part)
  t.match(await store.readPart('lab0', 'demo'), { snapshot: 'demo' }, 'brought back, it is whole')
})

t.test('the same for one that a former version has taken, after a start', root, async (t) => {
  const { store, journal, part } = await host(t)
  const mark = join(part, '..', 'complete')
  rmSync(mark)
  await store.markParts()
  renameSync(part, `${part}.elsewhere`)
  t.same(await journal.unfinished(), [])
  rmSync(mark)
  t.match(await journal.unfinished(), [{ snapshot: 'demo' }], 'without a mark it was never finished')
})

for (const damage of ['lost', 'no JSON']) {
  t.test(`a snapshot whose part.json is ${damage} can be deleted`, root, async (t) => {
    const { store, keeper, daemon, part, memory } = await host(t)
    if (damage === 'lost') rmSync(part)
    else writeFileSync(part, '{')
    await removePart(daemon, keeper, 'lab0', 'demo', 4)
    t.notOk(existsSync(memory))
    t.equal(await store.readPart('lab0', 'demo'), null)
    t.equal((await keeper.look()).blind, null, 'and nothing is in doubt')
  })
}

t.test('a part of another epoch than the one that is deleted stays whole', root, async (t) => {
  const { store, keeper, daemon, part, memory } = await host(t)
  t.match(await removePart(daemon, keeper, 'lab0', 'demo', 5), {
    removed: [],
    kept: [{ file: join(part, '..'), reason: /of another lab0\/demo \(epoch 4\)/ }],
  })
  t.ok(existsSync(memory))
  t.match(await store.readPart('lab0', 'demo'), { epoch: 4 })
  await removePart(daemon, keeper, 'lab0', 'demo', null)
  t.equal(await store.readPart('lab0', 'demo'), null, 'whoever names no epoch means whatever is there')
  t.notOk(existsSync(memory))
})

t.test('a deletion that was begun is finished, and takes no later snapshot of its name', root, async (t) => {
  const { store, keeper, daemon, memory } = await host(t)
  const later = await store.readPart('lab0', 'demo')
  await store.beginRemoval('lab0', 'demo')
  const removals = store.removals.bind(store)
  store.removals = async () => {
    const found = await removals()
    // Taken while others that were begun are finished.
    await store.create('lab0', 'demo', 'a', ['vm'])
    writeFileSync(memory, 'of the machine, later')
    await store.writePart({ ...later!, epoch: 5 })
    return found
  }
  await finishRemovals(daemon, keeper)
  t.match(await store.readPart('lab0', 'demo'), { epoch: 5 })
  t.ok(existsSync(memory))
})

t.test('a deletion that is cut short at any point leaves nothing that looks lost', async (t) => {
  const { store, journal, part } = await host(t)
  await store.beginRemoval('lab0', 'demo')
  t.equal(await store.readPart('lab0', 'demo'), null)
  t.same(await journal.unfinished(), [])
  writeFileSync(join(part, '..', 'complete'), '')
  t.equal(await store.readPart('lab0', 'demo'), null, 'the mark may go later than the part')
  await store.remove('lab0', 'demo')
  t.notOk(existsSync(join(part, '..')))
})
