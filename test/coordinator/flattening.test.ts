// `snapshot flatten` at the coordinator, with made-up hosts: the manifest names the copies before any host's part does,
// and what was interrupted is finished by asking again. Copies that come to nothing are given up.

import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Coordinator } from '../../coordinator/coordinator.js'
import { ConfiguredNetworks } from '../../coordinator/networks.js'
import { Catalogue } from '../../coordinator/store/catalogue.js'
import type { FrozenDiskRecord, Manifest } from '../../src/api/schemas.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import { FakeSwitch, silent, workDirectory } from './fake-switch.js'
import { digestOf, partOf } from './fixtures.js'

const layer = (path: string) => ({ file: { path, bytes: 500, digest: digestOf(path) }, format: 'qcow2' as const })
const long: FrozenDiskRecord = { name: 'disk0', layers: [layer('/b'), layer('/a')], overlay: '/c' }
const flat: FrozenDiskRecord = { name: 'disk0', layers: [layer('/images/flat')], overlay: '/c' }

/** Two hosts; the disk of vm1 on host a stands on two images. */
async function lab(t: Test) {
  const directory = await workDirectory(t)
  const a = new FakeSwitch(directory, 'a', ['vm1', 'vm2'])
  const b = new FakeSwitch(directory, 'b', ['vm3'])
  await Promise.all([a.start(), b.start()])
  const hosts = { a: { socket: a.socketPath }, b: { socket: b.socketPath } }
  const config = { socket: '', store: join(directory, 'store'), log: 'silent', networks: { lab0: { hosts } } } as const
  const catalogue = new Catalogue(config.store)
  await catalogue.open()
  const coordinator = new Coordinator({
    networks: new ConfiguredNetworks(config.networks),
    catalogue,
    logger: silent,
    version: '0.1.0',
  })
  t.teardown(async () => {
    await coordinator.stop(100)
    await Promise.all([a.stop(), b.stop()])
  })
  const made = await coordinator.create({ network: 'lab0', name: 's1' }, () => undefined)
  const part = partOf('a', ['vm1', 'vm2'], 's1', 1)
  const [first, second] = part.members
  const members = [{ ...first!, disks: [long], verified: { verdict: 'loads', reason: null } as const }, second!]
  const manifest: Manifest = { ...made, parts: [{ ...part, members }, made.parts[1]!] }
  await catalogue.write(manifest)
  a.flat = [{ vm: 'vm1', disks: [flat] }]
  for (const { calls } of [a, b]) calls.length = 0
  return { a, b, catalogue, coordinator, manifest }
}

const broken = new SnapswitchError('STORE_FULL', 'no space left', 'Make some.')

t.test('the manifest names one image for each disk, then the hosts are told', async (t) => {
  const { a, b, catalogue, coordinator } = await lab(t)
  const report = await coordinator.flatten('lab0', 's1')
  t.same(report.disks, [{ host: 'a', vm: 'vm1', disk: 'disk0', images: 2, file: '/images/flat', bytes: 500 }])
  const [member, other] = (await catalogue.read('lab0', 's1')).parts[0]!.members
  t.same(member!.disks, [flat])
  t.notOk('verified' in member!, 'whether it loads was found out with other files')
  t.equal(other!.disks[0]!.layers.length, 1)
  t.same(
    [a.calls, b.calls],
    [
      ['flatten s1', 'adopt 1 1'],
      ['flatten s1', 'adopt 1'],
    ],
  )
  a.flat = []
  t.same((await coordinator.flatten('lab0', 's1')).disks, [], 'once more: nothing to do')
})

t.test('a host that cannot leaves everything as it was', async (t) => {
  const { a, b, catalogue, coordinator, manifest } = await lab(t)
  b.faults.set('flattenPart', broken)
  await t.rejects(coordinator.flatten('lab0', 's1'), { code: 'STORE_FULL', message: /host b: no space left/ })
  t.same(await catalogue.read('lab0', 's1'), manifest)
  t.notOk([...a.calls, ...b.calls].some((call) => call.startsWith('adopt')))
  t.same([a.released, b.released], [[flat.layers[0]!.file.digest], []], 'but for the copy, which goes')
})

t.test('a manifest that cannot be written names no copies: they go', async (t) => {
  const { a, catalogue, coordinator, manifest } = await lab(t)
  const write = catalogue.write
  catalogue.write = async () => {
    throw broken
  }
  await t.rejects(coordinator.flatten('lab0', 's1'), { code: 'STORE_FULL' })
  t.same(a.released, [flat.layers[0]!.file.digest])
  a.released.length = 0
  // Its last step failed: it is there.
  catalogue.write = async (changed) => {
    await write.call(catalogue, changed)
    throw broken
  }
  await t.rejects(coordinator.flatten('lab0', 's1'), { code: 'STORE_FULL' })
  t.notSame(await catalogue.read('lab0', 's1'), manifest)
  t.same(a.released, [])
})

t.test('a copy that another snapshot names stays', async (t) => {
  const { a, b, catalogue, coordinator, manifest } = await lab(t)
  const [part, ...others] = manifest.parts
  const [member, ...rest] = part!.members
  const parts = [{ ...part!, members: [{ ...member!, disks: [flat] }, ...rest] }, ...others]
  await catalogue.write({ ...manifest, name: 's2', parts })
  b.faults.set('flattenPart', broken)
  await t.rejects(coordinator.flatten('lab0', 's1'), { code: 'STORE_FULL' })
  t.same(a.released, [])
})

t.test('interrupted before a host names its copies: the manifest does, and asking again finishes it', async (t) => {
  const { a, catalogue, coordinator } = await lab(t)
  a.faults.set('adoptFlat', broken)
  await t.rejects(coordinator.flatten('lab0', 's1'), { code: 'STORE_FULL', message: /host a/ })
  t.same((await catalogue.read('lab0', 's1')).parts[0]!.members[0]!.disks, [flat])
  t.same(a.released, [])
  a.faults.clear()
  await coordinator.flatten('lab0', 's1')
  t.same((await catalogue.read('lab0', 's1')).parts[0]!.members[0]!.disks, [flat])
  t.equal(a.calls.filter((call) => call === 'adopt 1 1').length, 2)
})

t.test('only complete snapshots', async (t) => {
  const { catalogue, coordinator, manifest } = await lab(t)
  await catalogue.write({ ...manifest, state: 'failed' })
  await t.rejects(coordinator.flatten('lab0', 's1'), { code: 'SNAPSHOT_NOT_COMPLETE' })
  await t.rejects(coordinator.flatten('lab0', 's9'), { code: 'SNAPSHOT_UNKNOWN' })
})

t.test('a part on a host that is no more of the network: nobody is asked to copy', async (t) => {
  const { a, b, catalogue, coordinator, manifest } = await lab(t)
  const [first, second] = manifest.parts
  await catalogue.write({ ...manifest, parts: [first!, { ...second!, host: 'gone' }] })
  const gone = { code: 'SOCKET_UNREACHABLE', message: /lab0 has no host gone any more/, action: /`hosts:`/ }
  await t.rejects(coordinator.flatten('lab0', 's1'), gone)
  t.same([a.calls, b.calls], [[], []])
})

t.test('frames and audit of a part on a host that is no more of the network say so', async (t) => {
  const { catalogue, coordinator, manifest } = await lab(t)
  const [first, second] = manifest.parts
  const gone = { ...second!, host: 'gone', events: second!.channel }
  await catalogue.write({ ...manifest, parts: [{ ...first!, events: first!.channel }, gone] })
  const problem = /^SOCKET_UNREACHABLE: network lab0 has no host gone any more$/
  t.match((await coordinator.frames('lab0', 's1')).hosts, [{ host: 'a' }, { host: 'gone', problem }])
  const { checks } = await coordinator.audit('lab0', 's1')
  const notes = checks.flatMap(({ notes }) => notes).join('\n')
  t.match(notes, /gone: SOCKET_UNREACHABLE: network lab0 has no host gone any more/)
  t.notMatch(notes, /INTERNAL/)
})
