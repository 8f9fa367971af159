// A machine's drives as they really are: who else writes to them, what a name leads to, what an image has that a
// snapshot cannot keep; discs that were changed; chains of any depth.

import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process'
import { closeSync, mkdirSync, openSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import t from 'tap'
import type { FrozenDisk, MachineControl, Medium } from '../../src/hypervisor/hypervisor.js'
import { createQemuHypervisor } from '../../src/hypervisor/qemu/driver.js'
import type { QemuDefinition } from '../../src/hypervisor/qemu/types.js'
import { freshMs, locator, openFilesOf, writersOf } from '../../src/hypervisor/shared/open-files.js'
import { type JsonObject, QmpClient } from '../../src/hypervisor/shared/qmp.js'
import { until as waitUntil } from '../lab/command.js'
import { fileLimit } from '../patience.js'
import { bootGuest, endWithUs, type Guest, makeDisk, readReport, soon, until } from './boot-guest.js'
import { bringBack, codeOf, scratch, sha256, type Taken, take } from './machines.js'

t.setTimeout(fileLimit(240_000))
const hypervisor = createQemuHypervisor()

const image = (file: string, ...more: string[]) =>
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', ...more, file, '4M'])

/** A guest with a second monitor, for what its user does behind our back. */
async function bootWith(t: Tap, directory: string, extra: readonly string[]) {
  const monitor = path.join(directory, 'user.sock')
  const drive = (disk: string) => [
    ...['-drive', `file=${disk},format=qcow2,if=none,id=disk0`],
    ...['-device', 'virtio-blk-pci,drive=disk0,bootindex=0'],
  ]
  const qmpOption = ['-qmp', `unix:${monitor},server=on,wait=off`]
  const guest = await bootGuest({ directory, drive, extra: [...qmpOption, ...extra] })
  t.teardown(() => guest.end())
  const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(5000))
  const qmp = await QmpClient.connect(monitor, soon(5000))
  t.teardown(() => qmp.close())
  const user = (command: string, args: JsonObject = {}) => qmp.execute(command, args, soon(10_000))
  return { guest, machine, user }
}
type Tap = Pick<typeof t, 'teardown'>

/** Why a drive cannot be snapshot, by the preflight; '' when it can. Whoever opened a file meanwhile is seen. */
async function reasonOf(machine: MachineControl, drive: string): Promise<string> {
  await pause(freshMs)
  return reasonAtOnce(machine, drive)
}

/** The same right after another preflight, which may have seen what is no more. */
async function reasonAtOnce(machine: MachineControl, drive: string): Promise<string> {
  const { unsupported } = await machine.inspect(soon(5000))
  return unsupported
    .filter(({ name }) => name === drive)
    .map(({ reason }) => reason)
    .join('; ')
}

/** A process that has a file open. */
async function holder(t: Tap, file: string, flags: string): Promise<ChildProcess> {
  const fd = openSync(file, flags)
  const child = spawn('sleep', ['1000'], { stdio: ['ignore', 'ignore', 'ignore', fd] })
  closeSync(fd)
  endWithUs(child.pid!)
  t.teardown(() => child.kill('SIGKILL'))
  return child
}

async function runsOn(guest: Guest): Promise<void> {
  const start = readFileSync(guest.serial).length
  await until('the guest to run on', () => readFileSync(guest.serial).length > start + 40)
}

t.test('who else writes to an image', async (t) => {
  const directory = scratch('shared')
  const file = (name: string) => path.join(directory, name)
  writeFileSync(file('shared.img'), Buffer.alloc(1 << 20))
  image(file('golden.qcow2'))
  image(file('top.qcow2'), '-b', file('golden.qcow2'), '-F', 'qcow2')
  const { guest, machine, user } = await bootWith(t, directory, [
    ...['-drive', `file=${file('shared.img')},format=raw,if=none,id=d0,file.locking=off`],
    ...['-device', 'virtio-blk-pci,drive=d0,share-rw=on'],
    ...['-drive', `file=${file('top.qcow2')},if=none,id=d1`, '-device', 'virtio-blk-pci,drive=d1'],
  ])
  t.same((await machine.inspect(soon(5000))).unsupported, [])
  const files = (await machine.inspect(soon(5000))).files.map((name) => path.basename(name)).sort()
  t.same(files, ['disk.qcow2', 'golden.qcow2', 'shared.img', 'top.qcow2'])

  await holder(t, file('golden.qcow2'), 'r')
  t.equal(await reasonOf(machine, 'd1'), '', 'a base may be shared to read')
  for (const [drive, name] of [
    ['d0', 'shared.img'],
    ['d1', 'golden.qcow2'],
  ] as const) {
    const writer = await holder(t, file(name), 'r+')
    t.match(await reasonOf(machine, drive), `${file(name)} is open for writing by sleep (process ${writer.pid})`)
    const store = scratch()
    t.equal(await codeOf(machine.prepare({ directory: store, label: 's' }, soon(5000))), 'MACHINE_UNSUPPORTED')
    t.equal(await codeOf(machine.definition(soon(5000))), 'MACHINE_UNSUPPORTED')
    writer.kill('SIGKILL')
    await until('the writer to be gone', () => writer.signalCode !== null)
    t.equal(await reasonAtOnce(machine, drive), '')
  }

  const loop = execFileSync('losetup', ['-f', '--show', file('shared.img')], { encoding: 'utf8' }).trim()
  t.teardown(() => spawnSync('losetup', ['-d', loop], { stdio: 'ignore' }))
  t.match(await reasonOf(machine, 'd0'), /by the loop device loop\d+/)

  const other = path.join(directory, 'other')
  mkdirSync(other)
  const drive = () => ['-drive', `file=${file('top.qcow2')},if=none,id=x,file.locking=off`]
  const rival = await bootGuest({ directory: other, drive, extra: ['-name', 'rival', '-S'], awaitBoot: false })
  t.match(await reasonOf(machine, 'd1'), `by the machine rival, qemu-system-x86 (process ${rival.pid})`)
  await rival.end()
  t.equal(await reasonOf(machine, 'd1'), '')

  // Within the machine: a second drive on the image, an export that writes, a block job.
  const again = { driver: 'file', filename: file('shared.img'), locking: 'off' }
  await user('blockdev-add', { driver: 'raw', 'node-name': 'again', file: again })
  t.match(await reasonOf(machine, 'd0'), `the machine has ${file('shared.img')} open twice`)
  await user('blockdev-del', { 'node-name': 'again' })
  const socket = { type: 'unix', data: { path: file('nbd.sock') } }
  await user('nbd-server-start', { addr: socket })
  const nodes = (await user('query-block')) as { device: string; inserted: { 'node-name': string } }[]
  const node = nodes.find(({ device }) => device === 'd1')!.inserted['node-name']
  await user('block-export-add', { type: 'nbd', id: 'e', 'node-name': node, writable: false })
  t.equal(await reasonOf(machine, 'd1'), '', 'an export that reads')
  await user('block-export-del', { id: 'e' })
  const shared = nodes.find(({ device }) => device === 'd0')!.inserted['node-name']
  execFileSync('losetup', ['-d', loop])
  await user('block-export-add', { type: 'nbd', id: 'f', name: 'f', 'node-name': shared, writable: true })
  t.match(await reasonOf(machine, 'd0'), /something besides its device writes to it/)
  await user('nbd-server-stop')
  await user('drive-mirror', { device: 'd1', 'job-id': 'm', target: file('copy.qcow2'), sync: 'full' })
  t.match(await reasonOf(machine, 'd1'), 'the block job m works on it')
  t.equal((await machine.inspect(soon(5000))).disks.find(({ name }) => name === 'd1')?.layers.length, 2)
  await user('block-job-cancel', { device: 'm' })
  await runsOn(guest)
  await machine.close()
})

t.test('a merge or a shortening of ours under way is no obstacle: a snapshot calls it off', async (t) => {
  const directory = scratch('jobs')
  const file = (name: string) => path.join(directory, name)
  image(file('base.qcow2'))
  for (const [name, below, written] of [
    ['middle', 'base', '4M'],
    ['top', 'middle', '1M'],
  ]) {
    image(file(`${name}.qcow2`), '-b', file(`${below}.qcow2`), '-F', 'qcow2')
    execFileSync('qemu-io', ['-c', `write 0 ${written}`, file(`${name}.qcow2`)])
  }
  const { guest, machine, user } = await bootWith(t, directory, [
    ...['-drive', `file=${file('top.qcow2')},if=none,id=d`, '-device', 'virtio-blk-pci,drive=d'],
  ])
  const chain = ['top', 'middle', 'base'].map((name) => ({ file: file(`${name}.qcow2`), format: 'qcow2' }))
  const jobs = async () => ((await user('query-block-jobs')) as { device: string }[]).map(({ device }) => device)
  const commands: Readonly<Record<string, JsonObject>> = {
    'block-commit': { device: 'd', base: file('base.qcow2') },
    'block-stream': { device: 'd', base: file('base.qcow2') },
  }
  for (const [command, args] of Object.entries(commands)) {
    for (const id of ['mine', 'snapswitch-x']) {
      await user(command, { ...args, 'job-id': id, speed: 1 })
      const { disks, unsupported } = await machine.inspect(soon(5000))
      const found = unsupported.map(({ name, reason }) => `${name}: ${reason}`).join()
      if (id === 'mine') t.match(found, 'the block job mine works on it', command)
      else t.equal(found, '', `${command} of ours`)
      t.match(disks.find(({ name }) => name === 'd')?.layers, chain, 'its chain is known')
      await user('block-job-cancel', { device: id, force: true })
      await waitUntil('the end of the job', 10_000, async () => ((await jobs()).length === 0 ? true : undefined))
    }
  }
  await runsOn(guest)
  await machine.close()
})

t.test('what a name leads to', async (t) => {
  const directory = scratch('names')
  const file = (name: string) => path.join(directory, name)
  for (const name of ['renamed', 'replaced', 'deleted', 'real', 'part'])
    writeFileSync(file(name), Buffer.alloc(1 << 20))
  symlinkSync(file('real'), file('link'))
  const drives = ['renamed', 'replaced', 'deleted', 'link'].flatMap((name) => [
    ...['-drive', `file=${file(name)},format=raw,if=none,id=${name}`],
  ])
  const loop = execFileSync('losetup', ['-f', '--show', file('part')], { encoding: 'utf8' }).trim()
  t.teardown(() => execFileSync('losetup', ['-d', loop]))
  symlinkSync(loop, file('device'))
  const { machine } = await bootWith(t, directory, [
    ...drives,
    ...['-drive', `driver=raw,offset=4096,size=8192,file.driver=file,file.filename=${file('real')},if=ide,media=cdrom`],
    ...['-drive', `driver=raw,offset=4096,file.driver=file,file.filename=${file('part')},if=none,id=part`],
    ...['-drive', `file=${file('device')},format=raw,if=none,id=device`],
    ...['-drive', 'driver=null-co,if=none,id=nothing'],
  ])
  renameSync(file('renamed'), file('renamed.2'))
  renameSync(file('replaced'), file('replaced.2'))
  writeFileSync(file('replaced'), 'another')
  rmSync(file('deleted'))
  const { disks, unsupported, warnings } = await machine.inspect(soon(5000))
  t.same(disks.find(({ name }) => name === 'link')?.layers, [{ file: file('real'), format: 'raw' }])
  const reasons = Object.fromEntries(unsupported.map(({ name, reason }) => [name, reason]))
  t.match(reasons, {
    renamed: `${file('renamed')} is not there`,
    replaced: `${file('replaced')} is not the file that the machine has open`,
    deleted: `${file('deleted')} is deleted`,
    part: `it is a part of ${file('part')}`,
    device: `${file('device')} is a device of the host`,
    nothing: 'null-co',
  })
  t.ok(Object.values(reasons).every((reason) => reason.length < 400))
  t.equal(warnings.length, 1, 'the read-only part of a file')
  await machine.close()

  // A process that sees another file under the path; one that sees ours.
  const script = `mount -t tmpfs none "${file('')}" && echo x >"${file('real')}" && exec 3<>"${file('real')}" && echo ok && exec sleep 1000`
  const child = spawn('unshare', ['--mount', 'sh', '-c', script], { stdio: ['ignore', 'pipe', 'inherit'] })
  endWithUs(child.pid!)
  t.teardown(() => child.kill('SIGKILL'))
  await new Promise((resolve) => child.stdout.once('data', resolve))
  const locate = locator(openFilesOf(child.pid!), '/')
  t.match(locate(file('real')), { reason: /is not the file that the machine has open.*sees other directories/ })
  // What root may not look at is made of FUSE or NFS; another error will do.
  symlinkSync('loop', file('loop'))
  t.match(locate(file('loop')), { reason: /loop cannot be looked at \(ELOOP\)/ })
  t.match(locate(file('none')), { reason: /none is not there/ })
  t.same(await writersOf([file('real')]), [], 'and it is no writer of ours')
  const same = await holder(t, file('real'), 'r+')
  t.match(locator(openFilesOf(same.pid!), '/')('real'), { path: file('real') }, 'relative names, wherever it is now')
  await pause(freshMs)
  t.match(await writersOf([file('link')]), [{ pid: same.pid }], 'by any name')
})

t.test('what an image has that a snapshot cannot keep', async (t) => {
  const directory = scratch('kept')
  const file = (name: string) => path.join(directory, name)
  for (const name of ['old', 'bitmap']) image(file(`${name}.qcow2`))
  const { guest, machine, user } = await bootWith(t, directory, [
    ...['-drive', `file=${file('bitmap.qcow2')},if=none,id=b`, '-device', 'virtio-blk-pci,drive=b'],
  ])
  const hmp = (line: string) => user('human-monitor-command', { 'command-line': line })
  const bitmap = { node: 'b', name: 'backup0' }
  await user('block-dirty-bitmap-add', { ...bitmap, persistent: true })
  t.match(await reasonOf(machine, 'b'), /dirty bitmap backup0/)
  await user('block-dirty-bitmap-remove', bitmap)
  t.equal(await reasonOf(machine, 'b'), '')

  t.equal(await hmp('savevm old'), '')
  const { unsupported, warnings } = await machine.inspect(soon(5000))
  t.same(unsupported, [])
  t.match(warnings.join(), /internal snapshot old: while the snapshot exists.*cannot load/)
  const taken = await take(machine, guest.serial, 's1')
  t.match(await hmp('loadvm old'), /old/, 'it cannot be loaded meanwhile')
  t.match(await machine.inspect(soon(5000)), { stateDetail: /loadvm/ }, 'and QEMU stops the machine')
  await user('cont')
  t.equal(await hmp('savevm new'), '')
  const { name, overlay, layers } = taken.seal.disks.find((disk) => disk.name === 'disk0')!
  t.equal(await codeOf(machine.collapse(name, layers[0]!.file, soon(10_000))), 'SNAPSHOT_NEEDED')
  t.equal(await codeOf(machine.checkCollapse(name, layers[0]!.file, soon(10_000))), 'SNAPSHOT_NEEDED')
  await hmp('delvm new')
  t.same(await machine.collapse(name, layers[0]!.file, soon(10_000)), [overlay])
  const data = taken.seal.disks.find((disk) => disk.name === 'b')!
  t.same(await machine.collapse('b', data.layers[0]!.file, soon(10_000)), [data.overlay])
  t.equal(await hmp('loadvm old'), '', 'afterwards it can')
  t.equal((await machine.inspect(soon(5000))).state, 'running')
  await machine.close()
})

t.test('a data file, and a throttled disk: there and back, and merged', async (t) => {
  const directory = scratch('data')
  const moved = scratch('moved')
  const file = (name: string) => path.join(directory, name)
  image(file('d.qcow2'), '-o', `data_file=${file('d.data')},data_file_raw=on`)
  image(file('t.qcow2'))
  writeFileSync(file('d2.raw'), Buffer.alloc(1 << 20))
  const throttle = { driver: 'throttle', 'node-name': 't', 'throttle-group': 'g' }
  const below = { driver: 'qcow2', file: { driver: 'file', filename: file('t.qcow2') }, 'detect-zeroes': 'on' }
  const { guest, machine } = await bootWith(t, directory, [
    ...['-drive', `file=${file('d.qcow2')},if=none,id=d`, '-device', 'virtio-blk-pci,drive=d'],
    ...['-object', '{"qom-type":"throttle-group","id":"g","limits":{"iops-total":500}}'],
    ...['-blockdev', JSON.stringify({ ...throttle, file: below })],
    ...['-device', 'virtio-blk-pci,drive=t,id=vt'],
    ...['-drive', `file=${file('d2.raw')},format=raw,if=virtio,throttling.iops-total=500,werror=stop,cache=none`],
  ])
  t.same((await machine.inspect(soon(5000))).disks.find(({ name }) => name === 'd')?.layers, [
    { file: file('d.qcow2'), format: 'qcow2', dataFile: file('d.data') },
  ])
  const taken = await take(machine, guest.serial, 's1')
  await machine.destroy(soon(5000))
  const digest = sha256(file('d.data'))
  // As on another host: the image still names the data file where it lay.
  for (const name of ['d.qcow2', 'd.data']) renameSync(file(name), path.join(moved, name))
  const disks = taken.seal.disks.map((disk): FrozenDisk => {
    const layers = disk.layers.map(({ file: was, format, dataFile }) => ({
      file: dataFile === undefined ? was : path.join(moved, 'd.qcow2'),
      format,
      ...(dataFile !== undefined && { dataFile: path.join(moved, 'd.data') }),
    }))
    return { ...disk, layers }
  })
  const again: Taken = { ...taken, seal: { ...taken.seal, disks } }
  const { control } = await bringBack(hypervisor, again, scratch('run'))
  await control.resume(soon(5000))
  await runsOn(guest)
  const info = await control.inspect(soon(5000))
  t.same(info.unsupported, [])
  t.equal(info.disks.length, 4)
  t.equal(info.disks.find(({ name }) => name === 'd')?.layers[1]?.dataFile, path.join(moved, 'd.data'))
  t.equal(sha256(path.join(moved, 'd.data')), digest)
  const { argv } = (await control.definition(soon(5000))) as QemuDefinition
  t.match(argv.join(' '), /throttling.iops-total=500,werror=stop,cache=none/)
  t.match(argv.join(' '), '"driver":"throttle"')
  for (const { name, layers } of info.disks) {
    t.same(await control.collapse(name, layers[1]!.file, soon(10_000)), [layers[0]!.file], name)
  }
  await runsOn(guest)
  // The argument that named the overlay names a file that is gone from the chain.
  const last = await take(control, guest.serial, 's2')
  await control.destroy(soon(5000))
  const { control: third } = await bringBack(hypervisor, last, scratch('run'))
  await third.resume(soon(5000))
  await runsOn(guest)
  t.equal(readReport(guest.serial).complaints, '')
  await third.destroy(soon(5000))
})

t.test('media: as they were at the cut', async (t) => {
  const directory = scratch('media')
  const file = (name: string) => path.join(directory, name)
  for (const name of ['one', 'two', 'floppy', 'inserted']) writeFileSync(file(name), Buffer.alloc(1440 << 10, name))
  image(file('base.qcow2'))
  image(file('ro.qcow2'), '-b', file('base.qcow2'), '-F', 'qcow2')
  const { guest, machine, user } = await bootWith(t, directory, [
    ...[
      '-drive',
      `file=${file('one')},format=raw,if=none,id=cd0,media=cdrom,cache=none`,
      '-device',
      'ide-cd,drive=cd0,id=changed',
    ],
    ...['-drive', `file=${file('one')},format=raw,if=ide,index=3,media=cdrom`],
    ...['-blockdev', `driver=raw,node-name=n,read-only=on,file.driver=file,file.filename=${file('one')}`],
    ...['-device', 'virtio-scsi-pci', '-device', 'scsi-cd,drive=n,id=ejected', '-device', 'scsi-cd,id=filled'],
    ...['-drive', `file=${file('floppy')},format=raw,if=floppy,read-only=on`],
    ...['-drive', `file=${file('ro.qcow2')},if=virtio,read-only=on`],
  ])
  const change = (id: string, name: string) =>
    user('blockdev-change-medium', { id, filename: file(name), format: 'raw', force: true })
  await change('changed', 'two')
  await change('filled', 'inserted')
  await user('eject', { id: 'ejected', force: true })
  await user('eject', { device: 'ide1-cd1', force: true })
  rmSync(file('one'))
  const medium = (name: string, of: string | null, removable = true): Medium => ({
    ...{ name, file: of === null ? null : file(of), format: 'raw', removable },
  })
  const expected = [
    medium('cd0', 'two'),
    medium('ejected', null),
    medium('filled', 'inserted'),
    medium('floppy0', 'floppy'),
    medium('ide1-cd1', null),
    {
      ...medium('virtio0', 'ro.qcow2', false),
      format: 'qcow2',
      backing: [{ file: file('base.qcow2'), format: 'qcow2' }],
    },
  ]
  const sorted = (media: readonly Medium[]) => [...media].sort((a, b) => (a.name < b.name ? -1 : 1))
  const { media } = await machine.inspect(soon(5000))
  t.same(sorted(media), expected)
  const taken = await take(machine, guest.serial, 's1')
  await machine.destroy(soon(5000))
  const directories = [scratch('run'), scratch('run')]
  let before = { ...taken, media: sorted(media) }
  for (const [round, run] of directories.entries()) {
    // One of them lies elsewhere on this host.
    const to = path.join(run, 'inserted')
    writeFileSync(to, readFileSync(before.media.find(({ name }) => name === 'filled')!.file!))
    const placed = before.media.map((one) => (one.name === 'filled' ? { ...one, file: to } : one))
    const { definition, seal } = before
    const request = { definition, memoryFile: seal.memoryFile, disks: seal.disks, media: placed, taps: [] }
    const { control } = await hypervisor.load({ ...request, directory: run }, soon(20_000))
    endWithUs(Number(control.incarnation!.split(':')[0]))
    await control.resume(soon(5000))
    await runsOn(guest)
    const now = sorted((await control.inspect(soon(5000))).media)
    t.same(now, placed, `restored ${round + 1} times`)
    before = { ...(await take(control, guest.serial, `r${round}`)), media: now }
    await control.destroy(soon(5000))
  }
})

t.test('a chain of 150 layers, in a machine that left its directory', async (t) => {
  const directory = scratch('deep')
  const depth = 150
  const file = (name: string) => path.join(directory, name)
  image(file('l0.qcow2'))
  for (let i = 1; i < depth; i++) image(file(`l${i}.qcow2`), '-u', '-b', file(`l${i - 1}.qcow2`), '-F', 'qcow2')
  makeDisk(file('disk.qcow2'), 'qcow2')
  const serial = file('serial')
  const qmp = file('qmp.sock')
  const pidfile = file('pid')
  execFileSync(
    'qemu-system-x86_64',
    [
      ...['-machine', 'pc,accel=tcg', '-m', '64', '-nodefaults', '-display', 'none', '-daemonize', '-pidfile', pidfile],
      ...['-serial', `file:${serial}`, '-qmp', `unix:${qmp},server=on,wait=off`],
      ...['-drive', 'file=disk.qcow2,if=none,id=disk0', '-device', 'virtio-blk-pci,drive=disk0,bootindex=0'],
      ...['-drive', `file=./l${depth - 1}.qcow2,if=none,id=deep`],
      ...['-device', 'virtio-blk-pci,drive=deep'],
    ],
    { cwd: directory, stdio: 'ignore' },
  )
  endWithUs(Number(readFileSync(pidfile, 'utf8')))
  await until('the guest', () => readReport(serial).count >= 2)
  let control: MachineControl = await hypervisor.attach('deep', { qmp }, soon(5000))
  const whole = (await control.inspect(soon(10_000))).disks.find(({ name }) => name === 'deep')!.layers
  t.same(
    whole.map((layer) => layer.file),
    Array.from({ length: depth }, (_, i) => file(`l${depth - 1 - i}.qcow2`)),
  )
  for (let round = 0; round < 2; round++) {
    const taken = await take(control, serial, `r${round}`)
    t.equal((taken.definition as QemuDefinition).directory, directory, 'where its relative names start from')
    await control.destroy(soon(5000))
    // The upper layers lie where no header says: QEMU's names of such images hold all that is below them, and grow past
    // 4 KiB.
    const elsewhere = scratch('elsewhere')
    const disks = taken.seal.disks.map((disk) => ({
      ...disk,
      layers: disk.layers.map((layer, i) => {
        if (i >= 40) return layer
        const to = path.join(elsewhere, `${disk.name}-${i}-${'x'.repeat(150)}`)
        execFileSync('cp', ['--reflink=auto', layer.file, to])
        return { ...layer, file: to }
      }),
    }))
    const placed = { ...taken, seal: { ...taken.seal, disks } }
    control = (await bringBack(hypervisor, placed, scratch('run'))).control
    await control.resume(soon(10_000))
    const start = readFileSync(serial).length
    await until('the restored guest', () => readFileSync(serial).length > start + 40)
    const { layers } = (await control.inspect(soon(10_000))).disks.find(({ name }) => name === 'deep')!
    t.equal(layers.length, depth + round + 1)
    t.same(
      layers.slice(1).map((layer) => layer.file),
      disks.find(({ name }) => name === 'deep')!.layers.map((layer) => layer.file),
    )
  }
  const { layers } = (await control.inspect(soon(10_000))).disks.find(({ name }) => name === 'deep')!
  t.equal((await control.collapse('deep', layers.at(-1)!.file, soon(60_000))).length, layers.length - 1)
  t.equal((await control.inspect(soon(5000))).disks.find(({ name }) => name === 'deep')!.layers.length, 1)
  await take(control, serial, 'last')
  t.equal(readReport(serial).complaints, '')
  await control.destroy(soon(5000))
})
