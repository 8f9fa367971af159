// kill -9 of the daemon in the middle of a snapshot or a restore, at a chosen instant, with a real machine: the next
// daemon puts right what the killed one has left.

import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { LocalEvent, LocalPart } from '../../src/api/schemas.js'
import { findProcesses, incarnationOf, killProcess } from '../../src/hypervisor/shared/process.js'
import { QmpClient } from '../../src/hypervisor/shared/qmp.js'
import { bootGuest, type Guest, isAtOwnPace, readCounts, readReport, soon, until } from '../hypervisor/boot-guest.js'
import { chainOf, isGapless, list } from '../hypervisor/machines.js'
import { fileLimit, patience } from '../patience.js'
import { root, type Switch, World } from './world.js'

t.setTimeout(fileLimit(240_000))
const LONG = { deadlineMs: patience(30_000) }
const hook = ['--import', new URL('./kill-hook.js', import.meta.url).href]
type Tap = Pick<typeof t, 'equal' | 'ok' | 'same' | 'match' | 'teardown' | 'comment'>

/** One host, one machine on a TAP of its network. */
class Lab {
  readonly world: World
  readonly guest: Guest

  /** Its machine cannot be saved in the background: most of its memory is sent ahead of its cut. */
  isAhead = false

  private constructor(world: World, guest: Guest) {
    this.world = world
    this.guest = guest
  }

  static async for(t: Tap): Promise<Lab> {
    const world = World.for(t)
    await world.namespace('host')
    await world.ip('host', 'tuntap', 'add', 'dev', 'tap0', 'mode', 'tap', 'vnet_hdr')
    const guest = await bootGuest()
    t.teardown(async () => {
      await guest.end()
      for (const machine of restored(world)) await killProcess(machine, soon(5000))
    })
    return new Lab(world, guest)
  }

  /** `kill`: where the daemon dies. `refusals`: how often QEMU refuses to resume. */
  async start(kill?: string, refusals = 0): Promise<Switch> {
    const ports = { one: { device: 'tap0', vm: 'vm0' } }
    const config = { networks: { lab0: { ports } }, machines: { vm0: { qmp: this.guest.qmp } } }
    if (kill === undefined && refusals === 0 && !this.isAhead) return this.world.switch('host', config)
    if (kill !== undefined) process.env.SNAPSWITCH_TEST_KILL = kill
    if (this.isAhead) process.env.SNAPSWITCH_TEST_NO_BACKGROUND = '1'
    process.env.SNAPSWITCH_TEST_REFUSE = String(refusals)
    try {
      return await this.world.switch('host', config, hook)
    } finally {
      delete process.env.SNAPSWITCH_TEST_KILL
      delete process.env.SNAPSWITCH_TEST_NO_BACKGROUND
      delete process.env.SNAPSWITCH_TEST_REFUSE
    }
  }

  state(...names: string[]): string {
    return join(this.world.state('host'), ...names)
  }

  devices(): Promise<string> {
    return this.world.ip('host', '-br', 'link')
  }
}

/** Machines that a restore has started here. */
const restored = (world: World) =>
  findProcesses((argv) => argv[argv.indexOf('-qmp') + 1]?.startsWith(`unix:${world.directory}/`) ?? false)

async function lastOf({ client }: Switch, name: string, epoch: number): Promise<LocalEvent | undefined> {
  await client.prepare('lab0', name, { epoch, policy: 'buffer', deadlineMs: patience(30_000) }, LONG)
  let last: LocalEvent | undefined
  for await (const event of client.take('lab0', name, LONG)) last = event
  return last
}

async function snapshot(daemon: Switch, name: string, epoch: number): Promise<LocalPart> {
  const last = await lastOf(daemon, name, epoch)
  if (last?.type !== 'done') throw new Error(`the snapshot ended with ${JSON.stringify(last)}`)
  return last.part
}

/** The call breaks off, for the daemon dies. */
async function dies(t: Tap, daemon: Switch, call: Promise<unknown>): Promise<void> {
  t.match(await call.then(() => 'it answered', String), /Error/)
  await until('the daemon to die', () => !daemon.running)
}

/** The daemon may have the socket for as long as it puts things right: QEMU serves one client at a time. */
async function stateOf(guest: Guest): Promise<string> {
  const qmp = await QmpClient.connect(guest.qmp, soon(30_000))
  try {
    return String(((await qmp.execute('query-status', {}, soon(5000))) as { status: string }).status)
  } finally {
    qmp.close()
  }
}

async function command(guest: Guest, name: string, args: Parameters<QmpClient['execute']>[1] = {}): Promise<void> {
  const qmp = await QmpClient.connect(guest.qmp, soon(30_000))
  await qmp.execute(name, args, soon(5000))
  qmp.close()
}

async function runsOn(t: Tap, guest: Guest): Promise<void> {
  await until('its threads to go at their own pace', () => isAtOwnPace(guest.pid), 30_000)
  const { count } = readReport(guest.serial)
  await until('the guest to run on', () => readReport(guest.serial).count > count + 3, 30_000)
  t.equal(readReport(guest.serial).complaints, '', 'memory and disk of one piece')
  t.ok(isGapless(readCounts(guest.serial)), 'nothing missed, nothing twice')
}

for (const [mode, kill] of [
  // `stop` and `transaction` go out in one write: before it nothing has happened.
  ['precopy', 'before:transaction'],
  ['precopy', 'after:transaction'],
  ['precopy', 'before:migrate'],
  ['precopy', 'after:migrate'],
  ['background', 'before:transaction'],
  ['background', 'after:transaction'],
] as const) {
  t.test(`snapshot, ${mode}: killed ${kill.replace(':', ' ')}`, root, async (t) => {
    const lab = await Lab.for(t)
    const { guest } = lab
    lab.isAhead = mode === 'precopy'
    const killed = await lab.start(kill)
    await dies(t, killed, snapshot(killed, 'lost', 1))
    await runsOn(t, guest)
    const daemon = await lab.start()
    await runsOn(t, guest)
    t.same(list(guest.directory), ['disk.qcow2', 'qmp.sock', 'serial'], 'no overlay is left')
    t.same(chainOf(guest.disk), [guest.disk])
    t.notOk(existsSync(lab.state('snapshots', 'lab0', 'lost')), 'no image is left')
    t.equal((await daemon.port('one')).gate, 'open')
    const part = await snapshot(daemon, 'lost', 2)
    t.equal(part.members[0]?.captureMode, mode)
    t.match(part.members[0]?.disks[0]?.layers, [{ file: { path: guest.disk } }], 'it stands on its own disk')
    await runsOn(t, guest)
    t.equal(await daemon.stop(), 0)
  })
}

t.test('QEMU refuses to resume: asked again, by this daemon and then by the next', root, async (t) => {
  const lab = await Lab.for(t)
  const { guest } = lab
  lab.isAhead = true
  const record = lab.state('snapshots', 'lab0', 'lost')
  const patient = await lab.start(undefined, 6)
  t.match(await lastOf(patient, 'lost', 1), { type: 'failed', error: { code: 'CAPTURE_FAILED' } })
  await runsOn(t, guest)
  t.notOk(existsSync(record))
  await patient.crash()
  const refused = await lab.start(undefined, 1000)
  t.match(await lastOf(refused, 'lost', 2), {
    type: 'failed',
    error: { code: 'MACHINE_PAUSED', message: /^vm0 stands still: .* attempts: /, action: /by hand.*cont/ },
  })
  t.equal(await stateOf(guest), 'postmigrate')
  t.ok(existsSync(record), 'it stays on record')
  await refused.crash()
  const daemon = await lab.start()
  await runsOn(t, guest)
  await until('the record to go', () => !existsSync(record), 30_000)
  t.same(list(guest.directory), ['disk.qcow2', 'qmp.sock', 'serial'], 'no overlay is left')
  t.equal(await daemon.stop(), 0)
})

t.test('an earlier snapshot stays as it is', root, async (t) => {
  const lab = await Lab.for(t)
  const { guest } = lab
  const before = await lab.start()
  const first = await snapshot(before, 'first', 1)
  await before.crash()
  const killed = await lab.start('after:transaction')
  await dies(t, killed, snapshot(killed, 'lost', 2))
  const daemon = await lab.start()
  await runsOn(t, guest)
  const overlay = first.members[0]?.disks[0]?.overlay
  t.same(list(guest.directory), ['disk.qcow2', 'qmp.sock', 'serial', 'vm0-disk0.first-e1.qcow2'], 'no overlay is left')
  const request = { epoch: 3, members: first.members, channels: [first.channel], deadlineMs: patience(30_000) }
  t.same(
    (await daemon.client.restoreCheck('lab0', 'first', request, LONG)).missing,
    [],
    'none of its files has changed',
  )
  const part = await snapshot(daemon, 'lost', 3)
  t.match(part.members[0]?.disks[0]?.layers, [{ file: { path: overlay } }, { file: { path: guest.disk } }])
  t.equal(await daemon.stop(), 0)
})

t.test('the machine has died, too: what it wrote after the cut is in its disk', root, async (t) => {
  const lab = await Lab.for(t)
  const { guest } = lab
  const killed = await lab.start('after:migrate')
  lab.isAhead = true
  await dies(t, killed, snapshot(killed, 'lost', 1))
  process.kill(guest.pid, 'SIGKILL')
  const daemon = await lab.start()
  t.same(list(guest.directory), ['disk.qcow2', 'qmp.sock', 'serial'], 'no overlay is left')
  t.same(chainOf(guest.disk), [guest.disk])
  execFileSync('qemu-img', ['check', '-q', guest.disk])
  t.notOk(existsSync(lab.state('snapshots', 'lab0', 'lost')))
  t.equal(await daemon.stop(), 0)
})

t.test('a machine that somebody else has paused stays paused', root, async (t) => {
  const lab = await Lab.for(t)
  const { guest } = lab
  const directory = lab.state('snapshots', 'lab0', 'lost', 'vms', 'vm0')
  const layers = [{ file: guest.disk, format: 'qcow2' }]
  const [qemu] = findProcesses((argv) => argv.includes(`unix:${guest.qmp},server=on,wait=off`))
  const incarnation = incarnationOf(qemu!)
  const leave = (record: object, more: readonly string[] = []) => {
    mkdirSync(directory, { recursive: true })
    const content = { label: 'lost-e1', incarnation, disks: [{ name: 'disk0', layers }], ...record }
    writeFileSync(join(directory, 'cut.json'), JSON.stringify(content))
    for (const name of more) writeFileSync(join(directory, name), '')
  }
  const cases: [string, () => void, string][] = [
    ['no snapshot has touched it', () => undefined, 'paused'],
    ['it ran on after its cut', () => leave({}, ['resumed']), 'paused'],
    ['the snapshot was of a former run of it', () => leave({ incarnation: '1:1' }), 'paused'],
    ['the snapshot has paused it', () => leave({}), 'running'],
  ]
  for (const [what, make, expected] of cases) {
    await command(guest, 'stop')
    make()
    const daemon = await lab.start()
    t.equal(await stateOf(guest), expected, what)
    t.notOk(existsSync(directory), `${what}: the record is gone`)
    t.equal(await daemon.stop(), 0)
  }
})

t.test('restore: killed when what runs stands still: it runs on', root, async (t) => {
  const lab = await Lab.for(t)
  const { world, guest } = lab
  const before = await lab.start()
  const part = await snapshot(before, 'kept', 1)
  t.equal(await before.stop(), 0)
  for (const [epoch, kill] of [
    [2, 'before:stop'],
    [3, 'after:stop'],
  ] as const) {
    const killed = await lab.start(kill)
    const request = { epoch, members: part.members, channels: [part.channel], deadlineMs: patience(30_000) }
    t.match(await killed.client.restoreLoad('lab0', 'kept', request, LONG), { loaded: ['vm0'] })
    t.equal(restored(world).length, 1, 'it is loaded beside the one that runs')
    await runsOn(t, guest)
    const pause = { epoch, machines: ['vm0'], replace: true, pauseMs: patience(30_000), deadlineMs: patience(30_000) }
    await dies(t, killed, killed.client.restorePause('lab0', 'kept', pause, LONG))
    const daemon = await lab.start()
    await runsOn(t, guest)
    await until('the loaded machine to be ended', () => restored(world).length === 0)
    t.notMatch(await lab.devices(), /sswt/, 'no TAP stands in for another')
    t.same(readdirSync(lab.state('restores')), [])
    t.match(await daemon.port('one'), { device: 'tap0', gate: 'open' })
    t.equal(await daemon.stop(), 0)
  }
})

t.test('restore: killed while it loads, when it resumes, and after', root, async (t) => {
  const lab = await Lab.for(t)
  const { world, guest } = lab
  let daemon = await lab.start()
  const part = await snapshot(daemon, 'kept', 1)
  const pause = (epoch: number) =>
    daemon.client.restorePause(
      'lab0',
      'kept',
      { epoch, machines: ['vm0'], replace: true, pauseMs: patience(30_000), deadlineMs: patience(30_000) },
      LONG,
    )
  const switchOver = () => daemon.client.restoreSwitch('lab0', 'kept', { deadlineMs: patience(30_000) }, LONG)
  // It is restored elsewhere.
  t.same(await pause(2), { paused: ['vm0'] })
  t.same(await switchOver(), { ended: ['vm0'], warnings: [] })
  await world.ip('host', 'link', 'delete', 'tap0')
  // What it says from now on, it says after the cut.
  truncateSync(guest.serial)
  await daemon.crash()
  const request = (epoch: number) => ({
    epoch,
    members: part.members,
    channels: [part.channel],
    deadlineMs: patience(30_000),
  })
  const isUndone = async () => {
    await until('the machine to be ended', () => restored(world).length === 0)
    t.notMatch(await lab.devices(), /tap0/, 'its TAP is gone')
    t.same(readdirSync(lab.state('machines', 'vm0')), [], 'and so are its overlays')
    t.same(readdirSync(lab.state('restores')), [], 'and the record')
    t.same(await daemon.client.ports(LONG), [])
  }
  const load = (epoch: number) => daemon.client.restoreLoad('lab0', 'kept', request(epoch), LONG)
  const resume = () => daemon.client.restoreResume('lab0', 'kept', LONG)

  for (const [epoch, kill] of [
    [3, 'before:qmp_capabilities'],
    [4, 'after:migrate-incoming'],
  ] as const) {
    daemon = await lab.start(kill)
    await dies(t, daemon, load(epoch))
    await until('QEMU', () => restored(world).length === 1)
    t.match(await lab.devices(), /tap0/)
    daemon = await lab.start()
    await isUndone()
    await daemon.crash()
  }

  daemon = await lab.start('before:cont')
  t.match(await load(5), { loaded: ['vm0'] })
  await pause(5)
  await switchOver()
  await dies(t, daemon, resume())
  t.equal(restored(world).length, 1)
  daemon = await lab.start()
  await isUndone()
  await daemon.crash()

  daemon = await lab.start('after:cont')
  await load(6)
  await pause(6)
  await switchOver()
  await dies(t, daemon, resume())
  daemon = await lab.start()
  t.equal(restored(world).length, 1, 'a machine that runs already is left alone')
  await runsOn(t, guest)
  t.match(await daemon.port('one'), { device: 'tap0', vm: 'vm0', epoch: 6 })
  t.match((await daemon.client.status(LONG)).machines, [
    { name: 'vm0', qmp: lab.state('machines', 'vm0', 'e6', 'qmp.sock') },
  ])
  t.same(readdirSync(lab.state('restores')), [])
  t.same(JSON.parse(readFileSync(lab.state('fences.json'), 'utf8')), { lab0: 6 }, 'what is older stays fenced off')
  await snapshot(daemon, 'again', 7)
  await runsOn(t, guest)
  t.equal(await daemon.stop(), 0)
})
