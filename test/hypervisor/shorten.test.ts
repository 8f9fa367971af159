// A chain of images made short under a running machine: nothing but the active image is written, and snapshots stay
// whole.

import { rmSync } from 'node:fs'
import t from 'tap'
import { createQemuHypervisor } from '../../src/hypervisor/qemu/driver.js'
import { fileLimit } from '../patience.js'
import { bootGuest, readCounts, readReport, soon, until } from './boot-guest.js'
import { bringBack, chainOf, fingerprint, isGapless, scratch, take } from './machines.js'

t.setTimeout(fileLimit(60_000))

t.test('six images become two, and the snapshots stay as they were', async (t) => {
  const guest = await bootGuest()
  t.teardown(() => guest.end())
  const hypervisor = createQemuHypervisor()
  const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(5000))
  const taken = []
  for (let i = 1; i <= 5; i++) {
    taken.push(await take(machine, guest.serial, `s${i}`))
    const { count } = readReport(guest.serial)
    await until('the guest to write', () => readReport(guest.serial).count > count)
  }
  const last = taken.at(-1)!.seal.disks[0]!
  const frozen = last.layers.map(({ file }) => file)
  const before = fingerprint(frozen)
  const left = await machine.shorten('disk0', guest.disk, soon(20_000))
  t.same(left, frozen.slice(0, -1))
  t.match((await machine.inspect(soon(5000))).disks[0]!.layers, [{ file: last.overlay }, { file: guest.disk }])
  t.same(chainOf(last.overlay), [last.overlay, guest.disk], 'its header says so, too')
  t.same(fingerprint(frozen), before, 'no frozen image was written')
  t.same(await machine.shorten('disk0', guest.disk, soon(20_000)), [], 'it is short')
  const { count } = readReport(guest.serial)
  await until('the guest to run on', () => readReport(guest.serial).count > count + 3)
  t.equal(readReport(guest.serial).complaints, '')
  t.ok(isGapless(readCounts(guest.serial)))
  const next = await take(machine, guest.serial, 's6')
  t.match(next.seal.disks[0]!.layers, [{ file: last.overlay }, { file: guest.disk }])
  await machine.destroy(soon(5000))
  const start = readReport(guest.serial).count
  rmSync(guest.serial)
  const { control } = await bringBack(hypervisor, next, scratch('back'))
  await control.resume(soon(5000))
  await until('the guest to go on', () => readReport(guest.serial).count > start + 3)
  t.equal(readReport(guest.serial).complaints, '', 'disk and memory of one piece')
  await control.destroy(soon(5000))
})
