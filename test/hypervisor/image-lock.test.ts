// The lock on frozen images against real QEMUs: who would write is refused with QEMU's own words, who reads is not
// disturbed, and a merge works once it is let go.

import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createQemuHypervisor } from '../../src/hypervisor/qemu/driver.js'
import { ImageLock } from '../../src/linux/image-lock.js'
import { fileLimit } from '../patience.js'
import { bootGuest, readReport, soon, until } from './boot-guest.js'
import { scratch, take } from './machines.js'

t.setTimeout(fileLimit(60_000))
const hypervisor = createQemuHypervisor()

/** What a QEMU says that is started on an image, and does not stay. */
function startOn(file: string, format: string): string {
  const drive = `file=${file},format=${format},if=none,id=d`
  const args = [
    '-machine',
    'pc,accel=tcg',
    '-nodefaults',
    '-display',
    'none',
    '-S',
    '-drive',
    drive,
    '-device',
    'virtio-blk-pci,drive=d',
  ]
  args.push('-monitor', 'stdio')
  return spawnSync('qemu-system-x86_64', args, { input: 'quit\n', encoding: 'utf8' }).stderr
}

for (const format of ['qcow2', 'raw'] as const) {
  t.test(`a frozen ${format} image`, async (t) => {
    const guest = await bootGuest({ format })
    t.teardown(() => guest.end())
    t.equal(ImageLock.take(guest.disk), null, 'one that is written to is not frozen')
    const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(5000))
    const taken = await take(machine, guest.serial)
    const lock = ImageLock.take(guest.disk)
    t.ok(lock, 'one under an overlay is')
    t.match(startOn(guest.disk, format), /Failed to get "write" lock/)
    const overlay = join(scratch(), 'other.qcow2')
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', guest.disk, '-F', format, overlay])
    t.equal(startOn(overlay, 'qcow2'), '', 'it may be the base of others')
    t.not(spawnSync('qemu-io', ['-f', format, '-c', 'write 0 512', guest.disk]).status, 0)
    const { count } = readReport(guest.serial)
    await until('the guest to run on', () => readReport(guest.serial).count > count + 3)
    const again = await take(machine, guest.serial, 's2')
    t.equal(again.seal.disks[0]!.layers.length, 2, 'snapshots go on')
    await t.rejects(machine.collapse('disk0', guest.disk, soon(5000)), /lock/, 'nobody merges into it by mistake')
    t.ok(lock!.isCurrent)
    lock!.release()
    for (const file of await machine.collapse('disk0', guest.disk, soon(10_000))) rmSync(file)
    t.same((await machine.inspect(soon(5000))).disks[0]!.layers, [{ file: guest.disk, format }])
    const then = readReport(guest.serial).count
    await until('the guest to run on', () => readReport(guest.serial).count > then + 3)
    t.equal(readReport(guest.serial).complaints, '')
    t.notOk(existsSync(taken.seal.disks[0]!.overlay))
    await machine.close()
  })
}
