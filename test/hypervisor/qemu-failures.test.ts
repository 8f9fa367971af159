// The driver when things go wrong: whatever happens, the machine runs on, its disk chain is whole, nothing is left
// half-made.

import { execFileSync, fork } from 'node:child_process'
import { mkdirSync, rmSync, statfsSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { SnapswitchError } from '../../src/errors/errors.js'
import type { MachineControl } from '../../src/hypervisor/hypervisor.js'
import { createQemuHypervisor } from '../../src/hypervisor/qemu/driver.js'
import { QmpClient } from '../../src/hypervisor/shared/qmp.js'
import { fileId, openFiles } from '../../src/linux/open-files.js'
import { until as waitUntil } from '../lab/command.js'
import { fileLimit } from '../patience.js'
import { bootGuest, type Guest, readCounts, readReport, sleep, soon, tooSoon, until } from './boot-guest.js'
import { chainOf, codeOf, isGapless, list, mergeDisk, scratch, take } from './machines.js'

t.setTimeout(fileLimit(120_000))
const hypervisor = createQemuHypervisor()
const late = createQemuHypervisor({ startAhead: false })
const early = createQemuHypervisor({ atBest: 'precopy' })
const stopping = createQemuHypervisor({ atBest: 'stopped' })

/** Run as a child: begins to snapshot the machine of the QMP socket in argv, then dies on the spot. */
if (process.argv[2]?.startsWith('die-')) {
  const machine = await hypervisor.attach('vm0', { qmp: process.argv[3]! }, soon(2000))
  await machine.prepare({ directory: process.argv[4]!, label: 'lost' }, soon(5000))
  await machine.pause(soon(2000))
  if (process.argv[2] === 'die-sealing') await machine.capture(soon(20_000)).resumed
  process.kill(process.pid, 'SIGKILL')
}

async function runsOn(t: Tap, guest: Guest): Promise<void> {
  const { count } = readReport(guest.serial)
  await until('the guest to run on', () => readReport(guest.serial).count > count + 3)
  t.equal(readReport(guest.serial).complaints, '', 'memory and disk of one piece')
  t.ok(isGapless(readCounts(guest.serial)), 'nothing missed, nothing twice')
}

type Tap = Pick<typeof t, 'equal' | 'ok' | 'same' | 'match'>

/** A guest, and an empty directory for its snapshots. */
async function guestAndStore(t: Pick<Test, 'teardown'>): Promise<{ readonly guest: Guest; readonly store: string }> {
  const guest = await bootGuest()
  const store = scratch()
  t.teardown(async () => {
    await guest.end()
    rmSync(store, { recursive: true })
  })
  return { guest, store }
}

/** The machine and its files are as before any snapshot, and the next snapshot works. */
async function isAsBefore(t: Tap, guest: Guest, machine: MachineControl, store: string): Promise<void> {
  await runsOn(t, guest)
  t.same(list(store), [], 'no image left')
  t.same(list(guest.directory), ['disk.qcow2', 'qmp.sock', 'serial'], 'no overlay left')
  t.same((await machine.inspect(soon(2000))).disks[0]!.layers, [{ file: guest.disk, format: 'qcow2' }])
  const taken = await take(machine, guest.serial, 'after')
  t.equal(await mergeDisk(machine, taken.seal.disks[0]!), true)
  rmSync(taken.directory, { recursive: true })
}

for (const [mode, how, driver] of [
  ['background', 'started ahead', hypervisor],
  ['precopy', 'started ahead', early],
  ['stopped', 'started at the cut', stopping],
] as const) {
  t.test(`${mode}, ${how}: the store is full`, async (t) => {
    const guest = await bootGuest()
    const store = scratch()
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'none', store])
    t.teardown(async () => {
      await guest.end()
      execFileSync('umount', [store])
      rmSync(store, { recursive: true })
    })
    const machine = await driver.attach('vm0', { qmp: guest.qmp }, soon(2000))
    const prepared = machine.prepare({ directory: store, label: 'full' }, soon(5000))
    if (mode === 'precopy') t.equal(await codeOf(prepared), 'STORE_FULL', 'before its cut')
    else {
      await prepared
      await machine.pause(soon(2000))
      const capture = machine.capture(soon(20_000))
      const error = (await capture.sealed.catch((e) => e)) as { code: string; message: string }
      t.equal(error.code, 'STORE_FULL', error.message)
      t.ok((await capture.resumed).resumedAtUs > 0, 'resumed all the same')
    }
    await isAsBefore(t, guest, machine, store)
    await machine.close()
  })

  t.test(`${mode}, ${how}: QEMU is killed while the image is written`, async (t) => {
    // The image may be whole before the signal is there, and then the snapshot is good: another machine, another try.
    for (let tries = 1; ; tries++) {
      const guest = await bootGuest({ memoryMiB: 256 })
      const store = scratch()
      t.teardown(async () => {
        await guest.end()
        rmSync(store, { recursive: true })
      })
      const machine = await driver.attach('vm0', { qmp: guest.qmp }, soon(2000))
      await machine.prepare({ directory: store, label: 'killed' }, soon(5000))
      await machine.pause(soon(2000))
      const capture = machine.capture(soon(20_000))
      if (mode === 'background') await capture.resumed
      else await until('the overlay', () => list(guest.directory).includes('vm0-disk0.killed.qcow2'))
      process.kill(guest.pid, 'SIGKILL')
      const code = await codeOf(capture.sealed)
      if (code === 'none' && tries < 10) {
        await machine.close()
        continue
      }
      t.equal(code, 'HYPERVISOR_UNREACHABLE')
      t.same(list(store), [], 'no image left')
      t.same(list(guest.directory), ['disk.qcow2', 'qmp.sock', 'serial'], 'the overlay is back in its disk')
      t.same(chainOf(guest.disk), [guest.disk])
      execFileSync('qemu-img', ['check', '-q', guest.disk])
      t.equal(await codeOf(machine.inspect(soon(500))), 'HYPERVISOR_UNREACHABLE')
      await machine.destroy(soon(1000))
      return
    }
  })

  t.test(`${mode}, ${how}: deadlines of every length`, async (t) => {
    const guest = await bootGuest()
    const store = scratch()
    t.teardown(async () => {
      await guest.end()
      rmSync(store, { recursive: true })
    })
    const machine = await driver.attach('vm0', { qmp: guest.qmp }, soon(2000))
    const codes: string[] = []
    for (const ms of [0, 0.5, 1, 2, 3, 5, 8, 13, 21, 34]) {
      await machine.prepare({ directory: store, label: 'short' }, soon(5000))
      await machine.pause(soon(2000))
      const capture = machine.capture(tooSoon(ms))
      const code = await codeOf(capture.sealed)
      codes.push(code)
      t.equal(await codeOf(capture.resumed), 'none', `${ms} ms: resumed`)
      if (code === 'none') {
        await mergeDisk(machine, (await capture.sealed).disks[0]!)
        rmSync(path.join(store, 'memory.img'))
      } else t.equal(code, 'DEADLINE', `${ms} ms`)
      t.equal((await machine.inspect(soon(2000))).state, 'running')
    }
    t.comment(codes.join(' '))
    await isAsBefore(t, guest, machine, store)
    await machine.close()
  })
}

t.test('the image fills the disk that the guest writes to as well', async (t) => {
  const shared = scratch('shared')
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'none', shared])
  const guest = await bootGuest({ directory: shared })
  const { blocks, bfree, bsize } = statfsSync(shared)
  // Room for the overlay, and for half of the image.
  const room = (blocks - bfree) * bsize + 600 * 1024
  execFileSync('mount', ['-o', `remount,size=${room}`, shared])
  const store = path.join(shared, 'store')
  mkdirSync(store)
  t.teardown(async () => {
    await guest.end()
    execFileSync('umount', [shared])
  })
  const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))
  for (let round = 0; round < 3; round++) {
    await machine.prepare({ directory: store, label: 'full' }, soon(5000))
    await machine.pause(soon(2000))
    const capture = machine.capture(soon(20_000))
    t.equal(await codeOf(capture.sealed), 'STORE_FULL')
    t.equal((await machine.inspect(soon(2000))).state, 'running')
    await runsOn(t, guest)
    t.same(list(shared), ['disk.qcow2', 'qmp.sock', 'serial', 'store'])
    t.same(list(store), [])
  }
  await machine.close()
})

t.test('abandoned before and after the pause', async (t) => {
  const { guest, store } = await guestAndStore(t)
  for (const driver of [hypervisor, early, stopping]) {
    const machine = await driver.attach('vm0', { qmp: guest.qmp }, soon(2000))
    for (const pause of [false, true]) {
      await machine.prepare({ directory: store, label: 'dropped' }, soon(5000))
      t.equal(await codeOf(machine.prepare({ directory: store, label: 'x' }, soon(500))), 'SNAPSHOT_BUSY')
      if (pause) await machine.pause(soon(2000))
      await machine.abandon()
      await machine.abandon()
      t.equal((await machine.inspect(soon(2000))).state, 'running')
      t.throws(() => machine.capture(soon(1000)), { code: 'INTERNAL' }, 'nothing is prepared any more')
      await isAsBefore(t, guest, machine, store)
    }
    await machine.prepare({ directory: store, label: 'closed' }, soon(5000))
    await machine.close()
    await runsOn(t, guest)
    t.same([list(store), list(guest.directory)], [[], ['disk.qcow2', 'qmp.sock', 'serial']], 'close abandons')
  }
})

t.test('called off while it is saved standing still: it runs at once', async (t) => {
  const guest = await bootGuest({ memoryMiB: 256 })
  const store = scratch()
  t.teardown(async () => {
    await guest.end()
    rmSync(store, { recursive: true })
  })
  const machine = await stopping.attach('vm0', { qmp: guest.qmp }, soon(2000))
  const error = new SnapswitchError('SNAPSHOT_DISCARDED', 'not wanted any more', 'Try again.')
  const image = path.join(store, 'memory.img')
  const moments: Readonly<Record<string, () => Promise<unknown>>> = {
    'at once': async () => {},
    'in the middle': () => until('some of the image', () => statSync(image).size > 0),
  }
  for (const [when, moment] of Object.entries(moments)) {
    // The image may be whole before it is called off: then another try.
    for (let tries = 1; ; tries++) {
      await machine.prepare({ directory: store, label: 'dropped' }, soon(5000))
      await machine.pause(soon(2000))
      const capture = machine.capture(soon(60_000))
      await moment()
      capture.callOff(error)
      await capture.resumed
      const code = await codeOf(capture.sealed)
      if (code === 'none' && when !== 'at once' && tries < 10) {
        await mergeDisk(machine, (await capture.sealed).disks[0]!)
        rmSync(image)
        continue
      }
      t.equal(code, 'SNAPSHOT_DISCARDED', when)
      await isAsBefore(t, guest, machine, store)
      break
    }
  }
  const taken = await take(machine, guest.serial, 'kept')
  t.ok(taken.seal.memoryBytes > 0)
  await mergeDisk(machine, taken.seal.disks[0]!)
  // In the background it runs by itself, and is saved.
  await machine.close()
  const ahead = await late.attach('vm0', { qmp: guest.qmp }, soon(2000))
  await ahead.prepare({ directory: store, label: 'kept' }, soon(5000))
  await ahead.pause(soon(2000))
  const capture = ahead.capture(soon(60_000))
  capture.callOff(error)
  t.equal(await codeOf(capture.sealed), 'none')
  await ahead.close()
  await runsOn(t, guest)
})

t.test('called off, again and again: each save comes to its end', async (t) => {
  const guest = await bootGuest()
  const store = scratch()
  t.teardown(async () => {
    await guest.end()
    rmSync(store, { recursive: true })
  })
  const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))
  const before: Readonly<Record<string, () => Promise<unknown>>> = {
    'before the pause': async () => {},
    paused: () => machine.pause(soon(2000)),
    'paused, and resumed by the agent': async () => {
      await machine.pause(soon(2000))
      await machine.resume(soon(2000))
    },
  }
  for (const [when, act] of Object.entries(before)) {
    for (let times = 0; times < 8; times++) {
      // Refused while a save is under way.
      await machine.prepare({ directory: store, label: 'dropped' }, soon(5000))
      await act()
      await machine.abandon()
    }
    t.comment(when)
    await isAsBefore(t, guest, machine, store)
  }
  await machine.close()
})

/** Returns when the image in a store is removed, or nobody writes it any more: true, or false. */
async function isRemoved(store: string): Promise<boolean> {
  const image = path.join(store, 'memory.img')
  const isWritten = async () => {
    const id = await fileId(image)
    return id !== null && (await openFiles(new Set([id]))).holders.size > 0
  }
  await waitUntil('the end of the image', 60_000, async () => ((await isWritten()) ? undefined : true))
  return waitUntil('the image to be removed', 1000, () => (list(store).length === 0 ? true : undefined)).catch(
    () => false,
  )
}

for (const moment of ['paused', 'sealing']) {
  t.test(`the daemon is killed with the machine ${moment}: it runs on by itself`, async (t) => {
    // The image may be whole before the daemon has died: then its records tell the next one of it. Another machine,
    // another try.
    for (let tries = 1; ; tries++) {
      const guest = await bootGuest({ memoryMiB: 256 })
      const store = scratch()
      t.teardown(async () => {
        await guest.end()
        rmSync(store, { recursive: true })
      })
      const before = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))
      const settings = await before.settings(soon(2000))
      await before.close()
      const child = fork(fileURLToPath(import.meta.url), [`die-${moment}`, guest.qmp, store], { stdio: 'ignore' })
      const [, signal] = await new Promise<[number | null, string | null]>((resolve) => {
        child.on('exit', (...how) => resolve(how))
      })
      t.equal(signal, 'SIGKILL')
      await runsOn(t, guest)
      const removed = await isRemoved(store)
      if (!removed && tries < 10) {
        await guest.end()
        continue
      }
      t.ok(removed, 'the unfinished image is removed')
      // The next daemon finds a machine that it can snapshot.
      const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))
      const taken = await take(machine, guest.serial, 'after')
      await runsOn(t, guest)
      await machine.putBack(settings, soon(2000))
      await machine.close()
      const qmp = await QmpClient.connect(guest.qmp, soon(2000))
      const capabilities = (await qmp.execute('query-migrate-capabilities', {}, soon(1000))) as { state: boolean }[]
      t.same(
        capabilities.filter(({ state }) => state),
        [],
        'no capability left set',
      )
      qmp.close()
      rmSync(taken.directory, { recursive: true })
      return
    }
  })
}

t.test('a guest that a broken background save left frozen is freed', async (t) => {
  const guest = await bootGuest()
  t.teardown(() => guest.end())
  // What happens when nobody keeps the pipe open: QEMU leaves guest memory write-protected.
  const qmp = await QmpClient.connect(guest.qmp, soon(2000))
  const capabilities = [
    { capability: 'background-snapshot', state: true },
    { capability: 'events', state: true },
  ]
  await qmp.execute('migrate-set-capabilities', { capabilities }, soon(1000))
  const failed = qmp.event(({ data }) => data.status === 'failed', 'failure', soon(5000))
  await qmp.execute('migrate', { uri: 'exec:head -c 100000 >/dev/null' }, soon(1000))
  await failed
  const { major } = qmp.greeting
  qmp.close()
  const { count } = readReport(guest.serial)
  await sleep(300)
  // Newer ones of QEMU free it by themselves.
  if (major < 9) t.ok(readReport(guest.serial).count <= count + 1, 'frozen')
  const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(5000))
  t.equal((await machine.inspect(soon(2000))).captureMode, 'background')
  await runsOn(t, guest)
  const taken = await take(machine, guest.serial, 'after')
  await runsOn(t, guest)
  rmSync(taken.directory, { recursive: true })
  await machine.close()
})

t.test('a merge that a killed daemon has left under way', async (t) => {
  const { guest, store } = await guestAndStore(t)
  const first = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))
  let { seal } = await take(first, guest.serial, 's1')
  await first.close()
  const user = async <T>(use: (qmp: QmpClient) => Promise<T>) => {
    const qmp = await QmpClient.connect(guest.qmp, soon(2000))
    return use(qmp).finally(() => qmp.close())
  }
  const jobs = () => user((qmp) => qmp.execute('query-block-jobs', {}, soon(2000)))
  // It copies all that there is, and then waits to be told to end.
  const leaveMerge = () =>
    user(async (qmp) => {
      const ready = qmp.event(({ name }) => name === 'BLOCK_JOB_READY', 'block-commit', soon(5000))
      await qmp.execute('block-commit', { 'job-id': 'snapswitch-x', device: 'disk0' }, soon(2000))
      await ready
    })
  const attach = () => hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))

  await leaveMerge()
  const second = await attach()
  t.match(await second.inspect(soon(2000)), {
    unsupported: [],
    disks: [{ layers: [{ file: seal.disks[0]!.overlay }] }],
  })
  await second.prepare({ directory: store, label: 'x' }, soon(5000))
  await second.abandon()
  await second.close()
  t.same(await jobs(), [], 'a snapshot ends it')

  await leaveMerge()
  const third = await attach()
  t.same(await third.collapse('disk0', guest.disk, soon(10_000)), [seal.disks[0]!.overlay], 'a merge begins anew')
  rmSync(seal.disks[0]!.overlay)
  const below = await take(third, guest.serial, 's2')
  seal = (await take(third, guest.serial, 's3')).seal
  await third.close()

  await leaveMerge()
  const fourth = await attach()
  const between = below.seal.disks[0]!.overlay
  t.same(await fourth.shorten('disk0', guest.disk, soon(10_000)), [between], 'a shortening begins')
  rmSync(between)
  t.same(await fourth.collapse('disk0', guest.disk, soon(10_000)), [seal.disks[0]!.overlay])
  rmSync(seal.disks[0]!.overlay)
  await isAsBefore(t, guest, fourth, store)
  await fourth.close()
})

t.test('what cannot be prepared leaves nothing behind', async (t) => {
  const { guest, store } = await guestAndStore(t)
  const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))
  t.equal(await codeOf(machine.prepare({ directory: path.join(store, 'no'), label: 's' }, soon(2000))), 'STORE_IO')
  writeFileSync(path.join(store, 'memory.img'), 'precious')
  t.equal(await codeOf(machine.prepare({ directory: store, label: 's' }, soon(2000))), 'STORE_IO', 'overwrites nothing')
  rmSync(path.join(store, 'memory.img'))
  t.match(await codeOf(machine.prepare({ directory: store, label: 's' }, soon(0))), /DEADLINE|UNREACHABLE/)
  const other = path.join(guest.directory, 'vm0-disk0.s.qcow2')
  mkdirSync(other)
  await machine.prepare({ directory: store, label: 's' }, soon(5000))
  t.ok(list(guest.directory).includes('vm0-disk0.s-2.qcow2'), 'a name that is taken is left alone')
  await machine.abandon()
  rmSync(other, { recursive: true })
  await isAsBefore(t, guest, machine, store)
  await machine.close()
})
