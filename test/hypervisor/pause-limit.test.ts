// A guest's pause has a bound of its own, and other tools' migration settings neither spoil a snapshot nor are lost: in
// every state that QEMU's migration can be left in.

import { execFileSync } from 'node:child_process'
import { rmSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import type { SnapswitchError } from '../../src/errors/errors.js'
import type { MachineControl } from '../../src/hypervisor/hypervisor.js'
import { createQemuHypervisor } from '../../src/hypervisor/qemu/driver.js'
import {
  isOverdue,
  migrationHoldup,
  pauseLimit,
  pauseLimitMs,
  stallLimitMs,
} from '../../src/hypervisor/shared/pause-limit.js'
import { changesFor, stillToUndo, undoing } from '../../src/hypervisor/shared/qemu-migration-settings.js'
import { QmpClient } from '../../src/hypervisor/shared/qmp.js'
import { fileLimit } from '../patience.js'
import { bootGuest, type Guest, readCounts, readReport, soon, until } from './boot-guest.js'
import { bringBack, isGapless, list, mergeDisk, scratch, take } from './machines.js'

t.setTimeout(fileLimit(120_000))
const hypervisor = createQemuHypervisor()
const late = createQemuHypervisor({ startAhead: false })
const stopping = createQemuHypervisor({ atBest: 'stopped' })

t.test('the bound: fixed in the background, by progress where memory is saved meanwhile', async (t) => {
  const gib = 2 ** 30
  const background = { mode: 'background', memoryBytes: gib } as const
  const stopped = { mode: 'stopped', memoryBytes: 64 * gib } as const
  t.ok(pauseLimit(background) < pauseLimitMs + 100)
  t.ok(pauseLimit({ ...background, memoryBytes: 512 * gib }) > pauseLimitMs + 8000, 'write protection takes its time')
  t.ok(
    pauseLimit({ ...background, memoryBytes: 16 * gib, touchesMemory: true }) > pauseLimitMs + 1900,
    'so does touching',
  )
  t.equal(isOverdue(background, pauseLimitMs - 1, 0), false)
  t.equal(isOverdue(background, pauseLimitMs + 100, 0), true)
  t.equal(isOverdue(stopped, 600_000, stallLimitMs - 1), false, 'as long as it gets on')
  t.equal(isOverdue(stopped, 3000, stallLimitMs + 1), true)
  for (const status of [
    'setup',
    'pre-switchover',
    'wait-unplug',
    'device',
    'colo',
    'postcopy-paused',
    'brand-new',
    null,
  ])
    t.match(migrationHoldup(status, 'paused').what, /\w+/, String(status))
  t.match(migrationHoldup('brand-new', null).what, /brand-new/)
})

t.test(
  'settings: all capabilities but ours off; what was found comes back, unless somebody has changed it since',
  async (t) => {
    const found = {
      capabilities: new Map(
        Object.entries({ events: false, compress: true, 'x-colo': false, 'background-snapshot': false }),
      ),
      parameters: { 'max-bandwidth': 1, 'tls-creds': 'tls0', 'downtime-limit': 300 },
    }
    const changes = changesFor(found, ['events', 'background-snapshot'], {
      'max-bandwidth': 2 ** 43,
      'tls-creds': '',
      'downtime-limit': 300,
      mode: 'normal',
    })
    t.same(changes.capabilities, { events: true, compress: false, 'background-snapshot': true })
    t.same(changes.parameters, { 'max-bandwidth': 2 ** 43, 'tls-creds': '' }, 'none that QEMU does not know')
    const undo = undoing(changes, found.parameters)
    t.same(undo.capabilities, { events: false, compress: true, 'background-snapshot': false })
    t.same(undo.parameters, { 'max-bandwidth': 1, 'tls-creds': 'tls0' })
    const now = {
      capabilities: new Map(Object.entries({ events: true, compress: true, 'background-snapshot': true })),
      parameters: { 'max-bandwidth': 7, 'tls-creds': '' },
    }
    const left = stillToUndo(undo, now)
    t.same(left.capabilities, { events: false, 'background-snapshot': false })
    t.same(left.parameters, { 'tls-creds': 'tls0' })
  },
)

const withSecondMonitor = async (): Promise<{ guest: Guest; second: () => Promise<QmpClient> }> => {
  const directory = scratch('guest')
  const socket = path.join(directory, 'second.sock')
  const guest = await bootGuest({ directory, extra: ['-qmp', `unix:${socket},server=on,wait=off`] })
  return { guest, second: () => QmpClient.connect(socket, soon(2000)) }
}

const states = async (qmp: QmpClient) =>
  new Map(
    ((await qmp.execute('query-migrate-capabilities', {}, soon(2000))) as { capability: string; state: boolean }[]).map(
      ({ capability, state }) => [capability, state],
    ),
  )

const setCapability = (qmp: QmpClient, capability: string, state: boolean) =>
  qmp.execute('migrate-set-capabilities', { capabilities: [{ capability, state }] }, soon(2000))

const foreign = [
  'pause-before-switchover',
  'compress',
  'xbzrle',
  'multifd',
  'auto-converge',
  'zero-blocks',
  'validate-uuid',
  'x-ignore-shared',
  'return-path',
  'release-ram',
  'late-block-activate',
  'postcopy-ram',
]

t.test('capabilities and parameters that another tool has left on', async (t) => {
  const { guest, second } = await withSecondMonitor()
  t.teardown(() => guest.end())
  const qmp = await second()
  t.teardown(() => qmp.close())
  const parameters = { 'max-bandwidth': 1 << 20, 'downtime-limit': 100_000, 'tls-creds': 'nobody' }
  await qmp.execute('migrate-set-parameters', parameters, soon(2000))
  const known = await states(qmp)
  for (const name of foreign.filter((one) => known.has(one))) {
    await setCapability(qmp, name, true)
    // In the background where it can be had: none of these may stand in its way.
    const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))
    const info = await machine.inspect(soon(2000))
    t.equal(info.captureModeReason, null, `${name}: no obstacle`)
    const taken = await take(machine, guest.serial, name)
    t.equal((await states(qmp)).get(name), true, `${name}: as it was found`)
    await mergeDisk(machine, taken.seal.disks[0]!)
    rmSync(taken.directory, { recursive: true })
    await machine.close()
    await setCapability(qmp, name, false)
  }
  // The last ones, stopped, and loaded.
  const last = ['compress', 'x-ignore-shared'].filter((name) => known.has(name))
  for (const name of last) await setCapability(qmp, name, true)
  const machine = await stopping.attach('vm0', { qmp: guest.qmp }, soon(2000))
  const taken = await take(machine, guest.serial, 'stopped')
  const answer = await qmp.execute('query-migrate-parameters', {}, soon(2000))
  t.match(answer, parameters, 'parameters as they were found')
  t.same(
    [...(await states(qmp))]
      .filter(([, on]) => on)
      .map(([name]) => name)
      .sort(),
    last,
  )
  t.equal(readReport(guest.serial).complaints, '')
  await machine.destroy(soon(5000))
  const back = await bringBack(hypervisor, taken, scratch('run'))
  await back.control.resume(soon(2000))
  const { count } = readReport(guest.serial)
  await until('the restored guest', () => readReport(guest.serial).count > count + 2)
  t.equal(readReport(guest.serial).complaints, '', 'memory and disk of one piece')
  await back.control.destroy(soon(5000))
})

t.test('what a killed daemon had set is put back', async (t) => {
  const { guest, second } = await withSecondMonitor()
  t.teardown(() => guest.end())
  const qmp = await second()
  t.teardown(() => qmp.close())
  await setCapability(qmp, 'xbzrle', true)
  const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))
  const record = JSON.parse(JSON.stringify(await machine.settings(soon(2000))))
  const killed = await stopping
    .attach('vm1', { qmp: path.join(guest.directory, 'qmp.sock') }, soon(500))
    .catch(() => null)
  t.equal(killed, null, 'one client per socket')
  await setCapability(qmp, 'xbzrle', false)
  await setCapability(qmp, 'background-snapshot', true)
  await machine.putBack(record, soon(2000))
  const now = await states(qmp)
  t.equal(now.get('xbzrle'), true)
  t.equal(now.get('background-snapshot'), false)
  await machine.close()
})

async function runsAgain(t: Tap, guest: Guest, machine: MachineControl): Promise<void> {
  const { count } = readReport(guest.serial)
  await until('the guest to run on', () => readReport(guest.serial).count > count + 3)
  t.equal(readReport(guest.serial).complaints, '', 'memory and disk of one piece')
  t.ok(isGapless(readCounts(guest.serial)), 'nothing missed, nothing twice')
  t.same((await machine.inspect(soon(2000))).disks[0]!.layers.length, 1, 'no overlay in use')
}

type Tap = Pick<typeof t, 'equal' | 'ok' | 'same'>

t.test('a save that waits for somebody’s migrate-continue: the guest runs long before the deadline', async (t) => {
  const { guest, second } = await withSecondMonitor()
  t.teardown(() => guest.end())
  const qmp = await second()
  t.teardown(() => qmp.close())
  const machine = await stopping.attach('vm0', { qmp: guest.qmp }, soon(2000))
  const store = scratch()
  await machine.prepare({ directory: store, label: 'stuck' }, soon(5000))
  await setCapability(qmp, 'pause-before-switchover', true)
  await machine.pause(soon(2000))
  const capture = machine.capture(soon(600_000))
  const error = (await capture.sealed.catch((e) => e)) as SnapswitchError
  t.equal(error.code, 'CAPTURE_FAILED')
  t.match(error.message, /stood still for .*migrate-continue/)
  t.match(error.action, /pause-before-switchover/)
  t.ok((await capture.resumed).resumedAtUs > 0)
  await runsAgain(t, guest, machine)
  t.same(list(store), [])
  await setCapability(qmp, 'pause-before-switchover', false)
  t.ok((await take(machine, guest.serial, 'after')).seal.memoryBytes > 0, 'and can be saved afterwards')
  await machine.close()
})

for (const [how, driver] of [
  ['background, started ahead', hypervisor],
  ['background, started at the cut', late],
  ['stopped', stopping],
] as const) {
  t.test(`${how}: a pause that nobody goes on with`, async (t) => {
    const guest = await bootGuest()
    t.teardown(() => guest.end())
    const machine = await driver.attach('vm0', { qmp: guest.qmp }, soon(2000))
    const store = scratch()
    await machine.prepare({ directory: store, label: 'left' }, soon(5000))
    await machine.pause(soon(2000))
    const { count } = readReport(guest.serial)
    await until('the guest to run on', () => readReport(guest.serial).count > count + 3)
    const capture = machine.capture(soon(600_000))
    const error = (await capture.sealed.catch((e) => e)) as SnapswitchError
    t.equal(error.code, 'CAPTURE_FAILED')
    t.match(error.message, /stood still/)
    t.same(list(store), [])
    await runsAgain(t, guest, machine)
    t.ok((await take(machine, guest.serial, 'after')).seal.memoryBytes > 0, 'and can be saved afterwards')
    await machine.close()
  })
}

for (const [mode, driver, words] of [
  ['stopped', stopping, /makes no progress|stuck/],
  // Where memory is dear, QEMU does not come to writing within the limit: it reads all of it first.
  ['background', late, /nothing of its memory could be written|does not get beyond the setup/],
] as const) {
  t.test(`${mode}: the image is not written any more`, async (t) => {
    // Enough pages, though empty, to fill the pipe.
    const guest = await bootGuest({ memoryMiB: 1024 })
    t.teardown(() => guest.end())
    const machine = await driver.attach('vm0', { qmp: guest.qmp }, soon(2000))
    const store = scratch()
    await machine.prepare({ directory: store, label: 'hung' }, soon(5000))
    // As when the disk below the store hangs.
    const writers = execFileSync('pgrep', ['-P', String(process.pid), '-f', 'image-writer-process'], {
      encoding: 'utf8',
    })
    const pids = writers.trim().split('\n').map(Number)
    for (const pid of pids) process.kill(pid, 'SIGSTOP')
    let stopped = true
    const goOn = () => {
      if (stopped) for (const pid of pids) process.kill(pid, 'SIGCONT')
      stopped = false
    }
    t.teardown(goOn)
    await machine.pause(soon(2000))
    const capture = machine.capture(soon(600_000))
    const error = (await capture.sealed.catch((e) => e)) as SnapswitchError
    t.equal(error.code, 'CAPTURE_FAILED')
    t.match(error.message, words)
    const { count } = readReport(guest.serial)
    await until('the guest to run on', () => readReport(guest.serial).count > count + 3)
    goOn()
    await runsAgain(t, guest, machine)
    await machine.close()
  })
}
