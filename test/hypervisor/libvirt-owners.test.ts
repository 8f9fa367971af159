// Domains as their owners treat them: discs changed, devices plugged, snapshots of libvirt's own, names taken, taps
// that libvirt makes. What comes back is the domain that ran; what cannot be kept is refused before anything is
// touched.

import { execFileSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import t from 'tap'
import type { MachineControl } from '../../src/hypervisor/hypervisor.js'
import { createLibvirtHypervisor } from '../../src/hypervisor/libvirt/driver.js'
import { decodeHead, encodeHead } from '../../src/hypervisor/libvirt/save-image.js'
import type { LibvirtDefinition } from '../../src/hypervisor/libvirt/types.js'
import { quietLink } from '../../src/linux/ingress.js'
import { Links } from '../../src/linux/link.js'
import { createTap, deleteTap } from '../../src/linux/tap.js'
import { fileLimit } from '../patience.js'
import { readReport, soon } from './boot-guest.js'
import { LibvirtDaemon, type TestDomain } from './libvirt-daemon.js'
import { codeOf, scratch, type Taken, take } from './machines.js'

t.setTimeout(fileLimit(280_000))
t.jobs = 1

const daemon = await LibvirtDaemon.start()
t.teardown(() => daemon.end())
const hypervisor = createLibvirtHypervisor({ uri: daemon.uri })
const attach = (name: string) => hypervisor.attach('vm0', { libvirt: { domain: name } }, soon(10_000))
const at = (file: string) => path.join(daemon.directory, file)
const image = (file: string) => {
  writeFileSync(at(file), Buffer.alloc(1 << 16))
  return at(file)
}

function loadOf({ definition, seal }: Taken, more: { taps?: string[] } = {}) {
  const { memoryFile, disks } = seal
  return { definition, memoryFile, disks, taps: [], directory: scratch(), ...more }
}

async function end(machine: MachineControl, domain: TestDomain, ...flags: string[]): Promise<void> {
  await machine.destroy(soon(5000))
  daemon.virsh('undefine', domain.name, ...flags)
}

/** Ends it as its owner would and starts it from its configuration: it sees its disk. */
async function startsAgain(domain: TestDomain): Promise<void> {
  daemon.virsh('destroy', domain.name)
  daemon.virsh('start', domain.name)
  await daemon.runs(domain)
}

t.test('discs, plugged devices, a tap that libvirt makes: as they were at the cut', async (t) => {
  const tap = `ssw${process.pid}m`
  const [first, second] = [image('first.iso'), image('second.iso')]
  const cdrom = (target: string, source: string) =>
    `<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>${source}<target dev='${target}' bus='sata'/><readonly/></disk>`
  const domain = await daemon.domain('owned', {
    devices:
      "<controller type='sata' index='0'/>" +
      cdrom('sda', `<source file='${first}'/>`) +
      cdrom('sdb', `<source file='${first}'/>`) +
      `<disk type='file' device='floppy'><driver name='qemu' type='raw'/><source file='${image('floppy.img')}'/><target dev='fda'/><readonly/></disk>` +
      `<interface type='ethernet'><mac address='52:54:00:0a:09:01'/><target dev='${tap}'/><model type='virtio'/></interface>` +
      "<interface type='user'><mac address='52:54:00:0a:09:02'/><model type='virtio'/></interface>",
  })
  const stored = daemon.virsh('dumpxml', '--inactive', 'owned')
  daemon.virsh('change-media', 'owned', 'sda', second, '--live')
  daemon.virsh('change-media', 'owned', 'sdb', '--eject', '--live')
  writeFileSync(at('tablet.xml'), "<input type='tablet' bus='usb'/>")
  daemon.virsh('attach-device', 'owned', at('tablet.xml'), '--live')
  const machine = await attach('owned')
  const info = await machine.inspect(soon(5000))
  t.match(info, { state: 'running', stateDetail: null, unsupported: [], warnings: [] })
  t.same(info.media, [
    { name: 'sda', file: second, format: 'raw', removable: true },
    { name: 'sdb', file: null, format: 'raw', removable: true },
    { name: 'fda', file: at('floppy.img'), format: 'raw', removable: true },
  ])
  t.same(
    info.nics.map(({ device }) => device),
    [tap],
    'what libvirt makes again by itself is no affair of ports',
  )
  const taken = await take(machine, domain.serial)
  // Afterwards the owner goes on; and the disc is elsewhere on the host of the restore.
  daemon.virsh('change-media', 'owned', 'sda', first, '--live')
  await machine.destroy(soon(5000))
  t.notOk(existsSync(`/sys/class/net/${tap}`), 'the tap went with the domain')
  const moved = image('moved.iso')
  rmSync(second)
  const media = info.media.map((medium) => (medium.name === 'sda' ? { ...medium, file: moved } : medium))
  const { control } = await hypervisor.load({ ...loadOf(taken, { taps: [tap] }), media }, soon(20_000))
  t.ok(existsSync(`/sys/class/net/${tap}`), 'it is made again')
  const back = await control.inspect(soon(5000))
  t.same(back.media, media)
  t.match(daemon.virsh('dumpxml', 'owned'), /<input type='tablet' bus='usb'>/, 'what was plugged in is there')
  t.match(daemon.virsh('dumpxml', 'owned'), /<interface type='user'>/)
  await control.resume(soon(5000))
  await daemon.runs(domain)
  t.equal(readReport(domain.serial).complaints, '')
  // The configuration is what it was but for the disk.
  const disk = /<disk type='file' device='disk'>.*?<\/disk>/s
  t.equal(daemon.virsh('dumpxml', '--inactive', 'owned').replace(disk, ''), stored.replace(disk, ''))
  await startsAgain(domain)
  t.match(daemon.virsh('domifstat', 'owned', tap), /rx_bytes/, 'and libvirt makes its tap, as before')
  await control.destroy(soon(5000))
  // A switch makes the devices of its ports before there is a machine: the domain takes that one, and it goes with the
  // domain.
  createTap(tap)
  const again = await hypervisor.load({ ...loadOf(taken, { taps: [tap] }), media }, soon(20_000))
  await again.control.resume(soon(5000))
  await daemon.runs(domain)
  await startsAgain(domain)
  t.equal(daemon.virsh('dumpxml', '--inactive', 'owned').replace(disk, ''), stored.replace(disk, ''))
  await end(again.control, domain)
})

/** As if it had been so at the cut: not every kernel has what libvirt's limits take. */
function rewriteImage(file: string, change: (xml: string) => string): void {
  const bytes = readFileSync(file)
  const { streamAt, ...head } = decodeHead(bytes)!
  writeFileSync(file, Buffer.concat([encodeHead({ ...head, xml: change(head.xml) }), bytes.subarray(streamAt)]))
}

t.test('a domain whose sending is limited comes onto a port, at whose ingress hook somebody is', async (t) => {
  const tap = `ssw${process.pid}l`
  const limit = (xml: string) =>
    xml.replace(/<target dev=['"]ssw[0-9]+l['"]\/>/, "$&<bandwidth><outbound average='1000'/></bandwidth>")
  const domain = await daemon.domain('limited', {
    devices: `<interface type='ethernet'><mac address='52:54:00:0a:09:03'/><target dev='${tap}'/><model type='virtio'/></interface>`,
  })
  const taken = await take(await attach('limited'), domain.serial)
  rewriteImage(taken.seal.memoryFile, limit)
  writeFileSync(at('limited.xml'), limit(daemon.virsh('dumpxml', '--inactive', 'limited')))
  daemon.virsh('define', at('limited.xml'))
  const stored = daemon.virsh('dumpxml', '--inactive', 'limited')
  t.match(stored, /<outbound/)
  const links = new Links()
  t.teardown(() => {
    // Where it failed before a domain had it.
    if (links.find(tap) !== null) deleteTap(tap)
    links.close()
  })
  const disk = /<disk type='file' device='disk'>.*?<\/disk>/s
  for (const isStored of [true, false]) {
    daemon.virsh('destroy', 'limited')
    if (!isStored) daemon.virsh('undefine', 'limited')
    // As a switch does at a port's device.
    createTap(tap)
    quietLink(links, links.get(tap))
    const { control } = await hypervisor.load(loadOf(taken, { taps: [tap] }), soon(20_000))
    await control.resume(soon(5000))
    await daemon.runs(domain)
    t.notMatch(daemon.virsh('dumpxml', 'limited'), /<outbound/)
    const kept = daemon.virsh('dumpxml', '--inactive', 'limited')
    if (isStored) t.equal(kept.replace(disk, ''), stored.replace(disk, ''))
    t.match(kept, /<outbound average='1000'/, 'its owner’s limit is not forgotten')
    await control.close()
  }
  daemon.virsh('destroy', 'limited')
  daemon.virsh('undefine', 'limited')
})

t.test('snapshots of libvirt’s own within the image, and its checkpoints, are refused', async (t) => {
  const domain = await daemon.domain('kept')
  const machine = await attach('kept')
  daemon.virsh('checkpoint-create-as', 'kept', 'day1')
  t.match((await machine.inspect(soon(5000))).unsupported, [{ name: 'vda', reason: /1 checkpoint of it/ }])
  daemon.virsh('checkpoint-delete', 'kept', 'day1')
  daemon.virsh('snapshot-create-as', 'kept', 'before')
  const info = await machine.inspect(soon(5000))
  t.match(info.unsupported, [{ name: 'vda', reason: /before.*virsh snapshot-revert/ }])
  const directory = scratch()
  t.equal(await codeOf(machine.prepare({ directory, label: 's' }, soon(5000))), 'MACHINE_UNSUPPORTED')
  t.same(daemon.disks('kept'), { vda: domain.disk }, 'nothing was touched')
  daemon.virsh('snapshot-revert', 'kept', 'before')
  t.equal(daemon.virsh('domstate', 'kept'), 'running', 'and the owner can go back')
  daemon.virsh('snapshot-delete', 'kept', 'before')
  await machine.close()
  const again = await attach('kept')
  await take(again, domain.serial)
  await startsAgain(domain)
  await end(await attach('kept'), domain)
})

t.test('what stands in the way of a restore is told before anything is ended', async (t) => {
  const domain = await daemon.domain('named')
  const machine = await attach('named')
  const taken = await take(machine, domain.serial)
  const { definition } = taken
  const examine = () => hypervisor.examine!(definition, soon(10_000))
  t.same(await examine(), [], 'a former self that runs is none')
  await daemon.runs(domain)
  // It has snapshots of libvirt's own by now, in the overlay.
  daemon.virsh('snapshot-create-as', 'named', 'later')
  t.match(await examine(), [
    { code: 'RESTORE_FAILED', message: /snapshots within.*later/, action: /snapshot-delete named/ },
  ])
  daemon.virsh('snapshot-delete', 'named', 'later')
  daemon.virsh('managedsave', 'named')
  t.match(await examine(), [{ message: /managedsave/, action: /managedsave-remove named/ }])
  t.equal(await codeOf(hypervisor.load(loadOf(taken), soon(10_000))), 'RESTORE_FAILED')
  daemon.virsh('managedsave-remove', 'named')
  daemon.virsh('domrename', 'named', 'other')
  t.match(await examine(), [{ message: /under the name other/, action: /virsh domrename other named/ }])
  const stranger = await daemon.domain('named', { start: false })
  t.match(await examine(), [{ message: /another domain named/ }])
  daemon.virsh('undefine', stranger.name)
  daemon.virsh('domrename', 'other', 'named')
  const odd = {
    ...definition,
    xml: (definition as LibvirtDefinition).xml.replace(/machine='[^']*'/, "machine='pc-i440fx-99.0'"),
  }
  t.match(await hypervisor.examine!(odd as typeof definition, soon(10_000)), [
    { message: /does not take the definition/ },
  ])
  t.same(await examine(), [])
  const { control } = await hypervisor.load(loadOf(taken), soon(20_000))
  await control.resume(soon(5000))
  await daemon.runs(domain)
  await end(control, domain)
})

t.test('why a domain does not run is told in plain words', async (t) => {
  const domain = await daemon.domain('still')
  const machine = await attach('still')
  daemon.virsh('suspend', 'still')
  t.match(await machine.inspect(soon(5000)), { state: 'paused', stateDetail: /paused by its user/ })
  daemon.virsh('resume', 'still')
  await end(machine, domain)
})

t.test('a firmware’s variables are those of the cut, in a file of the machine’s own', async (t) => {
  const [code, vars] = [at('code.fd'), at('vars.fd')]
  // Any BIOS does as a flash: what counts is that the guest's flash comes back.
  copyFileSync('/usr/share/seabios/bios-256k.bin', code)
  const flash = (byte: number) => Buffer.alloc(128 << 10, byte)
  writeFileSync(vars, flash(1))
  const os = `<loader readonly='yes' type='pflash'>${code}</loader><nvram>${vars}</nvram>`
  const domain = await daemon.domain('flash', { os })
  const machine = await attach('flash')
  const taken = await take(machine, domain.serial)
  await machine.destroy(soon(5000))
  const runs = async () => {
    const { control } = await hypervisor.load(loadOf(taken), soon(20_000))
    await control.resume(soon(5000))
    await daemon.runs(domain)
    await control.destroy(soon(5000))
  }
  writeFileSync(vars, flash(2))
  await runs()
  t.ok(readFileSync(vars).equals(flash(1)), 'written since')
  rmSync(vars)
  await runs()
  t.ok(readFileSync(vars).equals(flash(1)), 'gone since')
  // As on another host, where that file is another machine's.
  daemon.virsh('undefine', 'flash', '--keep-nvram')
  writeFileSync(vars, flash(3))
  await runs()
  t.ok(readFileSync(vars).equals(flash(3)), 'another machine’s file is left alone')
  const own = /<nvram[^>]*>(.*)<\/nvram>/.exec(daemon.virsh('dumpxml', 'flash'))![1]!
  t.ok(readFileSync(own).equals(flash(1)))
  daemon.virsh('undefine', 'flash', '--nvram')
  // The firmware itself was fetched to where it goes with the snapshot.
  const { definition } = taken
  t.same(definition.files, [{ role: 'firmware', path: code }])
  const state = scratch('state')
  const fetched = path.join(state, 'images', 'abc')
  const directory = path.join(state, 'machines', 'vm0', 'e1')
  for (const made of [path.dirname(fetched), directory]) mkdirSync(made, { recursive: true })
  execFileSync('chmod', ['-R', 'a+rX', state])
  copyFileSync(code, fetched)
  rmSync(code)
  t.same(await hypervisor.examine!(definition, soon(10_000)), [])
  const { files: _, ...old } = definition
  t.match(await hypervisor.examine!(old, soon(10_000)), [{ message: /code\.fd \(firmware\)/ }])
  const files = new Map([[code, fetched]])
  const { control } = await hypervisor.load({ ...loadOf(taken), directory, files }, soon(20_000))
  await control.resume(soon(5000))
  rmSync(fetched)
  await startsAgain(domain)
  await control.destroy(soon(5000))
  daemon.virsh('undefine', 'flash', '--nvram')
})

t.test('a firmware that libvirt has chosen, and that the host of the restore has not', async (t) => {
  const [code, template, newer] = [at('chosen.fd'), at('template.fd'), at('newer.fd')]
  for (const file of [code, newer]) copyFileSync('/usr/share/seabios/bios-256k.bin', file)
  writeFileSync(template, Buffer.alloc(128 << 10, 1))
  const describe = (executable: string) =>
    writeFileSync(
      at('firmware/50-test.json'),
      JSON.stringify({
        description: 'a flash',
        'interface-types': ['uefi'],
        mapping: {
          device: 'flash',
          mode: 'split',
          executable: { filename: executable, format: 'raw' },
          'nvram-template': { filename: template, format: 'raw' },
        },
        targets: [{ architecture: 'x86_64', machines: ['pc-i440fx-*'] }],
        features: ['verbose-dynamic'],
        tags: [],
      }),
    )
  describe(code)
  const domain = await daemon.domain('chosen', { efi: true, os: `<nvram>${at('chosen-vars.fd')}</nvram>` })
  const machine = await attach('chosen')
  const taken = await take(machine, domain.serial)
  await end(machine, domain, '--nvram')
  const { definition } = taken
  t.same(definition.files, [{ role: 'firmware', path: code }])
  // As on another host, with another version of the firmware: under the same name, and under another.
  for (const here of [code, newer]) {
    const state = scratch('state')
    const fetched = path.join(state, 'images', 'abc')
    const directory = path.join(state, 'machines', 'vm0', 'e1')
    for (const made of [path.dirname(fetched), directory]) mkdirSync(made, { recursive: true })
    execFileSync('chmod', ['-R', 'a+rX', state])
    copyFileSync('/usr/share/seabios/bios-256k.bin', fetched)
    rmSync(code, { force: true })
    writeFileSync(here, Buffer.alloc(256 << 10, 0xff))
    describe(here)
    t.same(await hypervisor.examine!(definition, soon(10_000)), [])
    const files = new Map([[code, fetched]])
    const { control } = await hypervisor.load({ ...loadOf(taken), directory, files }, soon(20_000))
    await control.resume(soon(5000))
    rmSync(fetched)
    await startsAgain(domain)
    await end(control, domain, '--nvram')
  }
  rmSync(at('firmware/50-test.json'))
})

t.test('a load that is undone leaves the domain as it could be started before', async (t) => {
  const domain = await daemon.domain('undone')
  const machine = await attach('undone')
  const taken = await take(machine, domain.serial)
  await machine.destroy(soon(5000))
  const stored = daemon.virsh('dumpxml', '--inactive', 'undone')
  const undo = {
    async 'by the daemon that loaded it'(directory: string) {
      const { control } = await hypervisor.load({ ...loadOf(taken), directory }, soon(20_000))
      t.match(daemon.disks('undone', true).vda, directory)
      await control.destroy(soon(5000))
    },
    async 'by the next one'(directory: string) {
      const { control } = await hypervisor.load({ ...loadOf(taken), directory }, soon(20_000))
      await control.close()
      await hypervisor.endLoad({ directory, domain: 'undone', mayRun: true }, soon(10_000))
    },
    async 'by the next one, that finds it off'(directory: string) {
      await (await hypervisor.load({ ...loadOf(taken), directory }, soon(20_000))).control.close()
      daemon.virsh('destroy', 'undone')
      await hypervisor.endLoad({ directory, domain: 'undone', mayRun: false }, soon(10_000))
    },
  }
  for (const [how, run] of Object.entries(undo)) {
    const directory = scratch()
    await run(directory)
    rmSync(directory, { recursive: true })
    t.equal(daemon.virsh('domstate', 'undone'), 'shut off', how)
    t.equal(daemon.virsh('dumpxml', '--inactive', 'undone'), stored, how)
    daemon.virsh('start', 'undone')
    await daemon.runs(domain)
    daemon.virsh('destroy', 'undone')
  }
  daemon.virsh('undefine', 'undone')
  const { control } = await hypervisor.load(loadOf(taken), soon(20_000))
  await control.destroy(soon(5000))
  t.notMatch(daemon.virsh('list', '--all', '--name'), /undone/, 'one that was not known is not known')
})
