// Machines that are no longer what their command line says: devices plugged in come back where they sat, devices
// unplugged stay away, and what cannot be told is refused.

import { rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import koffi from 'koffi'
import t from 'tap'
import { createQemuHypervisor } from '../../src/hypervisor/qemu/driver.js'
import { type Inventory, type LiveDevice, pciAddress, takeInventory } from '../../src/hypervisor/qemu/inventory.js'
import { type Running, rebuildCommandLine } from '../../src/hypervisor/qemu/rebuild.js'
import type { QemuDefinition } from '../../src/hypervisor/qemu/types.js'
import { type JsonObject, QmpClient } from '../../src/hypervisor/shared/qmp.js'
import { fileLimit } from '../patience.js'
import { bootGuest, makeDisk, readReport, soon, until } from './boot-guest.js'
import { bringBack, codeOf, scratch, take, takeWhile } from './machines.js'

const CLONE_NEWNET = 0x40000000
koffi.load('libc.so.6').func('int unshare(int)')(CLONE_NEWNET)

t.setTimeout(fileLimit(120_000))
const hypervisor = createQemuHypervisor()

const device = (id: string | null, driver: string, more: Partial<LiveDevice> = {}): LiveDevice => ({
  id,
  path: id === null ? '/machine/peripheral-anon/device[0]' : `/machine/peripheral/${id}`,
  driver,
  hotplugged: false,
  bus: '/machine/i440fx/pci.0',
  place: { addr: '03.0' },
  properties: {},
  ...more,
})

const running = (inventory: Partial<Inventory>, more: Partial<Running> = {}): Running => ({
  inventory: { devices: [], objects: [], chardevs: new Set(), cpus: { now: 1, initial: 1 }, ...inventory },
  network: [],
  addedDisks: [],
  blockNames: new Set(),
  tapOf: ({ ifname }) => ifname,
  ...more,
})

const rebuild = (argv: string, now: Running) => rebuildCommandLine('vm0', argv.split(' '), now).join(' ')
const refusal = (argv: string, now: Running): string => {
  try {
    return `not refused: ${rebuild(argv, now)}`
  } catch (error) {
    return (error as Error).message
  }
}

t.test('the command line of what is there', async (t) => {
  t.equal(pciAddress(0x30), '06.0')
  t.equal(pciAddress(0xfa), '1f.2')
  const plain = 'qemu -m 64 -object rng-builtin,id=r0 -device virtio-rng-pci,id=rng0 -device usb-ehci,id=usb'
  const both = [device('rng0', 'virtio-rng-pci'), device('usb', 'usb-ehci', { place: { addr: '04.0' } })]
  t.equal(rebuild(plain, running({ devices: both })), plain, 'the same when nothing has changed')
  t.equal(
    rebuild(plain, running({ devices: both.slice(1), objects: [{ id: 'r0', type: 'rng-builtin', properties: {} }] })),
    'qemu -m 64 -object rng-builtin,id=r0 -device usb-ehci,id=usb,addr=04.0,bus=pci.0',
    'what is left stays where it sits',
  )
  const json = 'qemu -device virtio-rng-pci,id=rng0 -device {"driver":"scsi-hd","id":"hd","drive":"d"}'
  const place = { addr: '03.0', 'scsi-id': 2, lun: 0 }
  t.equal(
    rebuild(json, running({ devices: [device('hd', 'scsi-hd', { bus: '/machine/peripheral/scsi/scsi.0', place })] })),
    'qemu -device {"driver":"scsi-hd","id":"hd","drive":"d","addr":"03.0","scsi-id":2,"lun":0,"bus":"scsi.0"}',
    'numbers are numbers in JSON',
  )
  const hot = device('hot', 'virtio-rng-pci', {
    hotplugged: true,
    properties: { addr: '07.0', rng: '/objects/r1', ats: false },
  })
  t.equal(
    rebuild(
      plain,
      running({
        devices: [...both, hot],
        objects: [{ id: 'r1', type: 'rng-random', properties: { filename: '/dev/urandom' } }],
      }),
    ),
    `${plain} -object rng-random,id=r1,filename=/dev/urandom -device virtio-rng-pci,id=hot,bus=pci.0,addr=07.0,rng=r1,ats=off`,
  )
  const nic = device('nic', 'e1000', { hotplugged: true, properties: { netdev: 'n1', mac: '52:54:00:00:00:01' } })
  const client = { netdev: 'n1', type: 'tap', ifname: 'tap1', fd: null, mac: null }
  t.match(
    rebuild(plain, running({ devices: [...both, nic] }, { network: [client, client] })),
    /-netdev tap,id=n1,ifname=tap1,script=no,downscript=no,queues=2 -device e1000,id=nic,bus=pci.0,netdev=n1/,
  )
  // A bus that was plugged in comes before what sits on it.
  const scsi = device('scsi', 'virtio-scsi-pci', { hotplugged: true })
  const disk = device('hd', 'usb-tablet', { hotplugged: true, bus: '/machine/peripheral/scsi/virtio-backend/scsi.0' })
  t.match(
    rebuild(plain, running({ devices: [disk, ...both, scsi] })),
    /id=scsi,bus=pci\.0 -device usb-tablet,id=hd,bus=scsi\.0$/,
  )
})

t.test('what cannot be told is refused', async (t) => {
  const argv = 'qemu -drive file=a.qcow2,if=virtio,id=d -device virtio-rng-pci,id=rng0 -device virtio-balloon-pci'
  const rng = device('rng0', 'virtio-rng-pci')
  t.match(refusal(argv, running({ devices: [rng] })), /without an id was unplugged/)
  t.match(refusal(argv, running({ devices: [device(null, 'x'), device(null, 'y')] })), /if=virtio would take its place/)
  const plain = 'qemu -device virtio-rng-pci,id=rng0'
  const hot = (properties: LiveDevice['properties'], driver = 'e1000') =>
    running({ devices: [rng, device('hot', driver, { hotplugged: true, properties })] })
  t.match(refusal(plain, hot({ netdev: 'n9' })), /hot was plugged in with the network backend n9 \(gone\)/)
  t.match(refusal(plain, hot({ drive: 'd9' })), /no disk that can be snapshot/)
  t.match(refusal(plain, hot({ chardev: 'c9' })), /chardev, c9, whose settings/)
  t.match(refusal(plain, hot({ rng: '/objects/egd' })), /object egd/)
  t.match(refusal(plain, hot({}, 'vfio-pci')), /what stands behind it cannot be saved/)
  t.match(refusal(plain, running({ devices: [rng], cpus: { now: 1, initial: 2 } })), /a processor .* was unplugged/)
})

const plug = async (qmp: QmpClient, ...commands: (readonly [string, JsonObject])[]) => {
  for (const command of commands) await qmp.execute(...command, soon(5000))
}

t.test(
  'devices, a disk, memory and a processor plugged in; a device unplugged: the restored machine is the same',
  async (t) => {
    const directory = scratch('guest')
    const second = path.join(directory, 'second.sock')
    const guest = await bootGuest({
      directory,
      extra: [
        ...['-qmp', `unix:${second},server=on,wait=off`, '-smp', '1,sockets=2,maxcpus=2', '-m', '64,slots=2,maxmem=1G'],
        ...[
          '-device',
          'virtio-rng-pci,id=cold',
          '-device',
          'virtio-balloon-pci,id=balloon,addr=0x0a',
          '-device',
          'virtio-scsi-pci,id=scsi,addr=0x0c',
        ],
      ],
      drive: (disk) => [
        '-drive',
        `file=${disk},format=qcow2,if=none,id=disk0`,
        '-device',
        'virtio-blk-pci,drive=disk0,id=vda',
      ],
    })
    t.teardown(() => guest.end())
    const data = path.join(directory, 'data.qcow2')
    makeDisk(data, 'qcow2')
    const qmp = await QmpClient.connect(second, soon(2000))
    await plug(
      qmp,
      ['object-add', { 'qom-type': 'rng-builtin', id: 'r1' }],
      ['device_add', { driver: 'virtio-rng-pci', id: 'hot', rng: 'r1', 'max-bytes': 1024, period: 1000 }],
      ['blockdev-add', { driver: 'qcow2', 'node-name': 'data', file: { driver: 'file', filename: data } }],
      ['device_add', { driver: 'scsi-hd', id: 'hd', bus: 'scsi.0', drive: 'data', serial: 'D,1' }],
      ['object-add', { 'qom-type': 'memory-backend-ram', id: 'm1', size: 128 << 20 }],
      ['device_add', { driver: 'pc-dimm', id: 'dimm1', memdev: 'm1' }],
      ['device_add', { driver: 'qemu64-x86_64-cpu', id: 'cpu1', 'socket-id': 1, 'core-id': 0, 'thread-id': 0 }],
    )
    // The guest has no ACPI to let go of a PCI device: taken away as after an unplug that it has answered.
    const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))
    const before = await takeInventory(qmp, soon(5000))
    const definition = (await machine.definition(soon(5000))) as QemuDefinition
    t.match(definition.argv.join(' '), /-device pc-dimm,id=dimm1/)
    const taken = await take(machine, guest.serial, 'plugged')
    t.same(taken.seal.disks.map(({ layers }) => path.basename(layers[0]!.file)).sort(), ['data.qcow2', 'disk.qcow2'])
    await machine.destroy(soon(5000))
    qmp.close()
    const back = await bringBack(hypervisor, taken, scratch('run'))
    await back.control.resume(soon(2000))
    const { count } = readReport(guest.serial)
    await until('the restored guest', () => readReport(guest.serial).count > count + 2)
    t.equal(readReport(guest.serial).complaints, '', 'memory and disk of one piece')
    const again = await take(back.control, guest.serial, 'again')
    const spec = back.spec as { qmp: string }
    await back.control.close()
    const restored = await QmpClient.connect(spec.qmp, soon(2000))
    const after = await takeInventory(restored, soon(5000))
    const sorted = (inventory: Inventory) =>
      inventory.devices
        .map(({ id, driver, bus, place }) => ({ id, driver, bus, place }))
        .sort((a, b) => String(a.id).localeCompare(String(b.id)))
    t.same(sorted(after), sorted(before), 'all devices, where they sat')
    t.equal(after.cpus?.now, 2)
    restored.close()
    const last = await hypervisor.attach('vm0', spec, soon(2000))
    await last.destroy(soon(5000))
    for (const { directory: made } of [taken, again]) rmSync(made, { recursive: true })
  },
)

t.test('plugged in with something that QEMU does not tell: refused before anything is touched', async (t) => {
  const directory = scratch('guest')
  const second = path.join(directory, 'second.sock')
  const guest = await bootGuest({ directory, extra: ['-qmp', `unix:${second},server=on,wait=off`] })
  t.teardown(() => guest.end())
  const qmp = await QmpClient.connect(second, soon(2000))
  t.teardown(() => qmp.close())
  await plug(
    qmp,
    ['netdev_add', { type: 'user', id: 'u1' }],
    ['device_add', { driver: 'e1000', id: 'nic9', netdev: 'u1' }],
  )
  const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))
  t.equal(await codeOf(machine.definition(soon(5000))), 'MACHINE_UNSUPPORTED')
  await machine.definition(soon(5000)).catch((error) => t.match(error.message, /nic9 was plugged in .*u1 \(user\)/))
  await machine.close()
})

t.test(
  'plugged in, or a disc changed, while a snapshot is prepared: it fails, and the next one is whole',
  async (t) => {
    const directory = scratch('guest')
    const second = path.join(directory, 'second.sock')
    const [iso, other] = ['first.iso', 'second.iso'].map((name) => path.join(directory, name)) as [string, string]
    for (const file of [iso, other]) writeFileSync(file, Buffer.alloc(1 << 16))
    const guest = await bootGuest({
      directory,
      extra: [
        ...['-qmp', `unix:${second},server=on,wait=off`, '-device', 'ide-cd,id=cd0,drive=cd'],
        ...['-drive', `file=${iso},format=raw,if=none,id=cd,media=cdrom`],
      ],
    })
    t.teardown(() => guest.end())
    const qmp = await QmpClient.connect(second, soon(2000))
    t.teardown(() => qmp.close())
    await plug(qmp, ['object-add', { 'qom-type': 'rng-builtin', id: 'r1' }])
    const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))
    t.teardown(() => machine.close())
    const insert = (filename: string) => plug(qmp, ['blockdev-change-medium', { id: 'cd0', filename, format: 'raw' }])
    const goesOn = async () => {
      const { count } = readReport(guest.serial)
      await until('the guest', () => readReport(guest.serial).count > count + 2)
      const { disks } = await machine.inspect(soon(5000))
      t.same(
        disks.map(({ layers }) => path.basename(layers[0]!.file)),
        ['disk.qcow2'],
        'on its own disk',
      )
    }
    const device = { driver: 'virtio-rng-pci', id: 'hot', rng: 'r1' }
    t.match(await takeWhile(machine, { before: () => plug(qmp, ['device_add', device]) }), {
      code: 'CAPTURE_FAILED',
      message: /the device hot \(virtio-rng-pci\) was plugged into vm0/,
    })
    await goesOn()
    t.match(await takeWhile(machine, { after: () => insert(other) }), {
      code: 'CAPTURE_FAILED',
      message: /a disc of vm0 was changed/,
    })
    await goesOn()
    const { media } = await machine.inspect(soon(5000))
    t.match(media, [{ file: other }])
    const definition = (await machine.definition(soon(5000))) as QemuDefinition
    t.match(definition.argv.join(' '), /id=hot/)
    await machine.prepare({ directory: scratch(), label: 'whole' }, soon(5000))
    await machine.pause(soon(2000))
    const { resumed, sealed } = machine.capture(soon(20_000))
    await resumed
    await insert(iso)
    t.match(await sealed, { disks: [{ name: 'disk0' }] }, 'what is done behind the cut is no concern of it')
  },
)
