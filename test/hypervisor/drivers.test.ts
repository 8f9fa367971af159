// The list of drivers: whole, and what it makes of configurations, records of earlier versions and machines of later
// ones.

import { readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { validator } from '../../src/api/validate.js'
import {
  createHypervisors,
  directoryOf,
  heldAlone,
  isSameMachine,
  kinds,
  loadOf,
  reachedBy,
  SpecRecord,
  tapNeeds,
  whatToLookAt,
  whyNotMergedOff,
  whyNotTwice,
} from '../../src/hypervisor/drivers.js'
import type { MachineDefinition } from '../../src/hypervisor/hypervisor.js'
import { RestoreRecord } from '../../switch/agent/journal.js'

const folder = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..', 'src', 'hypervisor')
const definitionOf = (more: { kind: string }): MachineDefinition => ({
  ...{ name: 'vm', memoryBytes: 1, nics: [], hypervisorVersion: '1' },
  ...more,
})
const plain = definitionOf({ kind: 'qemu', ...{ argv: ['qemu', '-netdev', 'tap,id=n,queues=2', '-s'] } })
const commanded = definitionOf({ kind: 'exec', ...{ command: '/c', machine: 'm' } })
const domain = definitionOf({ kind: 'libvirt', ...{ domain: 'dom', xml: '<domain/>' } })

t.test('each driver has a folder, each folder a driver', async (t) => {
  const folders = readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isDirectory())
  t.same(folders.map(({ name }) => name).sort(), [...kinds, 'shared'].sort())
  const hypervisors = createHypervisors({ libvirt: { uri: 'test:///default' } })
  t.same(Object.keys(hypervisors), kinds)
})

t.test('records of earlier versions are read', async (t) => {
  const isSpec = validator(SpecRecord)
  for (const spec of [{ qmp: '/run/a.qmp' }, { libvirt: { domain: 'a' } }, { libvirt: { domain: 'a', uri: 'x:///' } }])
    t.ok(isSpec(spec), JSON.stringify(spec))
  for (const spec of [{}, { qmp: 1 }, { libvirt: {} }, { other: '/x' }]) t.notOk(isSpec(spec), JSON.stringify(spec))
  const isRestore = validator(RestoreRecord)
  const machine = { vm: 'a', kind: 'qemu', domain: null, directory: '/state/machines/a/e1' }
  const record = { network: 'n', snapshot: 's', resuming: false, machines: [machine], ports: [], taps: [] }
  t.ok(isRestore(record))
  t.ok(isRestore({ ...record, machines: [machine, { ...machine, kind: 'libvirt', domain: 'dom' }] }))
  t.notOk(isRestore({ ...record, machines: [{ ...machine, kind: 'libvirt' }] }), 'a domain without its name')
  t.notOk(isRestore({ ...record, machines: [{ ...machine, kind: 'other' }] }))
  t.ok(isRestore({ ...record, machines: [{ vm: 'a', ...loadOf(commanded, '/d') }] }))
})

t.test('what is written is as it was', async (t) => {
  t.same(loadOf(plain, '/d'), { kind: 'qemu', domain: null, directory: '/d' })
  t.same(loadOf(domain, '/d'), { kind: 'libvirt', domain: 'dom', directory: '/d' })
  t.same(loadOf(commanded, '/d'), { kind: 'exec', command: '/c', machine: 'm', directory: '/d' })
})

t.test('machines are told apart, and put into words', async (t) => {
  t.ok(isSameMachine({ qmp: '/a' }, { qmp: '/a' }))
  t.notOk(isSameMachine({ qmp: '/a' }, { qmp: '/b' }))
  t.notOk(isSameMachine({ qmp: '/a' }, { libvirt: { domain: '/a' } }))
  t.ok(isSameMachine({ libvirt: { domain: 'a' } }, { libvirt: { domain: 'a' } }))
  t.notOk(isSameMachine({ libvirt: { domain: 'a' } }, { libvirt: { domain: 'a', uri: 'x:///' } }))
  t.equal(reachedBy({ name: 'vm', qmp: '/a' }), '/a')
  t.equal(reachedBy({ name: 'vm', qmp: null, libvirt: { domain: 'a' } }), 'libvirt a')
  t.equal(reachedBy({ name: 'vm', qmp: null, exec: { command: '/c', machine: 'm' } }), 'exec /c m')
  t.ok(isSameMachine({ exec: { command: '/c' } }, { exec: { command: '/c' } }))
  for (const other of [{ command: '/d' }, { command: '/c', machine: 'm' }, { command: '/c', directory: '/e1' }])
    t.notOk(isSameMachine({ exec: { command: '/c' } }, { exec: other }), JSON.stringify(other))
  t.match(whatToLookAt({ exec: { command: '/c' } }), /\/c inspect/)
  t.equal(directoryOf({ exec: { command: '/c', directory: '/e1' } }), '/e1')
  t.match(whyNotMergedOff('vm', { exec: { command: '/c' } }), /disks of vm/)
  t.match(whatToLookAt({ qmp: '/a' }), /connected to \/a/)
  t.match(whatToLookAt({ libvirt: { domain: 'a' } }), /virsh domstate a/)
  t.equal(directoryOf({ qmp: '/state/machines/vm/e1/qmp.sock' }), '/state/machines/vm/e1')
  t.equal(directoryOf({ libvirt: { domain: 'a' } }), null)
  t.equal(whyNotMergedOff('vm', { qmp: '/a' }), null)
  t.match(whyNotMergedOff('vm', { libvirt: { domain: 'a' } }), /domain of vm/)
})

t.test('what can be there twice, and on which TAPs', async (t) => {
  t.equal(whyNotTwice(plain), null)
  t.same(tapNeeds(plain), [{ queues: 2, vnetHeader: true }])
  t.same(heldAlone(plain), ['-s'])
  t.match(whyNotTwice(domain), /libvirt/)
  t.same([tapNeeds(domain), heldAlone(domain)], [[], []])
  t.match(whyNotTwice(commanded), /command/)
})

t.test('a machine of a kind that comes later is refused by name', async (t) => {
  const other = definitionOf({ kind: 'later' })
  t.throws(() => whyNotTwice(other), { code: 'MACHINE_UNSUPPORTED', message: /vm is a later machine/ })
  t.throws(() => loadOf(other, '/d'), { code: 'MACHINE_UNSUPPORTED' })
  t.throws(() => loadOf(definitionOf({ kind: 'constructor' }), '/d'), { code: 'MACHINE_UNSUPPORTED' })
})
