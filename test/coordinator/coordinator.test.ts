// The coordinator over real sockets, with fake switches: create, restore, delete, recovery, locks, and what fails.

import { readFile, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import type { Manifest, Progress } from '../../src/api/schemas.js'
import { loadsWord, tableOfSnapshots } from '../../src/cli/snapshot-report.js'
import { fileLimit, patience } from '../patience.js'
import { digestOf, manifestOf, partOf } from './fixtures.js'
import { asked, coordinatorOf, holdUp, lab, refused } from './lab.js'

t.setTimeout(fileLimit(60_000))

t.test('create: both hosts take part, the manifest is complete and durable', async (t) => {
  const { a, b, create, catalogue, steps } = await lab(t)
  const manifest = await create()
  t.equal(manifest.state, 'complete')
  t.equal(manifest.epoch, 1)
  t.same(a.calls, ['preflight', 'prepare 1', 'take'])
  t.same(b.calls, ['preflight', 'prepare 1', 'take'])
  t.same(await catalogue.read('lab0', 'demo'), manifest)
  t.ok(steps.includes('cut'), 'events of the agents come through as progress')
  const second = await create('again')
  t.equal(second.epoch, 2)
  await t.rejects(create('demo'), { code: 'SNAPSHOT_EXISTS' })
  await t.rejects(create('a/b'), { code: 'NAME_INVALID' })
  await t.rejects(create('..'), { code: 'NAME_INVALID' })
})

t.test(
  'create with verify: what hosts find out goes into the manifest, and the snapshot stays whatever it is',
  async (t) => {
    const { a, b, create, catalogue } = await lab(t)
    const verdicts = (manifest: Manifest) =>
      manifest.parts.map(({ members }) => members.map(({ verified }) => verified))
    t.same(
      verdicts(await create('plain'))
        .flat()
        .filter(Boolean),
      [],
      'only when asked for',
    )
    const loads = { verdict: 'loads', reason: null } as const
    const verified = await create('good', { verify: true })
    t.ok(
      verdicts(verified)
        .flat()
        .every((verdict) => verdict?.verdict === 'loads'),
    )
    t.same(await catalogue.read('lab0', 'good'), verified)
    t.equal(loadsWord(verified), 'yes')
    a.verdict = { verdict: 'fails', reason: 'unknown ramblock' }
    const bad = await create('bad', { verify: true })
    t.equal(bad.state, 'complete')
    t.equal(loadsWord(bad), 'no')
    a.verdict = loads
    b.faults.set('rehearse', refused('STORE_IO'))
    const half = await create('half', { verify: true })
    t.equal(loadsWord(half), 'not all tried')
  },
)

t.test('create: a host that fails in any call makes all hosts discard', async (t) => {
  for (const route of ['prepare', 'take'] as const) {
    const { a, b, create, catalogue } = await lab(t)
    b.faults.set(route, refused('HYPERVISOR_UNREACHABLE'))
    await t.rejects(create(), { message: /the other machines run on.*host b: it will not/ })
    b.faults.set(route, refused('STORE_FULL'))
    await t.rejects(create(), { code: 'STORE_FULL', message: /all machines run on.*host b: it will not/ })
    t.ok(a.calls.includes('discard 1') && b.calls.includes('discard 1'), `${route}: ${a.calls} ${b.calls}`)
    t.match(await catalogue.read('lab0', 'demo'), { state: 'failed', parts: [], error: { code: 'STORE_FULL' } })
    b.faults.clear()
    t.equal((await create()).state, 'complete', 'and the name can be used again')
  }
})

t.test('create: a preflight that fails leaves no manifest and reaches no host', async (t) => {
  const { a, b, create, catalogue } = await lab(t)
  await b.stop()
  await t.rejects(create(), { code: 'SOCKET_UNREACHABLE', message: /host b/ })
  t.same(
    a.calls.filter((call) => call !== 'preflight'),
    [],
  )
  t.same(await catalogue.list(), [])
})

t.test('create: a stream that breaks off, or says nonsense, is a lost agent', async (t) => {
  for (const events of [
    async function* () {
      yield { type: 'paused', vm: 'vm3', atUs: 1 } as const
    },
    async function* () {
      yield { type: 'pausd', vm: 'vm3' } as never
    },
  ]) {
    const { a, b, create } = await lab(t)
    b.takeEvents = events
    await t.rejects(create(), { code: /SOCKET_UNREACHABLE|INTERNAL/ })
    t.ok(a.calls.includes('discard 1') && b.calls.includes('discard 1'))
  }
})

t.test('create: a host that dies in the middle', async (t) => {
  const { a, b, create, catalogue } = await lab(t)
  b.takeEvents = async function* () {
    yield { type: 'paused', vm: 'vm3', atUs: 1 }
    await b.stop()
    await new Promise(() => {})
  }
  await t.rejects(create(), { code: 'SOCKET_UNREACHABLE', message: /host b could not be told/ })
  t.ok(a.calls.includes('discard 1'))
  t.match(await catalogue.read('lab0', 'demo'), { state: 'failed', undiscarded: ['b'] })
  await b.start()
  b.takeEvents = null
  b.calls.length = 0
  t.equal((await create('next')).state, 'complete')
  t.equal(b.calls[0], 'discard 1', 'it is told before the next snapshot')
  await t.rejects(catalogue.read('lab0', 'demo'), { code: 'SNAPSHOT_UNKNOWN' }, 'and then nothing is left to know of')
})

t.test('create: a silent host ends at the deadline', async (t) => {
  const { b, create } = await lab(t)
  b.faults.set('prepare', 'silent')
  await t.rejects(create('demo', { deadlineMs: patience(300) }), {
    code: /DEADLINE|REQUEST_TIMEOUT/,
    message: /host b/,
  })
})

t.test('one at a time: the next is refused, or waits', async (t) => {
  const { a, create } = await lab(t)
  let go = () => {}
  const held = new Promise<void>((resolve) => {
    go = resolve
  })
  const before = a.takeEvents
  a.takeEvents = async function* () {
    yield { type: 'paused', vm: 'vm1', atUs: 1 }
    await held
    yield { type: 'failed', error: refused('CAPTURE_FAILED').report() }
  }
  const first = create('first').catch((error: unknown) => error)
  await asked(a, 'take')
  await t.rejects(create('second'), { code: 'SNAPSHOT_BUSY', message: /snapshot first/ })
  await t.rejects(create('third', { wait: true, deadlineMs: 50 }), { code: 'SNAPSHOT_BUSY' })
  const waiting = create('fourth', { wait: true, deadlineMs: patience(10_000) })
  a.takeEvents = before
  go()
  t.match(await first, { code: 'CAPTURE_FAILED' })
  t.equal((await waiting).state, 'complete')
})

t.test('restore: it waits for a snapshot when told to', async (t) => {
  const { a, create, coordinator } = await lab(t)
  await create()
  const restore = (order: object) => coordinator.restore('lab0', 'demo', { replace: true, ...order }, () => {})
  const refusePrepare = holdUp(a, 'prepare')
  const first = create('first').catch((error: unknown) => error)
  await asked(a, 'prepare', 2)
  await t.rejects(restore({}), { code: 'SNAPSHOT_BUSY', action: /`snapshot restore` wait/ })
  await t.rejects(restore({ wait: true, deadlineMs: 50 }), { code: 'SNAPSHOT_BUSY', action: /within 50 ms/ })
  const waiting = restore({ wait: true, deadlineMs: patience(10_000) })
  refusePrepare(refused('STORE_IO'))
  t.match(await first, { code: 'STORE_IO' })
  t.match(await waiting, { name: 'demo' })
})

t.test('restore: hosts swapped, files travel, originals refuse or are replaced', async (t) => {
  const { a, b, create, coordinator, steps } = await lab(t)
  const manifest = await create()
  const order = { placement: { vm1: 'b', vm2: 'b', vm3: 'a' } }
  const report = (p: Progress) => {
    if (p.type === 'step') steps.push(p.text)
  }
  await t.rejects(coordinator.restore('lab0', 'demo', order, report), {
    code: 'MACHINE_RUNNING',
    message: /vm1 on host a/,
    action: /--replace/,
  })
  t.notOk(
    a.calls.some((c) => c.startsWith('pause') || c.startsWith('load')),
    'a refusal changes nothing',
  )
  const result = await coordinator.restore('lab0', 'demo', { ...order, replace: true }, report)
  t.same(result.placement, order.placement)
  t.equal(result.epoch, 2)
  t.equal(result.channelFrames, 4)
  const files = manifest.parts.flatMap((p) => [
    p.channel,
    ...p.members.flatMap((m) => [m.memory, m.disks[0]!.layers[0]!.file]),
  ])
  t.equal(
    result.transferredBytes,
    files.reduce((n, f) => n + f.bytes, 0),
  )
  for (const file of files) t.ok(a.files.has(file.digest) && b.files.has(file.digest))
  const done = a.calls.filter((c) => /^(put|load|pause|switch|resume)/.test(c)).map((c) => c.split(' ')[0])
  t.same([...new Set(done)], ['put', 'load', 'pause', 'switch', 'resume'], 'nothing is ended before all is ready')
  t.same([a.running, b.running], [['vm3'], ['vm1', 'vm2']])
  // Back home, all of them dead: their ports on the wrong hosts must go.
  a.running = []
  b.running = []
  a.calls.length = 0
  const home = await coordinator.restore('lab0', 'demo', {}, report)
  t.same(home.placement, { vm1: 'a', vm2: 'a', vm3: 'b' })
  t.ok(a.calls.includes('switch') && b.calls.includes('switch'))
  t.equal(home.transferredBytes, 0)
})

t.test('restore: what shares a machine with it is busy, and must not be', async (t) => {
  const { a, create, catalogue, coordinator } = await lab(t)
  const manifest = await create()
  const [first, ...others] = manifest.parts
  const [member, ...members] = first!.members
  const ports = [...member!.ports, { name: 'second', device: 'second', mac: null, network: 'lab1' }]
  await catalogue.write({
    ...manifest,
    parts: [{ ...first!, members: [{ ...member!, ports }, ...members] }, ...others],
  })
  a.vms = []
  const restore = () => coordinator.restore('lab0', 'demo', {}, () => {}).catch((error: unknown) => error)
  const inOther = () => coordinator.create({ network: 'lab1', name: 'other' }, () => {})
  const refuseCheck = holdUp(a, 'restoreCheck')
  const restoring = restore()
  await asked(a, 'check')
  await t.rejects(inOther(), { code: 'SNAPSHOT_BUSY', message: /network lab1 is busy: restore of lab0.demo/ })
  refuseCheck(refused('STORE_IO'))
  t.match(await restoring, { code: 'STORE_IO' })

  const refusePrepare = holdUp(a, 'prepare')
  const other = inOther().catch((error: unknown) => error)
  await asked(a, 'prepare', 2)
  t.match(await restore(), { code: 'SNAPSHOT_BUSY', message: /network lab1 is busy: snapshot other/ })
  refusePrepare(refused('STORE_IO'))
  t.match(await other, { code: 'STORE_IO' })
})

t.test('restore: any failure before the barrier is undone on all hosts', async (t) => {
  for (const route of ['restoreLoad', 'file'] as const) {
    const { a, b, create, coordinator, catalogue } = await lab(t)
    await create()
    a.running = []
    b.running = []
    b.faults.set(route, refused('STORE_IO'))
    const restoring = coordinator.restore('lab0', 'demo', { placement: { vm1: 'b', vm2: 'b', vm3: 'a' } }, () => {})
    await t.rejects(restoring, { code: 'STORE_IO', message: /was undone; the snapshot is untouched.*host/ })
    t.ok(a.calls.includes('abort') && b.calls.includes('abort'))
    t.notOk([...a.calls, ...b.calls].includes('resume'))
    t.equal((await catalogue.read('lab0', 'demo')).state, 'complete')
  }
})

t.test('restore: refused with a reason, and nothing touched', async (t) => {
  const { a, b, create, coordinator, catalogue } = await lab(t)
  await create()
  a.running = []
  b.running = []
  const restore = (name: string, order = {}) => coordinator.restore('lab0', name, order, () => {})
  await t.rejects(restore('demmo'), { code: 'SNAPSHOT_UNKNOWN' })
  await t.rejects(
    coordinator.restore('lab9', 'demo', {}, () => {}),
    { code: 'NETWORK_UNKNOWN', action: /lab0/ },
  )
  await t.rejects(restore('demo', { placement: { vm9: 'a' } }), {
    code: 'PLACEMENT_INVALID',
    action: /Did you mean vm/,
  })
  await t.rejects(restore('demo', { placement: { vm1: 'z' } }), { code: 'PLACEMENT_INVALID', message: /host z/ })
  await catalogue.write(manifestOf({ a: ['vm1'] }, { name: 'half', state: 'pending', parts: [] }))
  await t.rejects(restore('half'), { code: 'SNAPSHOT_NOT_COMPLETE' })
  a.files.clear()
  await t.rejects(restore('demo'), {
    code: 'STORE_DAMAGED',
    message: /^host a lacks .*memory\.img.* and 2 more: cut there, missing or changed since, and host b has no copy$/,
  })
  t.notOk([...a.calls, ...b.calls].some((c) => /^(load|remove|resume)/.test(c)))
})

t.test('restore: a host that does not resume is named; the others run on', async (t) => {
  const { a, b, create, coordinator } = await lab(t)
  await create()
  a.running = []
  b.running = []
  b.faults.set('restoreResume', refused('HYPERVISOR_REFUSED'))
  await t.rejects(
    coordinator.restore('lab0', 'demo', {}, () => {}),
    {
      code: 'RESTORE_FAILED',
      message: /only in part: vm1 and vm2 run.*host b: it will not/,
    },
  )
  t.equal(b.calls.filter((c) => c === 'resume').length, 4)
  t.ok(b.calls.includes('abort'))
  t.notOk(a.calls.includes('abort'))
})

t.test('delete: parts first; a refusal leaves the snapshot as it was', async (t) => {
  const { a, b, create, coordinator, catalogue } = await lab(t)
  await create()
  a.faults.set('localSnapshot', refused('SNAPSHOT_NEEDED'))
  await t.rejects(coordinator.delete('lab0', 'demo'), { code: 'SNAPSHOT_NEEDED', message: /host a/ })
  t.equal((await catalogue.read('lab0', 'demo')).state, 'complete')
  a.faults.clear()
  b.faults.set('localSnapshot', refused('STORE_IO'))
  await t.rejects(coordinator.delete('lab0', 'demo'), { code: 'STORE_IO' })
  t.match(
    await catalogue.read('lab0', 'demo'),
    { state: 'failed', error: { code: 'SNAPSHOT_DISCARDED' } },
    'half is none',
  )
  await t.rejects(create(), { code: 'SNAPSHOT_EXISTS' }, 'its name is not free before it is gone')
  b.faults.clear()
  await coordinator.delete('lab0', 'demo')
  t.same(await catalogue.list(), [])
  await t.rejects(coordinator.delete('lab0', 'demo'), { code: 'SNAPSHOT_UNKNOWN' })
})

t.test('delete: makes room where there is none', async (t) => {
  const { b, create, coordinator, catalogue } = await lab(t)
  await create()
  catalogue.write = async () => {
    throw refused('STORE_FULL')
  }
  b.faults.set('localSnapshot', refused('STORE_IO'))
  await t.rejects(coordinator.delete('lab0', 'demo'), { code: 'STORE_IO' })
  b.faults.clear()
  await coordinator.delete('lab0', 'demo')
  t.same(await catalogue.list(), [])
})

t.test('delete: hosts are told which contents no snapshot has any more', async (t) => {
  const { a, b, create, coordinator, catalogue } = await lab(t)
  const first = await create('first')
  await create('second')
  // Memory images differ; disk and channel state of these made-up hosts are the same in each.
  const memory = digestOf('memory of its own')
  const [part, ...rest] = first.parts
  const [member, ...others] = part!.members
  const own = { ...member!, memory: { ...member!.memory, digest: memory } }
  await catalogue.write({ ...first, parts: [{ ...part!, members: [own, ...others] }, ...rest] })
  await coordinator.delete('lab0', 'first')
  t.same([a.released, b.released], [[memory], [memory]], 'what the second one has stays')
  await coordinator.delete('lab0', 'second')
  t.ok(b.released.includes(member!.disks[0]!.layers[0]!.file.digest))
})

t.test('delete: what a damaged manifest may name is not given up', async (t) => {
  const { a, directory, create, coordinator } = await lab(t)
  const first = await create('first')
  await create('second')
  const digests = first.parts.map(({ channel }) => channel.digest)
  const file = join(directory, 'store', 'lab0', 'second', 'manifest.json')
  const whole = await readFile(file, 'utf8')
  await writeFile(file, whole.slice(0, 300))
  await coordinator.delete('lab0', 'first')
  t.same(a.released, [], 'nobody can tell which contents it has')
  await writeFile(file, whole)
  await coordinator.delete('lab0', 'second')
  for (const digest of digests) t.ok(a.released.includes(digest))
})

t.test('delete: a part on a host that is no more of the network is named', async (t) => {
  const { create, coordinator, catalogue } = await lab(t)
  const manifest = await create()
  const gone = partOf('c', ['vm9'], 'demo', 1)
  await catalogue.write({ ...manifest, parts: [gone, ...manifest.parts] })
  const { hosts } = await coordinator.delete('lab0', 'demo')
  t.match(hosts, [
    { host: 'a', kept: [] },
    { host: 'b', kept: [] },
    { host: 'c', kept: [{ file: '/state/c', reason: /network lab0 has no host c any more/ }] },
  ])
  t.same(await catalogue.list(), [])
})

t.test('recovery: what a killed coordinator left pending is discarded everywhere and failed', async (t) => {
  const { directory, a, b, catalogue } = await lab(t)
  await catalogue.write(
    manifestOf({ a: ['vm1'] }, { name: 'left', state: 'pending', epoch: 7, parts: [], figures: null }),
  )
  const { coordinator } = coordinatorOf(directory, [a, b])
  await coordinator.recover()
  t.same([a.calls, b.calls], [['discard 7'], ['discard 7']])
  t.match(await catalogue.read('lab0', 'left'), {
    state: 'failed',
    error: { code: 'SNAPSHOT_FAILED', message: /coordinator ended/ },
  })
  await coordinator.stop()
})

t.test('recovery: a store that cannot be listed at the start is looked through before the next snapshot', async (t) => {
  const { directory, a, b, create, catalogue, coordinator } = await lab(t)
  await catalogue.write(
    manifestOf({ a: ['vm1'] }, { name: 'left', state: 'pending', epoch: 7, parts: [], figures: null }),
  )
  const list = catalogue.list
  catalogue.list = async () => {
    throw refused('STORE_IO')
  }
  await t.resolves(coordinator.recover(), 'the daemon goes on')
  t.same([a.calls, b.calls], [[], []])
  await t.rejects(create(), { code: 'STORE_IO' })
  catalogue.list = list
  t.equal((await create()).epoch, 8)
  t.equal(a.calls[0], 'discard 7')
  t.notOk(await stat(join(directory, 'store', 'lab0', 'left')).catch(() => null))
})

t.test('stop: what is under way is undone first', async (t) => {
  const { a, b, create, coordinator, catalogue } = await lab(t)
  b.takeEvents = async function* () {
    yield { type: 'paused', vm: 'vm3', atUs: 1 }
    await new Promise(() => {})
  }
  const creating = create().catch((error: unknown) => error)
  await asked(b, 'take')
  await coordinator.stop()
  t.match(await creating, { code: 'SNAPSHOT_DISCARDED' })
  t.ok(a.calls.includes('discard 1') && b.calls.includes('discard 1'))
  t.equal((await catalogue.read('lab0', 'demo')).state, 'failed')
})

t.test('a damaged manifest is listed with its reason, hides no other, and can be deleted', async (t) => {
  const { directory, create, coordinator, catalogue } = await lab(t)
  await create('good')
  await create('bad')
  const file = join(directory, 'store', 'lab0', 'bad', 'manifest.json')
  await writeFile(file, (await readFile(file, 'utf8')).slice(0, 300))
  const listed = await coordinator.list()
  t.same(
    listed.map((m) => [m.name, m.state, m.error?.code ?? null]),
    [
      ['bad', 'failed', 'STORE_DAMAGED'],
      ['good', 'complete', null],
    ],
  )
  await t.rejects(
    coordinator.restore('lab0', 'bad', {}, () => {}),
    { code: 'STORE_DAMAGED', message: /bad\/manifest\.json/ },
  )
  await t.rejects(create('bad'), { code: 'STORE_DAMAGED' })
  await coordinator.delete('lab0', 'bad')
  t.same(
    (await catalogue.list()).map((l) => l.name),
    ['good'],
  )
})

t.test('parts without a manifest are listed, said to be so, and can be deleted', async (t) => {
  const { a, directory, create, coordinator } = await lab(t)
  await create('kept')
  await create('lost')
  await rm(join(directory, 'store', 'lab0', 'lost'), { recursive: true })
  t.same(
    (await coordinator.list()).map(({ name }) => name),
    ['kept'],
  )
  const listed = await coordinator.listWithHealth()
  t.match(listed, [
    {
      name: 'lost',
      state: 'failed',
      error: { message: /no manifest of lab0\/lost, and host a and host b have their parts/ },
    },
    { name: 'kept', state: 'complete', health: { verdict: 'ok' } },
  ])
  t.match(tableOfSnapshots(listed), /^lab0\/lost +damaged +- .*^what to do: .*snapshot delete lab0\/lost$/ms)
  await t.rejects(coordinator.show('lab0', 'lost'), { code: 'STORE_DAMAGED' })
  await t.rejects(coordinator.show('lab0', 'never'), { code: 'SNAPSHOT_UNKNOWN' })
  await t.rejects(coordinator.delete('lab0', 'never'), { code: 'SNAPSHOT_UNKNOWN' })
  a.calls.length = 0
  await coordinator.delete('lab0', 'lost')
  t.ok(a.calls.includes('delete'), a.calls.join())
})

t.test('status: an unreachable host is shown as such', async (t) => {
  const { b, coordinator } = await lab(t)
  await b.stop()
  const { networks } = await coordinator.status()
  t.match(networks[0]?.hosts, [
    { host: 'a', reachable: true, members: ['vm1', 'vm2'], error: null },
    { host: 'b', reachable: false, members: [], error: { code: 'SOCKET_UNREACHABLE' } },
  ])
})
