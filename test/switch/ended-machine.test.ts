// A machine that ends in the middle of its cut: it is not said to stand still, and what it has written to an overlay
// stays on record until it is back in its disk. With a machine made up, and real records and files.

import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { SnapswitchError } from '../../src/errors/errors.js'
import { systemClock } from '../../src/runtime/clock.js'
import { DiskRecords } from '../../switch/agent/disks/records.js'
import { whereDisksAre } from '../../switch/agent/disks/where.js'
import type { DaemonHost } from '../../switch/agent/host.js'
import { Journal } from '../../switch/agent/journal.js'
import { LocalStore } from '../../switch/agent/local-store.js'
import { resumeMachine } from '../../switch/agent/resume.js'
import { type CutMember, recover } from '../../switch/agent/snapshot/member-recovery.js'
import { fileLimit } from '../patience.js'
import { controlOf, machinesBy } from './made-up-machine.js'
import { root } from './world.js'

t.setTimeout(fileLimit(60_000))

const closed = new SnapswitchError('HYPERVISOR_UNREACHABLE', 'the socket was closed by its other end', 'See its log.')

async function host(t: Test, isThere: boolean) {
  const state = mkdtempSync(join(tmpdir(), 'snapswitch-ended-'))
  t.teardown(() => rmSync(state, { recursive: true, force: true }))
  const store = new LocalStore(state)
  await store.open()
  const disks = await DiskRecords.open(state, async () => ({ made: [], actives: [] }))
  let asked = 0
  const control = controlOf({
    inspect: async () => {
      throw closed
    },
    abandon: async () => {
      throw closed
    },
    resume: async () => {
      asked++
      throw closed
    },
  })
  const attach = async () => {
    throw closed
  }
  const machines = machinesBy({ vm: { qmp: '/none' } }, { attach, isThere: async () => isThere })
  const log = pino({ level: 'silent' })
  const made = { clock: systemClock, log, store, disks, machines, journal: new Journal(state) }
  return { host: made, control, state, asked: () => asked }
}

t.test('it is asked to run once', root, async (t) => {
  const { host: made, control, asked } = await host(t, false)
  const resumed = resumeMachine(made, 'vm', control, systemClock.now().ms + 60_000)
  await t.rejects(resumed, { code: 'MACHINE_NOT_RUNNING', message: /^vm has ended: the socket was closed/ })
  t.equal(asked(), 1)
})

t.test('one that does not answer is asked again, and said to stand still', root, async (t) => {
  const { host: made, control } = await host(t, true)
  const resumed = resumeMachine(made, 'vm', control, systemClock.now().ms + 200)
  await t.rejects(resumed, { code: 'MACHINE_PAUSED', message: /^vm stands still: .* [2-9] attempts: / })
})

for (const [left, isCaptured, what] of [
  [true, true, 'an overlay that could not be taken back yet stays on record'],
  [true, false, 'the same when it ended before its memory was saved'],
  [false, true, 'without one nothing does'],
] as const) {
  t.test(what, root, async (t) => {
    const { host: made, control, state } = await host(t, false)
    const disk = join(state, 'vm.qcow2')
    const overlay = join(state, 'vm-vda.s1-e1.qcow2')
    for (const file of left ? [disk, overlay] : [disk]) writeFileSync(file, '')
    await made.disks.noteMade('vm', overlay)
    const record = {
      label: 's1-e1',
      incarnation: '1:1',
      disks: [{ name: 'vda', layers: [{ file: disk, format: 'qcow2' as const }] }],
    }
    await made.journal.writeCut('lab0', 's1', 'vm', record)
    const sealed = Promise.reject(closed)
    sealed.catch(() => {})
    const member: CutMember = {
      ...{ vm: 'vm', control, record, paused: true, seal: null, stuck: null, left: false },
      capture: isCaptured ? { sealed, resumed: sealed, callOff: () => {} } : null,
    }
    await recover(made, { network: 'lab0', snapshot: 's1' }, member, async () => {})
    t.match(member, { stuck: null, left })
    t.equal(await new Journal(state).hasStuck('lab0', 's1'), left)
    t.equal(existsSync(overlay), left)
    const where = whereDisksAre({ name: 'a', ...made } as DaemonHost, 'vm', true, systemClock.now().ms + 1000)
    // Who starts it now would do so without what it has written.
    if (left) await t.rejects(where, { code: 'SNAPSHOT_BUSY', message: /^vm ended in snapshot s1, and what / })
    else t.match(await where, { running: false })
    t.match(await new Journal(state).unfinished(), [{ machines: [{ vm: 'vm' }] }])
  })
}
