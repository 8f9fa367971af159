// Domains of libvirt whose disks run out of space, snapshots that libvirt's tools make within our overlays, and domains
// that are changed while a snapshot is prepared.

import { execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { createLibvirtHypervisor } from '../../src/hypervisor/libvirt/driver.js'
import { fileLimit } from '../patience.js'
import { readReport, soon, until } from './boot-guest.js'
import { LibvirtDaemon } from './libvirt-daemon.js'
import { codeOf, scratch, take, takeWhile } from './machines.js'

t.setTimeout(fileLimit(280_000))
t.jobs = 1

// Mounted before libvirtd has mounts of its own.
const directory = scratch('libvirt')
const small = path.join(scratch('small'), 'fs')
mkdirSync(small)
execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=3m', 'tmpfs', small])
const daemon = await LibvirtDaemon.start('root', undefined, directory).catch((error) => {
  execFileSync('umount', ['-l', small])
  throw error
})
t.teardown(async () => {
  await daemon.end()
  execFileSync('umount', ['-l', small])
})
const hypervisor = createLibvirtHypervisor({ uri: daemon.uri })
const attach = (name: string) => hypervisor.attach('vm0', { libvirt: { domain: name } }, soon(10_000))

/** Takes all space that there is. */
function fill(): () => void {
  const file = path.join(small, 'fill')
  try {
    writeFileSync(file, Buffer.alloc(4 << 20))
  } catch {
    // That is the point.
  }
  return () => rmSync(file)
}

t.test('a disk without space stops the domain; a merge without space is told, and can be done again', async (t) => {
  const domain = await daemon.domain('full')
  const first = await attach('full')
  const { definition, seal } = await take(first, domain.serial)
  await first.destroy(soon(5000))
  const request = { definition, memoryFile: seal.memoryFile, taps: [] }
  const place = path.join(small, 'on')
  mkdirSync(place)
  const stopped = await hypervisor.load({ ...request, disks: seal.disks, directory: place }, soon(20_000))
  const free = fill()
  await stopped.control.resume(soon(10_000))
  await until('the guest to stop', () => daemon.virsh('domstate', 'full') === 'paused', 20_000)
  const { state, stateDetail } = await stopped.control.inspect(soon(5000))
  t.match({ state, stateDetail }, { state: 'paused', stateDetail: /file system of a disk of it is full/ })
  free()
  daemon.virsh('resume', 'full')
  await daemon.runs(domain)
  t.match(await stopped.control.inspect(soon(5000)), { state: 'running', stateDetail: null })
  await stopped.control.destroy(soon(5000))

  // A base on the full disk, which has nothing of the guest's yet.
  const base = path.join(small, 'base.qcow2')
  const [top, ...below] = seal.disks[0]!.layers
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', top!.file, '-F', top!.format, base])
  const disks = [{ ...seal.disks[0]!, layers: [{ file: base, format: 'qcow2' as const }, top!, ...below] }]
  const elsewhere = scratch()
  const { control } = await hypervisor.load({ ...request, disks, directory: elsewhere }, soon(20_000))
  await control.resume(soon(5000))
  await daemon.runs(domain)
  const full = fill()
  t.equal(await codeOf(control.collapse('vda', base, soon(20_000))), 'STORE_FULL')
  t.equal(daemon.virsh('blockjob', 'full', 'vda'), '', 'nothing is left under way')
  t.same(daemon.disks('full'), { vda: path.join(elsewhere, 'vda.qcow2') })
  await daemon.runs(domain)
  full()
  t.same(await control.collapse('vda', base, soon(20_000)), [path.join(elsewhere, 'vda.qcow2')])
  t.same(daemon.disks('full'), { vda: base })
  t.same(daemon.disks('full', true), { vda: base })
  await daemon.runs(domain)
  t.equal(readReport(domain.serial).complaints, '')
  await control.destroy(soon(5000))
  daemon.virsh('undefine', 'full')
})

t.test('a snapshot of libvirt’s own within our overlay: the overlay is not merged while it is there', async (t) => {
  const domain = await daemon.domain('inner')
  const machine = await attach('inner')
  const { seal } = await take(machine, domain.serial)
  const [disk] = seal.disks
  const base = disk!.layers.at(-1)!.file
  daemon.virsh('snapshot-create-as', 'inner', 'mine')
  t.equal(await codeOf(machine.checkCollapse('vda', base, soon(5000))), 'SNAPSHOT_NEEDED')
  t.equal(await codeOf(machine.collapse('vda', base, soon(20_000))), 'SNAPSHOT_NEEDED')
  t.ok(existsSync(disk!.overlay))
  daemon.virsh('snapshot-revert', 'inner', 'mine')
  t.equal(daemon.virsh('domstate', 'inner'), 'running', 'its owner can go back to it')
  await daemon.runs(domain)
  daemon.virsh('snapshot-delete', 'inner', 'mine')
  const again = await attach('inner')
  t.same(await again.collapse('vda', base, soon(20_000)), [disk!.overlay])
  rmSync(disk!.overlay)
  daemon.virsh('destroy', 'inner')
  daemon.virsh('start', 'inner')
  await daemon.runs(domain)
  daemon.virsh('destroy', 'inner')
  daemon.virsh('undefine', 'inner')
})

t.test(
  'plugged in, or a disc changed, while a snapshot is prepared: it fails, and the next one is whole',
  async (t) => {
    const at = (file: string) => path.join(daemon.directory, file)
    for (const file of ['first.iso', 'second.iso']) writeFileSync(at(file), Buffer.alloc(1 << 16))
    const domain = await daemon.domain('changed', {
      devices: `<controller type='sata' index='0'/><disk type='file' device='cdrom'><driver name='qemu' type='raw'/>
<source file='${at('first.iso')}'/><target dev='sda' bus='sata'/><readonly/></disk>`,
    })
    const machine = await attach('changed')
    writeFileSync(at('tablet.xml'), "<input type='tablet' bus='usb'><alias name='ua-late'/></input>")
    const attached = async () => daemon.virsh('attach-device', 'changed', at('tablet.xml'), '--live')
    t.match(await takeWhile(machine, { before: attached }), {
      code: 'CAPTURE_FAILED',
      message: /the device ua-late \(usb-tablet\) was plugged into vm0/,
    })
    await daemon.runs(domain)
    t.same(daemon.disks('changed').vda, domain.disk)
    const change = async () => daemon.virsh('change-media', 'changed', 'sda', at('second.iso'), '--live')
    t.match(await takeWhile(machine, { before: change }), {
      code: 'CAPTURE_FAILED',
      message: /a disc of vm0 was changed/,
    })
    await daemon.runs(domain)
    t.match((await machine.inspect(soon(5000))).media, [{ file: at('second.iso') }])
    const { definition, seal } = await take(machine, domain.serial)
    await machine.destroy(soon(5000))
    const request = { definition, memoryFile: seal.memoryFile, disks: seal.disks, taps: [], directory: scratch() }
    const { control } = await hypervisor.load(request, soon(20_000))
    await control.resume(soon(5000))
    await daemon.runs(domain)
    t.match(daemon.virsh('dumpxml', 'changed'), /ua-late/)
    await control.destroy(soon(5000))
    daemon.virsh('undefine', 'changed')
  },
)
