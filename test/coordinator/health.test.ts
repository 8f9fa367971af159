// What follows for a snapshot from what its hosts say of their files; and with hosts on real sockets: one whose files
// are gone, one that has forgotten, one that is away, one that is too slow.

import t, { type Test } from 'tap'
import { SocketAgents } from '../../coordinator/agents.js'
import { healthOf, quickHealth, verifySnapshot } from '../../coordinator/health.js'
import { filesOf } from '../../src/api/files.js'
import type { FileFault, HostHealth } from '../../src/api/schemas.js'
import { describeHealth, describeVerification } from '../../src/cli/health-report.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import { patience } from '../patience.js'
import { FakeSwitch, workDirectory } from './fake-switch.js'
import { manifestOf } from './fixtures.js'

const manifest = manifestOf({ a: ['vm1'], b: ['vm2'] })
const [partA] = manifest.parts
const fault: FileFault = { file: partA.channel, fault: 'missing', detail: 'it is not there' }
const told = (more: Partial<HostHealth['parts'][number]> = {}): HostHealth => ({
  parts: [{ snapshot: 'demo', epoch: 4, faults: [], faultCount: 0, unchecked: 0, ...more }],
})
const away = new SnapswitchError('SOCKET_UNREACHABLE', 'nobody there', 'Start it.').report()
const late = new SnapswitchError('REQUEST_TIMEOUT', 'too slow', 'Wait.').report()
const forbidden = new SnapswitchError('PERMISSION', 'may not open /run/b.sock', 'Be root.')
const strange = new SnapswitchError('INTERNAL', 'an answer that does not fit its schema', 'Use one version.')
const misunderstood = new SnapswitchError('REQUEST_INVALID', 'this daemon has no GET', 'Use one version.')
const unreadable = new SnapswitchError('STORE_IO', 'cannot read /state/snapshots', 'Mount it.')

type Answer = HostHealth | typeof away

t.test('a verdict for the snapshot: the worst that a host of it has', async (t) => {
  const cases: [Answer | undefined, string, string][] = [
    [told(), 'ok', 'ok'],
    [told({ faults: [fault], faultCount: 1 }), 'damaged', 'damaged'],
    [told({ faults: [], faultCount: 0, unchecked: 3 }), 'unchecked', 'unchecked'],
    [told({ epoch: 5 }), 'damaged', 'damaged'],
    [{ parts: [] }, 'damaged', 'damaged'],
    [away, 'away', 'away'],
    [late, 'unchecked', 'unchecked'],
    [unreadable.report(), 'damaged', 'damaged'],
    [forbidden.report(), 'away', 'away'],
    [strange.report(), 'away', 'away'],
    [misunderstood.report(), 'away', 'away'],
    [undefined, 'away', 'away'],
  ]
  for (const [answer, ofHost, ofAll] of cases) {
    const answers = new Map<string, Answer>([['a', told()], ...(answer === undefined ? [] : [['b', answer] as const])])
    const health = healthOf(manifest, answers)
    t.match(health, {
      verdict: ofAll,
      hosts: [
        { host: 'a', verdict: 'ok' },
        { host: 'b', verdict: ofHost },
      ],
    })
  }
  const both = healthOf(manifest, new Map<string, Answer>([['a', told({ faultCount: 1 })], ['b', away] as const]))
  t.match(both, {
    verdict: 'damaged',
    hosts: [{ verdict: 'damaged' }, { verdict: 'away', error: { code: 'SOCKET_UNREACHABLE' } }],
  })
  t.equal(healthOf({ ...manifest, state: 'failed' }, new Map()), null)
})

async function hosts(t: Test) {
  const directory = await workDirectory(t)
  const a = new FakeSwitch(directory, 'a', ['vm1'])
  const b = new FakeSwitch(directory, 'b', ['vm2'])
  await Promise.all([a.start(), b.start()])
  const sockets = { a: a.socketPath, b: b.socketPath }
  const agents = new SocketAgents('lab0', sockets)
  t.teardown(async () => {
    await agents.close()
    await Promise.all([a.stop(), b.stop()])
  })
  const network = { name: 'lab0', sockets, hosts: ['a', 'b', 'c'], agents }
  const prepared = { epoch: 4, policy: 'buffer' as const, deadlineMs: patience(1000) }
  for (const [host, one] of [
    ['a', a],
    ['b', b],
  ] as const) {
    await agents.prepare(host, 'demo', prepared, { timeoutMs: 5000 })
    for await (const event of agents.take(host, 'demo', { timeoutMs: 5000 }))
      if (event.type === 'done') one.parts.set('demo', event.part)
  }
  const parts = await Promise.all(['a', 'b'].map((host) => agents.part(host, 'demo', { timeoutMs: 5000 })))
  return { a, b, network: { ...network, hosts: ['a', 'b'] }, whole: { ...manifest, parts }, directory }
}

const idle = new AbortController().signal

t.test('verify: what is missing where, and who else has it', async (t) => {
  const { a, b, network, whole } = await hosts(t)
  const verify = (quick = false) => verifySnapshot(whole, { network, quick, signal: idle })
  t.match(await verify(), { health: { verdict: 'ok' }, restorable: true, files: 6, quick: false })
  t.match(await verify(true), { health: { verdict: 'ok' }, restorable: null, quick: true })

  const [memory, disk] = [whole.parts[1].members[0].memory, whole.parts[1].members[0].disks[0].layers[0].file]
  const content = b.files.get(memory.digest)!
  b.files.delete(memory.digest)
  b.files.delete(disk.digest)
  a.files.set(memory.digest, content)
  const found = await verify()
  t.equal(found.health.verdict, 'damaged')
  t.match(found.health.hosts, [
    { host: 'a', verdict: 'ok', faults: [] },
    {
      host: 'b',
      verdict: 'damaged',
      faults: [
        { file: memory, fault: 'missing', elsewhere: ['a'] },
        { file: disk, fault: 'missing', elsewhere: [] },
      ],
    },
  ])
  t.equal(found.restorable, false, 'the disk is nowhere')
  a.files.set(disk.digest, content)
  t.match(await verify(), { health: { verdict: 'damaged' }, restorable: true })

  for (const file of filesOf(whole.parts[1])) a.files.set(file.digest, content)
  b.faults.set('verifyFiles', unreadable)
  const blind = await verify()
  t.match(blind, { health: { verdict: 'damaged' }, restorable: true }, 'one that cannot look: all is looked for')
  t.match(describeVerification(whole, blind), /^host b: cannot read \/state\/snapshots/m, 'it is not away')
  for (const error of [forbidden, strange, misunderstood]) {
    b.faults.set('verifyFiles', error)
    const unasked = await verify()
    t.match(unasked, { health: { verdict: 'away' }, restorable: true }, 'one that cannot be asked has lost nothing')
    t.match(describeVerification(whole, unasked), `host b cannot be asked: ${error.message}`)
  }
  b.faults.clear()
  await b.stop()
  t.match(await verify(), { health: { verdict: 'away' }, restorable: true }, 'all of a host that is away is on another')

  // Held frames and recorded events are evidence: no restore reads them.
  const held = { path: 'hosts/b/held.pcapng', digest: 'd'.repeat(64), bytes: 100 }
  const withHeld = { ...whole, parts: [whole.parts[0], { ...whole.parts[1], held, events: held }] }
  const missed = await verifySnapshot(withHeld, { network, quick: false, signal: idle })
  t.match(missed, { health: { verdict: 'away' }, restorable: true }, 'held frames are nowhere')
  t.ok(missed.health.hosts[1]?.faults.some(({ file, elsewhere }) => file.path === held.path && elsewhere?.length === 0))

  a.files.delete(memory.digest)
  const lost = await verify()
  t.match(lost, { health: { verdict: 'away' }, restorable: false })
  t.same(
    lost.health.hosts[1].faults.filter(({ elsewhere }) => elsewhere?.length === 0).map(({ file }) => file),
    [memory],
  )
  await t.rejects(verifySnapshot({ ...whole, state: 'pending' }, { network, quick: false, signal: idle }), {
    code: 'SNAPSHOT_NOT_COMPLETE',
  })
})

t.test('a file is named after its machine', async (t) => {
  const two = manifestOf({ a: ['vm1', 'vm2'] })
  const files = two.parts.flatMap(filesOf)
  const faults = files.map((file): FileFault => ({ file, fault: 'missing', detail: 'it is not there' }))
  const host = { host: 'a', verdict: 'damaged' as const, faults, faultCount: faults.length, error: null }
  const text = describeHealth(two, { verdict: 'damaged', hosts: [host] })
  const roles = ['channel state', 'memory of vm1', 'disk disk0 of vm1', 'memory of vm2', 'disk disk0 of vm2']
  t.same(
    text.split('\n').flatMap((line) => roles.find((role) => line.includes(role)) ?? []),
    roles,
  )
})

t.test('a list waits for nobody longer than a person does', async (t) => {
  const { a, b, network, whole } = await hosts(t)
  const other = {
    ...whole,
    name: 'other',
    parts: whole.parts.slice(0, 1).map((part) => ({ ...part, snapshot: 'other' })),
  }
  const health = async () => [...(await quickHealth([whole, other], new Map([['lab0', network]]))).values()]
  t.match(await health(), [{ verdict: 'ok' }, { verdict: 'damaged', hosts: [{ error: { message: /has no record/ } }] }])
  a.calls.length = 0
  await health()
  t.same(a.calls, ['health'], 'a host is asked once for all')
  b.faults.set('health', 'silent')
  t.match(await health(), [{ verdict: 'unchecked', hosts: [{ verdict: 'ok' }, { verdict: 'unchecked' }] }, {}])
  await b.stop()
  t.match(await health(), [{ verdict: 'away', hosts: [{ verdict: 'ok' }, { host: 'b', verdict: 'away' }] }, {}])
})
