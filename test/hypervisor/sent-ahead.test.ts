// Memory sent ahead of the cut, on a real QEMU: that it is, while the guest runs; that QEMU comes no further before the
// cut, however idle the guest; what becomes of the machine when that cannot be had.

import { randomBytes } from 'node:crypto'
import { readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { SnapswitchError } from '../../src/errors/errors.js'
import { createQemuHypervisor } from '../../src/hypervisor/qemu/driver.js'
import { findProcesses } from '../../src/hypervisor/shared/process.js'
import { QmpClient } from '../../src/hypervisor/shared/qmp.js'
import { RamStream } from '../../src/hypervisor/shared/ram-stream.js'
import { fileLimit } from '../patience.js'
import { bootGuest, readCounts, readReport, sleep, soon, until } from './boot-guest.js'
import { bringBack, codeOf, isGapless, list, mergeDisk, scratch, take } from './machines.js'

t.setTimeout(fileLimit(180_000))
const hypervisor = createQemuHypervisor({ atBest: 'precopy' })
const memoryMiB = 128
const allPages = (memoryMiB << 20) / 4096

type Tap = Pick<typeof t, 'teardown'>
type Machine = Awaited<ReturnType<typeof bootWithMonitor>>

/** A guest, and another monitor of it. A quarter of its memory is not zeros, as if much had been in use. */
async function bootWithMonitor(t: Tap) {
  const directory = scratch()
  const socket = path.join(directory, 'user.sock')
  const used = path.join(directory, 'used')
  writeFileSync(used, randomBytes(memoryMiB << 18))
  const filled = ['-device', `loader,file=${used},addr=0x4000000,force-raw=on`]
  const guest = await bootGuest({ memoryMiB, extra: ['-qmp', `unix:${socket},server=on,wait=off`, ...filled] })
  t.teardown(() => guest.end())
  const monitor = await QmpClient.connect(socket, soon(5000))
  t.teardown(() => monitor.close())
  const ask = async (command: string) => (await monitor.execute(command, {}, soon(5000))) as Record<string, unknown>
  return { guest, monitor, ask }
}

function countIn(file: string): RamStream {
  const ram = new RamStream()
  ram.feed(readFileSync(file))
  return ram
}

t.test('most of memory is written while the guest runs, and QEMU is held there', async (t) => {
  const { guest, ask } = await bootWithMonitor(t)
  const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(5000))
  t.match(await machine.inspect(soon(5000)), { captureMode: 'precopy', captureModeReason: /ahead of its cut/ })
  const store = scratch()
  const image = path.join(store, 'memory.img')
  await machine.prepare({ directory: store, label: 's' }, soon(20_000))
  const written = statSync(image).size
  const ram = countIn(image)
  t.ok(ram.total >= allPages, `${ram.total} pages, the guest’s ${allPages} among them`)
  t.ok(ram.pages > ram.total - 8192 && ram.pages < ram.total, `${ram.pages} are written`)
  // It runs, and not a page more is written, for as long as nobody asks.
  const { count } = readReport(guest.serial)
  await until('the guest to run on', () => readReport(guest.serial).count > count + 5)
  t.match(await ask('query-status'), { status: 'running' })
  t.match(await ask('query-migrate'), { status: 'active', ram: { 'dirty-sync-count': 1 } })
  t.equal(statSync(image).size, written)
  await machine.pause(soon(5000))
  const capture = machine.capture(soon(20_000))
  await capture.resumed
  const seal = await capture.sealed
  t.match(seal, { captureMode: 'precopy', memoryBytes: statSync(image).size })
  t.equal(countIn(image).isLost, true, 'a second pass: what was written to since comes again')
  t.equal(await mergeDisk(machine, seal.disks[0]!), true)
  await machine.close()
})

t.test('a guest that stands still but for a moment: the pass is not ended before the cut', async (t) => {
  const { guest, monitor, ask } = await bootWithMonitor(t)
  const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(5000))
  const store = scratch()
  // Nothing is written to, as in a guest that sleeps: another pass would find nothing to do, and QEMU end the save.
  const prepared = machine.prepare({ directory: store, label: 's' }, soon(20_000))
  await until('the migration', () => list(store).includes('memory.img'))
  await monitor.execute('stop', {}, soon(5000))
  await prepared
  await sleep(300)
  t.match(await ask('query-migrate'), { status: 'active' })
  await monitor.execute('cont', {}, soon(5000))
  await machine.pause(soon(5000))
  const capture = machine.capture(soon(20_000))
  await capture.resumed
  t.match(await capture.sealed, { captureMode: /precopy|stopped/ })
  await until('the guest to run on', () => readCounts(guest.serial).length > 5)
  t.equal(await mergeDisk(machine, (await capture.sealed).disks[0]!), true)
  await machine.close()
})

t.test('the migration is ended by somebody else: it is saved standing still', async (t) => {
  const { guest, monitor } = await bootWithMonitor(t)
  const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(5000))
  let mode: string | undefined
  for (let tries = 0; mode !== 'stopped' && tries < 10; tries++) {
    const stop = monitor.onEvent(({ name, data }) => {
      if (name !== 'MIGRATION' || data.status !== 'active') return
      stop()
      monitor.execute('migrate_cancel', {}, soon(5000)).catch(() => {})
    })
    const taken = await take(machine, guest.serial, `try${tries}`)
    stop()
    mode = taken.seal.captureMode
    if (mode === 'stopped') {
      t.equal(await mergeDisk(machine, taken.seal.disks[0]!), true)
      await machine.destroy(soon(5000))
      rmSync(guest.serial)
      const { control } = await bringBack(hypervisor, taken, scratch('run'))
      await control.resume(soon(5000))
      await until('the restored guest', () => readCounts(guest.serial).length > 5)
      t.equal(readReport(guest.serial).complaints, '')
      await control.destroy(soon(5000))
    } else t.equal(await mergeDisk(machine, taken.seal.disks[0]!), true)
    rmSync(taken.directory, { recursive: true })
  }
  t.equal(mode, 'stopped')
})

t.test('called off before its cut: it runs, and nothing is under way', async (t) => {
  const { guest, ask } = await bootWithMonitor(t)
  const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(5000))
  const store = scratch()
  for (const isPaused of [false, true]) {
    await machine.prepare({ directory: store, label: 's' }, soon(20_000))
    if (isPaused) await machine.pause(soon(5000))
    await machine.abandon()
    t.match(await ask('query-status'), { status: 'running' })
    t.match(await ask('query-migrate'), { status: 'cancelled' })
    t.same(list(store), [])
    const { count } = readReport(guest.serial)
    await until('the guest to run on', () => readReport(guest.serial).count > count + 3)
  }
  t.ok(isGapless(readCounts(guest.serial)))
  await machine.close()
})

const parentOf = (pid: number) => Number(/\) \S (\d+)/.exec(readFileSync(`/proc/${pid}/stat`, 'latin1'))?.[1])

/** Prepared, and broken then: the guest runs on by itself, the capture fails, and the next one is taken. */
const troubles: Readonly<Record<string, (machine: Machine) => Promise<unknown>>> = {
  'the process that writes images dies': async () => {
    const writers = findProcesses((argv) => argv.some((word) => word.includes('image-writer-process')))
    const isOurs = ({ pid }: { pid: number }) => parentOf(pid) === process.pid
    for (const { pid } of writers.filter(isOurs)) process.kill(pid, 'SIGKILL')
  },
  'QEMU gives no answer': async ({ guest }) => {
    process.kill(guest.pid, 'SIGSTOP')
    await sleep(5000)
    process.kill(guest.pid, 'SIGCONT')
  },
}

for (const [what, happen] of Object.entries(troubles))
  t.test(`held, and ${what}`, async (t) => {
    const vm = await bootWithMonitor(t)
    const { guest, ask } = vm
    const machine = await createQemuHypervisor({ atBest: 'precopy' }).attach('vm0', { qmp: guest.qmp }, soon(5000))
    const store = scratch()
    await machine.prepare({ directory: store, label: 's' }, soon(20_000))
    await happen(vm)
    const status = async () => (await ask('query-migrate')).status
    for (const limit = soon(20_000); (await status()) !== 'failed'; await sleep(50))
      if (performance.now() > limit) throw new Error(`the migration is ${await status()}`)
    t.match(await ask('query-status'), { status: 'running' })
    const { count } = readReport(guest.serial)
    await until('the guest to run on', () => readReport(guest.serial).count > count + 3)
    await machine.pause(soon(5000))
    const capture = machine.capture(soon(20_000))
    t.equal(await codeOf(capture.sealed), 'CAPTURE_FAILED')
    t.match(await ask('query-status'), { status: 'running' })
    t.same(list(store), [])
    const taken = await take(machine, guest.serial, 'next')
    t.equal(taken.seal.captureMode, 'precopy')
    t.equal(await mergeDisk(machine, taken.seal.disks[0]!), true)
    t.ok(isGapless(readCounts(guest.serial)), 'nothing missed, nothing twice')
    await machine.close()
  })

t.test('called off while memory is sent', async (t) => {
  const { guest, monitor, ask } = await bootWithMonitor(t)
  const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(5000))
  const store = scratch()
  const off = new AbortController()
  const reason = new SnapswitchError('SNAPSHOT_DISCARDED', 'not wanted any more', 'Try again.')
  monitor.onEvent(({ name, data }) => {
    if (name === 'MIGRATION' && data.status === 'active') off.abort(reason)
  })
  // Called off before or while it is held, it is undone in either case.
  const code = await codeOf(machine.prepare({ directory: store, label: 's', calledOff: off.signal }, soon(20_000)))
  if (code === 'none') await machine.abandon()
  else t.equal(code, 'SNAPSHOT_DISCARDED')
  t.match(await ask('query-status'), { status: 'running' })
  t.same(list(store), [])
  const early = AbortSignal.abort(reason)
  t.equal(
    await codeOf(machine.prepare({ directory: store, label: 's', calledOff: early }, soon(20_000))),
    'SNAPSHOT_DISCARDED',
  )
  t.same([list(store), list(guest.directory)], [[], ['disk.qcow2', 'qmp.sock', 'serial']])
  const { count } = readReport(guest.serial)
  await until('the guest to run on', () => readReport(guest.serial).count > count + 3)
  await machine.close()
})

t.test('it takes too long: it is called off, and the guest runs', async (t) => {
  const { guest, monitor, ask } = await bootWithMonitor(t)
  const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(5000))
  const store = scratch()
  monitor.onEvent(({ name, data }) => {
    if (name !== 'MIGRATION' || data.status !== 'active') return
    monitor.execute('migrate-set-parameters', { 'max-bandwidth': 100_000 }, soon(5000)).catch(() => {})
  })
  const code = await codeOf(machine.prepare({ directory: store, label: 's' }, performance.now() + 6000))
  t.match(code, /DEADLINE|none/, 'most of its memory may have been sent before')
  if (code === 'none') await machine.abandon()
  t.match(await ask('query-status'), { status: 'running' })
  t.match(await ask('query-migrate'), { status: 'cancelled' })
  t.same([list(store), list(guest.directory)], [[], ['disk.qcow2', 'qmp.sock', 'serial']])
  await machine.close()
})
