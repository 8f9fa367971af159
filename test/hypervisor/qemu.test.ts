// The driver on a real QEMU: snapshots of a running guest, brought back to life, over and over, in both modes.

import { execFileSync } from 'node:child_process'
import { readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { createQemuHypervisor } from '../../src/hypervisor/qemu/driver.js'
import type { QemuMachine } from '../../src/hypervisor/qemu/machine.js'
import type { QemuDefinition } from '../../src/hypervisor/qemu/types.js'
import { qemuBinary } from '../../src/hypervisor/shared/probe.js'
import { isAlive } from '../../src/hypervisor/shared/process.js'
import { QmpClient } from '../../src/hypervisor/shared/qmp.js'
import { fileLimit } from '../patience.js'
import { bootGuest, readCounts, readReport, sleep, soon, until } from './boot-guest.js'
import {
  bringBack,
  chainOf,
  codeOf,
  fingerprint,
  isGapless,
  list,
  mergeDisk,
  scratch,
  sha256,
  take,
} from './machines.js'

t.setTimeout(fileLimit(120_000))
const hypervisor = createQemuHypervisor()
const late = createQemuHypervisor({ startAhead: false })
const ahead = createQemuHypervisor({ atBest: 'precopy' })
const stopping = createQemuHypervisor({ atBest: 'stopped' })

t.test('inspect and definition', async (t) => {
  const guest = await bootGuest()
  t.teardown(() => guest.end())
  const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))
  const info = await machine.inspect(soon(2000))
  t.match(info, {
    name: 'vm0',
    state: 'running',
    memoryBytes: 64 << 20,
    disks: [{ name: 'disk0', layers: [{ file: guest.disk, format: 'qcow2' }], bytes: 1 << 20 }],
    nics: [],
  })
  t.equal(info.captureMode === 'background', info.captureModeReason === null)
  const definition = (await machine.definition(soon(2000))) as QemuDefinition
  t.match(definition, { kind: 'qemu', memoryBytes: 64 << 20, directory: guest.directory, drives: [{ name: 'disk0' }] })
  t.match(definition.argv[definition.drives![0]!.argument], /^file=.*id=disk0$/)
  t.equal(definition.hypervisorVersion, info.hypervisorVersion)
  await machine.close()
  t.equal(await codeOf(machine.inspect(soon(500))), 'HYPERVISOR_UNREACHABLE', 'closed is closed')
  const before = readReport(guest.serial).count
  await until('the guest to run on', () => readReport(guest.serial).count > before)
})

for (const [mode, how, driver, rounds] of [
  ['background', 'started ahead', hypervisor, 3],
  ['background', 'started at the cut', late, 1],
  ['precopy', 'started ahead', ahead, 3],
  ['stopped', 'started at the cut', stopping, 1],
] as const) {
  t.test(`${mode}, ${how}: a snapshot of a running guest, restored, ${rounds} times in a row`, async (t) => {
    const guest = await bootGuest()
    const made = [guest.directory]
    t.teardown(async () => {
      await guest.end()
      for (const directory of made) rmSync(directory, { recursive: true, force: true })
    })
    let machine = await driver.attach('vm0', { qmp: guest.qmp }, soon(2000))
    t.equal((await machine.inspect(soon(2000))).captureMode, mode)
    for (let round = 0; round < rounds; round++) {
      const taken = await take(machine, guest.serial, `round${round}`)
      made.push(taken.directory)
      const { seal } = taken
      t.comment(`STOP to RESUME ${taken.downtimeMs} ms, image ${seal.memoryBytes} bytes`)
      t.equal(seal.memoryDigest, sha256(seal.memoryFile), 'digest')
      t.equal(seal.captureMode, mode)
      t.match(statSync(seal.memoryFile), { size: seal.memoryBytes, mode: 0o100600 })
      t.equal(seal.disks.length, 1)
      t.same(chainOf(seal.disks[0]!.overlay).slice(0, 2), [seal.disks[0]!.overlay, seal.disks[0]!.layers[0]!.file])
      // The machine that was snapshot runs on as if nothing had been.
      const then = readReport(guest.serial).count
      await until('the guest to run on', () => readReport(guest.serial).count > then + 5)
      t.ok(isGapless(readCounts(guest.serial)), 'nothing missed, nothing twice')
      t.equal((await machine.inspect(soon(2000))).disks[0]!.layers[0]!.file, seal.disks[0]!.overlay)
      const frozen = fingerprint([seal.memoryFile, ...seal.disks[0]!.layers.map(({ file }) => file)])
      await machine.destroy(soon(5000))
      // What it said after the cut is of another future: the restored one takes up where the cut was.
      rmSync(guest.serial)
      const run = scratch('run')
      made.push(run)
      const loaded = await bringBack(driver, taken, run)
      machine = loaded.control
      t.equal((await machine.inspect(soon(2000))).state, 'paused')
      t.equal(readReport(guest.serial).count, 0, 'paused until told')
      await machine.resume(soon(2000))
      await until('the restored guest', () => readCounts(guest.serial).length > 5)
      const { complaints } = readReport(guest.serial)
      t.equal(complaints, '', 'memory is of one instant and the disk goes with it')
      const before = taken.said.match(/[0-9a-f]{8}(?=\n)/g)!
      const joined = path.join(run, 'joined')
      writeFileSync(joined, taken.said + readFileSync(guest.serial, 'latin1'))
      t.ok(isGapless(readCounts(joined)), `goes on from the cut, to the letter (${before.at(-1)})`)
      t.same(fingerprint(frozen.map((line) => line.split(' ')[0]!)), frozen, 'frozen layers and image untouched')
    }
    const identity = (machine as QemuMachine).process!
    t.ok(isAlive(identity))
    await machine.destroy(soon(5000))
    t.notOk(isAlive(identity), 'gone')
  })
}

const displays = execFileSync(qemuBinary(), ['-display', 'help'], { encoding: 'utf8' })
const dbus = { skip: /^dbus$/m.test(displays) ? false : 'needs a QEMU with D-Bus displays' }

t.test('a machine in a window comes back on a socket, of the same type', dbus, async (t) => {
  const guest = await bootGuest({ extra: ['-display', 'dbus,p2p=on'] })
  t.teardown(() => guest.end())
  const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))
  const taken = await take(machine, guest.serial)
  await machine.destroy(soon(5000))
  const run = scratch('run')
  const { control } = await bringBack(hypervisor, taken, run)
  await control.resume(soon(2000))
  const { count } = readReport(guest.serial)
  await until('the guest to run on', () => readReport(guest.serial).count > count + 3)
  t.ok(statSync(path.join(run, 'vnc.sock')).isSocket())
  const [machineType] = (taken.definition as QemuDefinition).argv.filter((word) => /^pc/.test(word))
  t.match(machineType, /^pc-i440fx-\d+\.\d+,accel=tcg$/, 'not `pc`, which means another one for each QEMU')
  t.notOk(((await control.definition(soon(2000))) as QemuDefinition).argv.includes('dbus,p2p=on'))
  await control.destroy(soon(5000))
  for (const directory of [run, taken.directory]) rmSync(directory, { recursive: true })
})

t.test('settings of the machine are as before', async (t) => {
  const guest = await bootGuest()
  t.teardown(() => guest.end())
  const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))
  const { directory, seal } = await take(machine, guest.serial)
  await machine.close()
  const qmp = await QmpClient.connect(guest.qmp, soon(2000))
  const capabilities = (await qmp.execute('query-migrate-capabilities', {}, soon(1000))) as { state: boolean }[]
  t.same(
    capabilities.filter(({ state }) => state),
    [],
    'no capability left set',
  )
  t.match(await qmp.execute('query-migrate-parameters', {}, soon(1000)), { 'max-bandwidth': 134217728 })
  qmp.close()
  t.same(list(guest.directory), ['disk.qcow2', 'qmp.sock', 'serial', 'vm0-disk0.s1.qcow2'])
  t.same(list(directory), ['memory.img'])
  t.equal(seal.memoryFile, path.join(directory, 'memory.img'))
  rmSync(directory, { recursive: true })
})

t.test('snapshots back to back, then merged from the top', async (t) => {
  const guest = await bootGuest()
  t.teardown(() => guest.end())
  const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))
  const taken = []
  const downtimes: number[] = []
  for (let i = 0; i < 5; i++) {
    taken.push(await take(machine, guest.serial, 'again'))
    downtimes.push(taken.at(-1)!.downtimeMs)
  }
  t.comment(`STOP to RESUME: ${downtimes.join(', ')} ms`)
  t.equal((await machine.inspect(soon(2000))).disks[0]!.layers.length, 6)
  const below = taken[2]!.seal.disks[0]!
  t.equal(await mergeDisk(machine, below), false, 'not the active overlay: left alone')
  for (const { seal, directory } of taken.reverse()) {
    t.equal(await mergeDisk(machine, seal.disks[0]!), true)
    rmSync(directory, { recursive: true })
  }
  t.same((await machine.inspect(soon(2000))).disks[0]!.layers, [{ file: guest.disk, format: 'qcow2' }])
  t.same(list(guest.directory), ['disk.qcow2', 'qmp.sock', 'serial'])
  const { count } = readReport(guest.serial)
  await until('the guest to run on', () => readReport(guest.serial).count > count + 5)
  t.equal(readReport(guest.serial).complaints, '')
  t.ok(isGapless(readCounts(guest.serial)))
  await machine.close()
})

t.test('a machine that its user paused stays paused', async (t) => {
  for (const driver of [hypervisor, late, ahead, stopping]) {
    const guest = await bootGuest()
    t.teardown(() => guest.end())
    const machine = await driver.attach('vm0', { qmp: guest.qmp }, soon(2000))
    await machine.pause(soon(2000))
    const first = await take(machine, guest.serial, 'one')
    t.equal((await machine.inspect(soon(2000))).state, 'paused')
    const second = await take(machine, guest.serial, 'two')
    t.equal((await machine.inspect(soon(2000))).state, 'paused')
    const { count } = readReport(guest.serial)
    await sleep(400)
    t.equal(readReport(guest.serial).count, count, 'and does nothing')
    await machine.resume(soon(2000))
    await until('the guest to run on', () => readReport(guest.serial).count > count + 3)
    t.equal(readReport(guest.serial).complaints, '')
    await machine.close()
    for (const { directory } of [first, second]) rmSync(directory, { recursive: true })
  }
})

t.test('a machine that never ran is refused, and one that was restored and never ran is not', async (t) => {
  const guest = await bootGuest({ extra: ['-S'], awaitBoot: false })
  t.teardown(() => guest.end())
  const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))
  const store = scratch()
  t.equal(await codeOf(machine.prepare({ directory: store, label: 's' }, soon(2000))), 'MACHINE_NOT_RUNNING')
  t.same(list(store), [])
  t.same(list(guest.directory), ['disk.qcow2', 'qmp.sock', 'serial'])
  await machine.resume(soon(2000))
  await until('the guest', () => readReport(guest.serial).count > 3)
  const taken = await take(machine, guest.serial, 's')
  await machine.destroy(soon(2000))
  const run = scratch('run')
  const { control } = await bringBack(hypervisor, taken, run)
  const again = await take(control, guest.serial, 'again')
  t.equal((await control.inspect(soon(2000))).state, 'paused')
  await control.resume(soon(2000))
  const { count } = readReport(guest.serial)
  await until('the guest to run on', () => readReport(guest.serial).count > count + 3)
  t.equal(readReport(guest.serial).complaints, '')
  await control.destroy(soon(2000))
  for (const directory of [store, run, taken.directory, again.directory]) rmSync(directory, { recursive: true })
})
