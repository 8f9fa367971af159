// A machine that stands still is told by `status` and `disk path`, with how to resume it. With a machine made up.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import t from 'tap'
import type { MachineInfo } from '../../src/hypervisor/hypervisor.js'
import { DiskRecords } from '../../switch/agent/disks/records.js'
import { DiskService } from '../../switch/agent/disks/service.js'
import type { DaemonHost } from '../../switch/agent/host.js'
import { Journal } from '../../switch/agent/journal.js'
import { LocalStore } from '../../switch/agent/local-store.js'
import { fileLimit } from '../patience.js'
import { bareInfo, controlOf, machinesBy } from './made-up-machine.js'
import { root } from './world.js'

t.setTimeout(fileLimit(30_000))

t.test('a machine whose disk is full', root, async (t) => {
  const state = mkdtempSync(join(tmpdir(), 'snapswitch-stopped-'))
  t.teardown(() => rmSync(state, { recursive: true, force: true }))
  const store = new LocalStore(state)
  await store.open()
  const disks = await DiskRecords.open(state, async () => ({ made: [], actives: [] }))
  const layers = [{ file: join(state, 'disk.qcow2'), format: 'qcow2' as const }]
  await disks.learn('vm', { vda: layers })
  let info: MachineInfo = { ...bareInfo, disks: [{ name: 'vda', bytes: 0, layers }] }
  const machines = machinesBy(
    { vm: { qmp: '/run/vm.qmp' } },
    { attach: async () => controlOf({ inspect: async () => info }) },
  )
  const log = pino({ level: 'silent' })
  const host = { name: 'a', store, disks, machines, journal: new Journal(state), log } as DaemonHost
  // Each has its own memory of what it has asked.
  const service = () => {
    const made = new DiskService(host, () => new Set())
    t.teardown(() => made.close())
    return made
  }
  t.same((await service().diskStatus('vm')).problems, undefined)
  info = { ...info, state: 'other', stateDetail: 'stopped by QEMU: no space left' }
  const told = {
    code: 'MACHINE_NOT_RUNNING',
    message: 'machine vm does not run: stopped by QEMU: no space left',
    action: /^Resume it \(`cont` in QEMU’s monitor, or over \/run\/vm\.qmp\)/,
  }
  t.match((await service().diskStatus('vm')).problems, [told])
  t.match((await service().disksOf('vm')).problems, [told])
})
