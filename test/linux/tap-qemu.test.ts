// What a QEMU that is stopped does with the frames in its TAP's queue: it takes one, and only one, from there. The
// residue step of a cut counts on that (src/linux/stats.ts). Needs qemu-system-x86_64; no guest is booted.

import { spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import t from 'tap'
import { libc } from '../../src/linux/libc.js'
import { Links } from '../../src/linux/link.js'
import { LinkCounterReader } from '../../src/linux/stats.js'
import { createTap } from '../../src/linux/tap.js'
import { fileLimit } from '../patience.js'
import { enterFreshNamespace, until } from './namespace.js'
import { writeSysctl } from './sysctl.js'
import { experimentalFrame, packetSocket, send } from './wire.js'

enterFreshNamespace()
t.setTimeout(fileLimit(60_000))

/** Long enough for QEMU's main loop to have read whatever it wants to. */
const settle = () => new Promise((resolve) => setTimeout(resolve, 300))

t.test('a stopped QEMU takes one frame', async (t) => {
  const links = new Links()
  const counters = new LinkCounterReader()
  const { index } = createTap('ssw-q')
  writeSysctl('ipv6/conf/ssw-q/disable_ipv6', '1')
  links.change(index, { up: true })
  const ours = packetSocket(index)
  const netdev = ['-netdev', 'tap,id=n,ifname=ssw-q,script=no,downscript=no', '-device', 'virtio-net-pci,netdev=n']
  const machine = [
    '-S',
    '-accel',
    'tcg',
    '-machine',
    'pc',
    '-m',
    '64',
    '-nodefaults',
    '-display',
    'none',
    '-qmp',
    'stdio',
  ]
  const qemu = spawn('qemu-system-x86_64', [...machine, ...netdev], { stdio: ['pipe', 'pipe', 'inherit'] })
  const exit = new Promise((resolve) => qemu.on('exit', resolve))
  t.teardown(async () => {
    qemu.kill('SIGKILL')
    await exit
    libc().close(ours)
    counters.close()
    links.close()
  })
  let answers = 0
  createInterface(qemu.stdout).on('line', (line) => {
    if ('return' in JSON.parse(line)) answers += 1
  })
  const command = async (execute: string) => {
    const wanted = answers + 1
    qemu.stdin.write(`${JSON.stringify({ execute })}\n`)
    await until(() => answers >= wanted, `an answer to ${execute}`)
  }
  await until(() => links.get('ssw-q').lowerUp, 'QEMU holds the TAP', 20_000)
  await command('qmp_capabilities')
  t.equal(counters.read(index).txPackets, 0)

  for (let round = 0; round < 10; round += 1) t.ok(send(ours, experimentalFrame()))
  const taken = (frames: number) => until(() => counters.read(index).txPackets >= frames, `${frames} frames taken`)
  await taken(1)
  await settle()
  t.equal(counters.read(index).txPackets, 1, 'one of ten, while stopped from the start')

  await command('cont')
  await settle()
  t.equal(counters.read(index).txPackets, 1, 'it runs, but its NIC has no driver yet')
  await command('stop')
  await taken(2)
  await settle()
  t.equal(counters.read(index).txPackets, 2, 'being stopped, it drops the one it kept and takes the next')
  t.equal(counters.read(index).txDropped, 0, 'and nobody counts the loss')
})
