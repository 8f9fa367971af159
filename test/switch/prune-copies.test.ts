// `snapshot prune --orphans` on a host: which copies it has no need of, and what becomes of those that no snapshot has.

import { existsSync, mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import t from 'tap'
import { DiskKeeper } from '../../switch/agent/disks/keeper.js'
import { prune } from '../../switch/agent/disks/prune.js'
import { DiskRecords } from '../../switch/agent/disks/records.js'
import { Journal } from '../../switch/agent/journal.js'
import { LocalStore } from '../../switch/agent/local-store.js'
import { digestOf, memberOf, partOf } from '../coordinator/fixtures.js'
import { fileLimit } from '../patience.js'
import { machinesBy, unasked } from './made-up-machine.js'
import { root } from './world.js'

t.setTimeout(fileLimit(30_000))

t.test('copies that nothing here needs', root, async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'snapswitch-prune-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  const state = join(directory, 'state')
  const store = new LocalStore(state)
  await store.open()
  const disks = await DiskRecords.open(state, async () => ({ made: [], actives: [] }))
  const machines = machinesBy({}, { attach: unasked('be attached') })
  const log = pino({ level: 'silent' })
  const host = { name: 'a', store, disks, machines, journal: new Journal(state), log }
  const keeper = new DiskKeeper(host, () => new Set())
  t.teardown(() => keeper.close())
  mkdirSync(store.images.directory)
  /** Two days old, unless it is new. */
  const copy = (name: string, isNew = false) => {
    const digest = digestOf(name)
    const file = join(store.images.directory, digest)
    writeFileSync(file, name)
    const seconds = Date.now() / 1000 - 2 * 86_400
    if (!isNew) utimesSync(file, seconds, seconds)
    return { file, digest }
  }
  const [old, fresh, own] = [copy('old'), copy('fresh', true), copy('own')]
  const memory = { path: own.file, bytes: 3, digest: own.digest }
  await store.writePart({ ...partOf('a', [], 's1', 1), members: [{ ...memberOf('a', 'vm1'), memory, disks: [] }] })
  const names = async (request: Parameters<typeof prune>[2]) =>
    (await prune({ store }, keeper, request)).copies?.map(({ file }) => file)
  t.equal(await names({}), undefined)
  t.same(await names({ orphans: true }), [old.file], 'not what a part has, and not what may be named in a moment')
  const released = [old, fresh].map(({ digest }) => digest)
  await prune({ store }, keeper, { orphans: true, dryRun: true, released })
  t.ok(existsSync(old.file))
  t.match(await prune({ store }, keeper, { orphans: true, released }), { removed: [old.file], copies: [] })
  t.same([existsSync(old.file), existsSync(fresh.file), existsSync(own.file)], [false, true, true])
})
