// Trying whether an image loads: beside the machine that runs on, which must not notice; and one that does not load is
// told so.

import {
  appendFileSync,
  copyFileSync,
  existsSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { connect, createServer } from 'node:net'
import path from 'node:path'
import koffi from 'koffi'
import t from 'tap'
import type { LoadRequest } from '../../src/hypervisor/hypervisor.js'
import { createQemuHypervisor } from '../../src/hypervisor/qemu/driver.js'
import type { QemuMachine } from '../../src/hypervisor/qemu/machine.js'
import { forRehearsal } from '../../src/hypervisor/qemu/rehearsal.js'
import { splitArguments } from '../../src/hypervisor/shared/qemu-options.js'
import { fileLimit } from '../patience.js'
import { bootGuest, readReport, soon, until } from './boot-guest.js'
import { scratch, take } from './machines.js'

const CLONE_NEWNET = 0x40000000
koffi.load('libc.so.6').func('int unshare(int)')(CLONE_NEWNET)

t.setTimeout(fileLimit(120_000))
const hypervisor = createQemuHypervisor()

/** Where its modules are installed: a package of its own. */
const hasSpice = readdirSync('/usr/lib').some((name) => existsSync(`/usr/lib/${name}/qemu/ui-spice-core.so`))
/** A display that draws by SPICE, and says so on a socket. */
const spiceAt = (socket: string) =>
  hasSpice ? ['-spice', `unix=on,addr=${socket},disable-ticketing=on`, '-device', 'qxl-vga'] : []

t.test('deaf and mute', async (t) => {
  const argv =
    'qemu -m 64 -chardev socket,id=c,path=/s,server=on -chardev {"backend":"file","id":"f","path":"/l"} -chardev stdio,id=m,mux=on ' +
    '-serial file:/x -serial chardev:c -monitor stdio -parallel none -vnc :0 -spice port=5900 -display gtk -D /log -qmp unix:/q,server=on -audiodev spice,id=a,,1 -audio driver=wav,model=hda ' +
    '-netdev user,id=u,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=tcp::80-:80 -netdev socket,id=s,connect=127.0.0.1:1234 ' +
    '-nic stream,mac=52:54:00:00:00:01,model=e1000,server=on -net nic -net socket,listen=:1 -netdev tap,id=t -device e1000'
  t.equal(
    forRehearsal(splitArguments(argv.split(' ')))
      .map(({ option, value }) => `-${option} ${value}`)
      .join(' '),
    '-m 64 -chardev null,id=c -chardev null,id=f -chardev null,id=m,mux=on ' +
      '-serial null -serial chardev:c -monitor null -parallel none -audiodev none,id=a,,1 -audio none,model=hda ' +
      '-netdev user,id=u -netdev hubport,hubid=1034,id=s -nic hubport,hubid=1036,mac=52:54:00:00:00:01,model=e1000 ' +
      '-net nic -netdev tap,id=t -device e1000 -display none',
  )
})

t.test('a machine that runs on does not notice; a damaged image is told', async (t) => {
  const directory = scratch('guest')
  const at = (name: string) => path.join(directory, name)
  let connections = 0
  const peer = createServer(() => connections++).listen(at('peer.sock'))
  t.teardown(() => peer.close())
  const guest = await bootGuest({
    directory,
    extra: [
      ...['-netdev', 'tap,id=n0,ifname=rh0,script=no,downscript=no', '-device', 'virtio-net-pci,netdev=n0,romfile='],
      ...['-chardev', `socket,id=own,path=${at('own.sock')},server=on,wait=off`, '-serial', 'chardev:own'],
      ...[
        '-chardev',
        `socket,id=peer,path=${at('peer.sock')}`,
        '-device',
        'virtio-serial-pci',
        '-device',
        'virtserialport,chardev=peer',
      ],
      ...['-parallel', `file:${at('log')}`, '-vnc', `unix:${at('vnc.sock')}`, ...spiceAt(at('spice.sock'))],
      ...['-netdev', `stream,id=n1,server=on,addr.type=unix,addr.path=${at('net.sock')}`],
      ...['-device', 'virtio-net-pci,netdev=n1,romfile='],
      ...['-object', `filter-dump,id=dump,netdev=n0,file=${at('n0.pcap')}`, '-debugcon', `file:${at('debug')}`],
    ],
  })
  t.teardown(() => guest.end())
  const machine = await hypervisor.attach('vm0', { qmp: guest.qmp }, soon(2000))
  const taken = await take(machine, guest.serial)
  writeFileSync(at('log'), 'said')
  // Nothing comes: its link is down.
  appendFileSync(at('n0.pcap'), 'frames')
  const sockets = ['own', 'vnc', 'net', ...(hasSpice ? ['spice'] : [])].map((name) => at(`${name}.sock`))
  const kept = () => sockets.map((socket) => statSync(socket).ino)
  const inodes = kept()
  const files = readdirSync(directory).sort()
  const run = scratch('rehearsal')
  const { definition, seal } = taken
  const request: LoadRequest = {
    ...{ definition, memoryFile: seal.memoryFile, disks: seal.disks, taps: ['rh0'], directory: run, rehearsal: true },
  }
  const { control } = await hypervisor.load(request, soon(30_000))
  t.equal((await control.inspect(soon(2000))).state, 'paused')
  const { pid } = (control as QemuMachine).process!
  t.equal(readFileSync(`/proc/${pid}/oom_score_adj`, 'utf8').trim(), '1000', 'where memory runs out it goes first')
  const { count } = readReport(guest.serial)
  await until('the machine to run on', () => readReport(guest.serial).count > count + 3)
  await control.destroy(soon(5000))
  t.equal(readReport(guest.serial).complaints, '')
  t.equal(readFileSync(at('log'), 'utf8'), 'said', 'its log was not touched')
  t.match(readFileSync(at('n0.pcap'), 'latin1'), /frames$/, 'nor its capture of frames')
  t.equal(connections, 1, 'its peer was not called a second time')
  t.same(kept(), inodes, 'its sockets are its own')
  t.same(readdirSync(directory).sort(), files)
  const shell = connect(at('own.sock'))
  await new Promise<void>((resolve, reject) => shell.once('connect', () => resolve()).once('error', reject))
  shell.destroy()
  // The same image, cut off in the middle.
  const damaged = path.join(scratch('damaged'), 'memory.img')
  copyFileSync(seal.memoryFile, damaged)
  truncateSync(damaged, Math.floor(seal.memoryBytes / 2))
  rmSync(run, { recursive: true })
  const again = scratch('rehearsal')
  await t.rejects(hypervisor.load({ ...request, memoryFile: damaged, directory: again }, soon(30_000)), {
    code: 'RESTORE_FAILED',
  })
  // The caller removes the directory.
  t.same(readdirSync(again), ['dump.pcap'], 'nothing is left but its own capture of frames')
  // What a killed daemon leaves is found by its socket.
  const left = scratch('left')
  const started = await hypervisor.load({ ...request, directory: left }, soon(30_000))
  await started.control.close()
  t.equal(await hypervisor.endLoad({ directory: left, mayRun: false }, soon(5000)), true)
  t.notOk(existsSync(`/proc/${(started.control as QemuMachine).process!.pid}/exe`))
  await machine.close()
})
