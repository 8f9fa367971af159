// The driver with other machines than the plainest: disks and NICs in every notation, layers that have moved, images
// that are damaged. Runs in a network namespace of its own, so that its taps are nobody else's.

import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import koffi from 'koffi'
import t from 'tap'
import type { FrozenDisk } from '../../src/hypervisor/hypervisor.js'
import { createQemuHypervisor } from '../../src/hypervisor/qemu/driver.js'
import type { QemuDefinition } from '../../src/hypervisor/qemu/types.js'
import { fileLimit } from '../patience.js'
import { bootGuest, makeDisk, readReport, sleep, soon, until } from './boot-guest.js'
import { bringBack, codeOf, list, scratch, type Taken, take } from './machines.js'

const CLONE_NEWNET = 0x40000000
koffi.load('libc.so.6').func('int unshare(int)')(CLONE_NEWNET)

t.setTimeout(fileLimit(120_000))
const hypervisor = createQemuHypervisor()

const addTap = (name: string, ...how: string[]) =>
  execFileSync('ip', ['tuntap', 'add', 'dev', name, 'mode', 'tap', ...how])

/** Takes a snapshot, ends the machine, brings it back, has it snapshot and brought back again; it must run on well. */
async function thereAndBack(t: Tap, guest: Awaited<ReturnType<typeof bootGuest>>, taps: string[][] = [[], []]) {
  const made: string[] = []
  let machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))
  for (const [round, names] of taps.entries()) {
    const taken = await take(machine, guest.serial, `r${round}`)
    made.push(taken.directory)
    const { count } = readReport(guest.serial)
    await until('the guest to run on', () => readReport(guest.serial).count > count + 2)
    await machine.destroy(soon(5000))
    const run = scratch('run')
    made.push(run)
    machine = (await bringBack(hypervisor, taken, run, names)).control
    await machine.resume(soon(2000))
    const start = readFileSync(guest.serial).length
    await until('the restored guest', () => readFileSync(guest.serial).length > start + 40)
    t.equal(readReport(guest.serial).complaints, '', `round ${round}: memory and disk of one piece`)
  }
  return { machine, made }
}

type Tap = Pick<typeof t, 'equal'>

const drives: Record<string, (disk: string) => string[]> = {
  'raw -drive without an id': (disk) => ['-drive', `file=${disk},format=raw,if=virtio`],
  'raw -hda': (disk) => ['-hda', disk],
  'qcow2 -drive, no cache flushes, writes by io_uring or threads': (disk) => [
    ...[
      '-drive',
      `file=${disk},format=qcow2,if=none,id=d,cache=unsafe,discard=unmap`,
      '-device',
      'virtio-blk-pci,drive=d',
    ],
  ],
  'qcow2 nested -blockdev': (disk) => [
    ...['-blockdev', `driver=qcow2,node-name=n,file.driver=file,file.filename=${disk}`],
    ...['-device', 'virtio-blk-pci,drive=n,id=disk0'],
  ],
  'qcow2 -blockdev nodes in JSON': (disk) => [
    ...['-blockdev', JSON.stringify({ driver: 'file', 'node-name': 'f', filename: disk })],
    ...['-blockdev', JSON.stringify({ driver: 'qcow2', 'node-name': 'n', file: 'f', discard: 'unmap' })],
    ...['-device', JSON.stringify({ driver: 'virtio-blk-pci', drive: 'n', id: 'disk0' })],
  ],
  'qcow2 -blockdev, without locks, by text': (disk) => [
    ...['-blockdev', `driver=file,node-name=f,filename=${disk},locking=off,aio-max-batch=64,cache.direct=no`],
    ...['-blockdev', 'driver=qcow2,node-name=n,file=f,detect-zeroes=on', '-device', 'virtio-blk-pci,drive=n'],
  ],
  'qcow2 -blockdev, without locks, in JSON': (disk) => [
    ...['-blockdev', JSON.stringify({ driver: 'file', 'node-name': 'f', filename: disk, locking: 'off' })],
    ...['-blockdev', 'driver=qcow2,node-name=n,file=f', '-device', 'virtio-blk-pci,drive=n'],
  ],
  'raw -blockdev, file node alone': (disk) => [
    ...['-blockdev', `driver=file,node-name=f,filename=${disk}`, '-device', 'virtio-blk-pci,drive=f'],
  ],
  'qcow2 with an I/O thread': (disk) => [
    ...['-object', 'iothread,id=io0', '-drive', `file=${disk},format=qcow2,if=none,id=d`],
    ...['-device', 'virtio-blk-pci,drive=d,iothread=io0'],
  ],
  'raw by a relative name': (disk) => ['-drive', `file=${path.basename(disk)},format=raw,if=virtio,id=d`],
}

for (const [name, drive] of Object.entries(drives)) {
  t.test(`disk: ${name}`, async (t) => {
    const format = name.startsWith('raw') ? 'raw' : 'qcow2'
    // An empty and a read-only drive beside it, which stay as they are.
    const guest = await bootGuest({
      format,
      drive: (disk) => [
        ...drive(disk),
        '-drive',
        'if=ide,index=2,media=cdrom',
        '-drive',
        `file=${import.meta.filename},format=raw,if=ide,index=3,media=cdrom`,
      ],
    })
    let made: string[] = []
    t.teardown(async () => {
      await guest.end()
      for (const directory of made) rmSync(directory, { recursive: true, force: true })
    })
    const { machine, ...rest } = await thereAndBack(t, guest)
    made = rest.made
    t.equal((await machine.inspect(soon(2000))).disks.length, 1)
    await machine.destroy(soon(5000))
  })
}

t.test('two disks, frozen at one instant; layers that lie elsewhere than they were made', async (t) => {
  const second = scratch('second')
  const data = path.join(second, 'data.img')
  makeDisk(data, 'raw')
  const guest = await bootGuest({ extra: ['-drive', `file=${data},format=raw,if=virtio,id=data`] })
  const other = scratch('other')
  const directories = [second, other, scratch('run'), scratch('run')]
  t.teardown(async () => {
    await guest.end()
    for (const directory of directories) rmSync(directory, { recursive: true, force: true })
  })
  let machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))
  let previous = await take(machine, guest.serial, 'first')
  for (const round of [0, 1]) {
    const taken = await take(machine, guest.serial, 'second')
    directories.push(previous.directory, taken.directory)
    t.same(taken.seal.disks.map(({ name }) => name).sort(), ['data', 'disk0'])
    await machine.destroy(soon(5000))
    // As on another host: every layer copied to another place, the old places gone.
    const store = path.join(other, `store${round}`)
    mkdirSync(store)
    const disks = taken.seal.disks.map(
      (disk): FrozenDisk => ({
        ...disk,
        layers: disk.layers.map(({ file, format }, i) => {
          const moved = path.join(store, `${disk.name}.${i}`)
          copyFileSync(file, moved)
          return { file: moved, format }
        }),
      }),
    )
    for (const { layers } of taken.seal.disks) for (const { file } of layers) renameSync(file, `${file}.away`)
    const moved: Taken = { ...taken, seal: { ...taken.seal, disks } }
    machine = (await bringBack(hypervisor, moved, directories[2 + round]!)).control
    const info = await machine.inspect(soon(2000))
    for (const disk of info.disks) {
      const own = disks.find(({ name }) => name === disk.name)!
      t.same(disk.layers.slice(1), own.layers, `${disk.name} lies on its copies`)
    }
    await machine.resume(soon(2000))
    const start = readFileSync(guest.serial).length
    await until('the restored guest', () => readFileSync(guest.serial).length > start + 40)
    t.equal(readReport(guest.serial).complaints, '')
    previous = taken
  }
  await machine.destroy(soon(5000))
})

t.test('NICs on taps: found in every notation, given other taps in order', async (t) => {
  for (const name of ['a0', 'a1', 'b0', 'b1', 'c0', 'c1']) addTap(name)
  t.teardown(() => {
    for (const name of ['a0', 'a1', 'b0', 'b1', 'c0', 'c1']) execFileSync('ip', ['link', 'del', name])
  })
  const mac = (n: number) => `52:54:00:00:01:0${n}`
  const guest = await bootGuest({
    extra: [
      ...[
        '-netdev',
        'tap,id=n0,ifname=a0,script=no,downscript=no',
        '-device',
        `virtio-net-pci,netdev=n0,mac=${mac(1)},romfile=`,
      ],
      ...['-nic', `tap,ifname=a1,script=no,downscript=no,mac=${mac(2)},model=virtio-net-pci`],
    ],
  })
  let made: string[] = []
  t.teardown(async () => {
    await guest.end()
    for (const directory of made) rmSync(directory, { recursive: true, force: true })
  })
  const first = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))
  t.same((await first.inspect(soon(2000))).nics, [
    { device: 'a0', mac: mac(1) },
    { device: 'a1', mac: mac(2) },
  ])
  await first.close()
  const { machine, ...rest } = await thereAndBack(t, guest, [
    ['b0', 'b1'],
    ['c0', 'c1'],
  ])
  made = rest.made
  const { nics } = await machine.definition(soon(2000))
  t.same(nics, [
    { device: 'c0', mac: mac(1) },
    { device: 'c1', mac: mac(2) },
  ])
  await machine.destroy(soon(5000))
})

t.test('a loaded machine says nothing by itself', async (t) => {
  for (const name of ['q0', 'q1']) {
    addTap(name)
    writeFileSync(`/proc/sys/net/ipv6/conf/${name}/disable_ipv6`, '1')
    execFileSync('ip', ['link', 'set', name, 'up'])
  }
  const guest = await bootGuest({
    extra: ['-netdev', 'tap,id=n0,ifname=q0,script=no,downscript=no', '-device', 'virtio-net-pci,netdev=n0,romfile='],
  })
  const run = scratch('run')
  t.teardown(() => guest.end())
  const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))
  const taken = await take(machine, guest.serial)
  await machine.destroy(soon(5000))
  const { control } = await bringBack(hypervisor, taken, run, ['q1'])
  // QEMU's own announcements would wait in its queue while it is paused, and come out at the next one after that.
  await control.resume(soon(2000))
  await sleep(1000)
  const text = execFileSync('ip', ['-j', '-s', 'link', 'show', 'dev', 'q1'], { encoding: 'utf8' })
  t.equal((JSON.parse(text) as { stats64: { rx: { packets: number } } }[])[0]!.stats64.rx.packets, 0)
  await control.destroy(soon(5000))
})

t.test('a load that fails leaves nothing behind, and says why', async (t) => {
  addTap('z0')
  const guest = await bootGuest({
    extra: ['-netdev', 'tap,id=n0,ifname=z0,script=no,downscript=no', '-device', 'virtio-net-pci,netdev=n0,romfile='],
  })
  const run = scratch('run')
  const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))
  const taken = await take(machine, guest.serial)
  t.teardown(async () => {
    await guest.end()
    for (const directory of [run, taken.directory]) rmSync(directory, { recursive: true, force: true })
  })
  await machine.destroy(soon(5000))
  const image = readFileSync(taken.seal.memoryFile)
  const attempt = async (what: string, code: string, change: Partial<Taken>, taps = ['z0'], message = /./) => {
    const error = await bringBack(hypervisor, { ...taken, ...change }, run, taps).then(
      () => ({ code: 'none', message: '' }),
      (e) => e as { code: string; message: string },
    )
    t.equal(error.code, code, what)
    t.match(error.message, message)
    t.same(list(run), [], `${what}: nothing left`)
    const running = readdirSync('/proc').filter((pid) => {
      try {
        return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes(run)
      } catch {
        return false
      }
    })
    t.same(running, [], `${what}: nothing runs`)
  }
  await attempt('too few taps', 'MACHINE_UNSUPPORTED', {}, [])
  await attempt('a tap that is taken', 'RESTORE_FAILED', {}, ['lo'], /lo/)
  const broken = (file: string, bytes: Buffer) => {
    writeFileSync(path.join(taken.directory, file), bytes)
    return { seal: { ...taken.seal, memoryFile: path.join(taken.directory, file) } }
  }
  await attempt('no image at all', 'RESTORE_FAILED', broken('text', Buffer.from('this is no machine')))
  await attempt('half an image', 'RESTORE_FAILED', broken('half', image.subarray(0, image.length >> 1)))
  await attempt('an empty image', 'RESTORE_FAILED', broken('empty', Buffer.alloc(0)))
  await attempt('an image that is not there', 'STORE_DAMAGED', {
    seal: { ...taken.seal, memoryFile: '/nowhere/memory.img' },
  })
  const definition = taken.definition as QemuDefinition
  const argv = definition.argv.map((word) => (word === '64' ? '128' : word))
  const other: QemuDefinition = { ...definition, argv }
  await attempt('another machine', 'RESTORE_FAILED', { definition: other }, ['z0'], /ram|RAM|size/i)
  const disks = taken.seal.disks.map((disk) => ({
    ...disk,
    layers: [{ file: '/nowhere/x', format: 'qcow2' as const }],
  }))
  await attempt('a layer that is not there', 'STORE_IO', { seal: { ...taken.seal, disks } })
  const { control } = await bringBack(hypervisor, taken, run, ['z0'])
  await control.resume(soon(2000))
  const start = readFileSync(guest.serial).length
  await until('the restored guest', () => readFileSync(guest.serial).length > start + 40)
  t.equal(readReport(guest.serial).complaints, '', 'and with all in place it loads')
  await control.destroy(soon(5000))
})

t.test('what cannot come back is refused beforehand', async (t) => {
  const guest = await bootGuest({
    extra: ['-device', 'ivshmem-plain,memdev=m', '-object', 'memory-backend-ram,id=m,size=1M,share=on'],
  })
  t.teardown(() => guest.end())
  const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))
  const store = scratch()
  const code = await codeOf(machine.prepare({ directory: store, label: 's' }, soon(2000)))
  t.match(code, /none|MACHINE_UNSUPPORTED/)
  t.comment(`ivshmem: ${code}`)
  await machine.close()
  rmSync(store, { recursive: true })
  const temporary = await bootGuest({ extra: ['-snapshot'] })
  t.teardown(() => temporary.end())
  const fleeting = await hypervisor.attach('vm1', { qmp: temporary.qmp }, soon(2000))
  t.equal(await codeOf(fleeting.definition(soon(2000))), 'MACHINE_UNSUPPORTED')
  await fleeting.close()
})
