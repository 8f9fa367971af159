// What a machine has besides disks and comes back with: its firmware and other files, found elsewhere; NICs with
// several queues; a second control socket, logs, relative names of a machine that has daemonized. And what stands in
// the way, said plainly.

import { execFileSync, spawnSync } from 'node:child_process'
import { copyFileSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import koffi from 'koffi'
import t from 'tap'
import { createQemuHypervisor } from '../../src/hypervisor/qemu/driver.js'
import type { QemuDefinition } from '../../src/hypervisor/qemu/types.js'
import { QmpClient } from '../../src/hypervisor/shared/qmp.js'
import { fileLimit } from '../patience.js'
import { bootGuest, endWithUs, makeDisk, readReport, soon, until } from './boot-guest.js'
import { bringBack, scratch, take } from './machines.js'

const CLONE_NEWNET = 0x40000000
koffi.load('libc.so.6').func('int unshare(int)')(CLONE_NEWNET)

t.setTimeout(fileLimit(120_000))
const hypervisor = createQemuHypervisor()

t.test('firmware and fw_cfg from elsewhere, two queues, a second control socket, a log', async (t) => {
  const directory = scratch('guest')
  const at = (name: string) => path.join(directory, name)
  copyFileSync('/usr/share/seabios/bios-256k.bin', at('own.bin'))
  writeFileSync(at('cfg'), 'settings')
  execFileSync('ip', ['tuntap', 'add', 'dev', 'mq0', 'mode', 'tap', 'multi_queue', 'vnet_hdr'])
  const guest = await bootGuest({
    directory,
    extra: [
      ...['-bios', 'own.bin', '-fw_cfg', `name=opt/test,file=${at('cfg')}`],
      ...['-netdev', 'tap,id=n0,ifname=mq0,script=no,downscript=no,queues=2'],
      ...['-device', 'virtio-net-pci,netdev=n0,mq=on,vectors=6,romfile='],
      ...['-qmp', `unix:${at('second.sock')},server=on,wait=off`, '-parallel', `file:${at('parallel.log')}`],
    ],
  })
  t.teardown(() => guest.end())
  writeFileSync(at('parallel.log'), 'said before')
  const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))
  t.equal((await machine.inspect(soon(2000))).nics.length, 1, 'one NIC, however many queues')
  const taken = await take(machine, guest.serial)
  const { files } = taken.definition as QemuDefinition
  t.same(files, [
    { role: 'firmware', path: at('own.bin') },
    { role: 'fw_cfg', path: at('cfg') },
  ])
  await machine.destroy(soon(5000))
  const elsewhere = scratch('elsewhere')
  const here = new Map((files ?? []).map((file) => [file.path, path.join(elsewhere, path.basename(file.path))]))
  for (const [from, to] of here) {
    copyFileSync(from, to)
    renameSync(from, `${from}.away`)
  }
  const back = await bringBack(hypervisor, taken, scratch('run'), ['mq0'], here)
  await back.control.resume(soon(2000))
  const { count } = readReport(guest.serial)
  await until('the restored guest', () => readReport(guest.serial).count > count + 2)
  t.equal(readReport(guest.serial).complaints, '')
  const second = await QmpClient.connect(at('second.sock'), soon(2000))
  t.match(await second.execute('query-status', {}, soon(2000)), { running: true }, 'the second socket is there again')
  second.close()
  t.match(readFileSync(at('parallel.log'), 'utf8'), /^said before/, 'the log goes on')
  t.equal((await back.control.inspect(soon(2000))).nics.length, 1)
  await back.control.destroy(soon(5000))
  // And a kernel that is gone is told before anything is touched.
  for (const file of here.values()) rmSync(file)
})

t.test('daemonized, with relative names', async (t) => {
  const directory = scratch('daemon')
  const at = (name: string) => path.join(directory, name)
  makeDisk(at('disk.qcow2'), 'qcow2')
  mkdirSync(at('sub'))
  copyFileSync('/usr/share/seabios/bios-256k.bin', at('sub/own.bin'))
  const started = spawnSync(
    'qemu-system-x86_64',
    [
      ...[
        '-machine',
        'pc,accel=tcg',
        '-m',
        '64',
        '-nodefaults',
        '-display',
        'none',
        '-daemonize',
        '-bios',
        'sub/own.bin',
      ],
      ...[
        '-chardev',
        'file,id=c,path=serial,append=on',
        '-serial',
        'chardev:c',
        '-qmp',
        'unix:qmp.sock,server=on,wait=off',
      ],
      ...['-pidfile', 'pid', '-drive', 'file=disk.qcow2,format=qcow2,if=virtio'],
    ],
    { cwd: directory, env: { ...process.env, PWD: directory }, encoding: 'utf8' },
  )
  t.equal(started.status, 0, started.stderr)
  endWithUs(Number(readFileSync(at('pid'), 'utf8')))
  await until('the guest', () => readReport(at('serial')).count >= 2)
  const machine = await hypervisor.attach('vm0', { qmp: at('qmp.sock') }, soon(2000))
  const taken = await take(machine, at('serial'))
  t.same((taken.definition as QemuDefinition).files, [{ role: 'firmware', path: at('sub/own.bin') }])
  t.equal(taken.seal.disks[0]!.layers[0]!.file, at('disk.qcow2'))
  await machine.destroy(soon(5000))
  const back = await bringBack(hypervisor, taken, scratch('run'))
  await back.control.resume(soon(2000))
  const { count } = readReport(at('serial'))
  await until('the restored guest', () => readReport(at('serial')).count > count + 2)
  await back.control.destroy(soon(5000))
})

t.test('a file that is gone; a machine that is paused', async (t) => {
  const directory = scratch('guest')
  const cfg = path.join(directory, 'cfg')
  writeFileSync(cfg, 'settings')
  const guest = await bootGuest({ directory, extra: ['-fw_cfg', `name=opt/test,file=${cfg}`] })
  t.teardown(() => guest.end())
  rmSync(cfg)
  const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))
  await t.rejects(machine.definition(soon(2000)), {
    code: 'MACHINE_UNSUPPORTED',
    message: /fw_cfg .*cfg is not there any more/,
  })
  await machine.pause(soon(2000))
  t.match((await machine.inspect(soon(2000))).stateDetail, /paused through its monitor/)
  await machine.resume(soon(2000))
  t.equal((await machine.inspect(soon(2000))).stateDetail, null)
  await machine.close()
})
