// `snapshot create --verify` on one host: images that load, one that does not, a daemon that is killed meanwhile; and
// what a preflight says of machines that could not be started again.

import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { createQemuHypervisor } from '../../src/hypervisor/qemu/driver.js'
import { findProcesses } from '../../src/hypervisor/shared/process.js'
import { QmpClient } from '../../src/hypervisor/shared/qmp.js'
import type { DaemonHost } from '../../switch/agent/host.js'
import { LocalStore } from '../../switch/agent/local-store.js'
import { rehearse } from '../../switch/agent/rehearsal.js'
import { partOf } from '../coordinator/fixtures.js'
import { readReport, soon, until } from '../hypervisor/boot-guest.js'
import { fileLimit, patience } from '../patience.js'
import { LONG, qemuHost, takePart } from './qemu-host.js'
import { root } from './world.js'

t.setTimeout(fileLimit(180_000))

t.test('what becomes of the snapshot while its images are tried stays so', async (t) => {
  const state = mkdtempSync(join(tmpdir(), 'snapswitch-rehearsal-'))
  t.teardown(() => rmSync(state, { recursive: true, force: true }))
  const store = new LocalStore(state)
  await store.open()
  const part = partOf('a', ['vm'], 'demo', 4)
  const [member] = part.members
  const reason = 'there was no time left'
  const file = join(store.directory('lab0', 'demo'), 'part.json')
  const digest = 'f'.repeat(64)
  const flat = { ...part, members: [{ ...member!, memory: { path: '/elsewhere', bytes: 1, digest } }] }
  const meanwhile: Readonly<Record<string, [() => void, object | null]>> = {
    nothing: [() => {}, { epoch: 4, members: [{ memory: member!.memory, verified: { verdict: 'unknown', reason } }] }],
    flattened: [
      () => writeFileSync(file, JSON.stringify(flat)),
      { members: [{ memory: { path: '/elsewhere' }, verified: { verdict: 'unknown', reason } }] },
    ],
    'taken anew': [
      () => writeFileSync(file, JSON.stringify({ ...part, epoch: 5 })),
      { epoch: 5, members: [{ verified: undefined }] },
    ],
    deleted: [() => renameSync(file, join(file, '..', 'part.removing.json')), null],
  }
  for (const [what, [happens, found]] of Object.entries(meanwhile)) {
    await store.create('lab0', 'demo', 'a', ['vm']).catch(() => {})
    await store.writeFile('lab0', 'demo', 'vms/vm/definition.json', JSON.stringify(member!.definition))
    await store.writePart(part)
    const host = { store, log: { info: () => happens() } } as unknown as DaemonHost
    const inTurn: string[] = []
    const keeper = {
      exclusively: async <T>(work: () => Promise<T>) => {
        inTurn.push('begun')
        return work().finally(() => inTurn.push('ended'))
      },
    }
    const { members } = await rehearse(host, keeper, 'lab0', 'demo', performance.now())
    t.match(members, [{ vm: 'vm', verified: { verdict: 'unknown', reason } }], what)
    t.same(inTurn, ['begun', 'ended'])
    const now = await store.readPart('lab0', 'demo')
    if (found === null) t.equal(now, null, `${what}: it does not come back`)
    else t.match(now, found, what)
  }
})

t.test('images are loaded beside the machines that run; a damaged one is told', root, async (t) => {
  const { world, guest, start } = await qemuHost(t)
  const daemon = await start()
  const { client } = daemon
  const part = await takePart(daemon, 's1', 1)
  const rehearsal = await client.rehearse('lab0', 's1', { deadlineMs: patience(50_000) }, LONG)
  t.same(rehearsal.members, [{ vm: 'vm0', verified: { verdict: 'loads', reason: null } }])
  t.same((await client.part('lab0', 's1', LONG)).members[0]!.verified, { verdict: 'loads', reason: null })
  const directory = join(world.state('host'), 'rehearsal')
  t.notOk(existsSync(directory), 'nothing of it is left')
  const throwAway = () => findProcesses((argv) => argv.some((word) => word.startsWith(`unix:${directory}/`)))
  t.same(throwAway(), [])
  // The disk of the running machine is as it was, and its guest has not noticed.
  const { count } = readReport(guest.serial)
  await until('the guest to run on', () => readReport(guest.serial).count > count + 3)
  t.equal(readReport(guest.serial).complaints, '')
  const { memory } = part.members[0]!
  // What a killed daemon has left is ended by the next one.
  const left = createQemuHypervisor()
  mkdirSync(directory)
  const [disk] = part.members[0]!.disks
  const loaded = await left.load(
    {
      definition: part.members[0]!.definition as never,
      memoryFile: memory.path,
      disks: [{ ...disk!, layers: disk!.layers.map(({ file, format }) => ({ file: file.path, format })) }],
      taps: [],
      directory,
      rehearsal: true,
    },
    soon(30_000),
  )
  await loaded.control.close()
  t.equal(throwAway().length, 1)
  await daemon.crash()
  const next = await start()
  await until('it to be ended', () => throwAway().length === 0 && !existsSync(directory), 20_000)
  truncateSync(memory.path, memory.bytes - 1000)
  const damaged = await next.client.rehearse('lab0', 's1', { deadlineMs: patience(50_000) }, LONG)
  t.match(damaged.members, [{ vm: 'vm0', verified: { verdict: 'fails', reason: /memory\.img/ } }])
  t.notOk(existsSync(directory))
  // What stands in the way of the next snapshot is told by the preflight.
  const qmp = await QmpClient.connect(guest.qmp, soon(5000))
  await qmp.execute('netdev_add', { type: 'user', id: 'u1' }, soon(5000))
  await qmp.execute('device_add', { driver: 'e1000', id: 'nic9', netdev: 'u1' }, soon(5000))
  qmp.close()
  t.match((await next.client.preflight('lab0', LONG)).problems, [
    { code: 'MACHINE_UNSUPPORTED', message: /nic9 was plugged in/, action: /Unplug/ },
  ])
  const again = await QmpClient.connect(guest.qmp, soon(5000))
  await again.execute('stop', {}, soon(5000))
  again.close()
  t.match((await next.client.preflight('lab0', LONG)).problems, [
    { code: 'MACHINE_NOT_RUNNING', message: /paused through its monitor/ },
  ])
  t.equal(await next.stop(), 0)
})
