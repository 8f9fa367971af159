// What goes wrong around a capture: readers that stop, disks that are full, daemons that end. The network goes on, and
// files hold what is whole.

import { spawn } from 'node:child_process'
import { mkdirSync, readdirSync, readlinkSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import { fileOutput, type Output } from '../../src/capture/files.js'
import { runCapture } from '../../src/cli/capture-run.js'
import { attempt, run, until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { stations, testFrame } from '../switch/station.js'
import { root, World } from '../switch/world.js'
import { Capturing, tshark } from './capturing.js'

t.setTimeout(fileLimit(180_000))

const network = { networks: { lab0: { ports: { one: { device: 'one' }, two: { device: 'two' } } } } }

async function twoEndpoints(t: { teardown(end: () => Promise<void>): void }, nodeOptions: readonly string[] = []) {
  const world = World.for(t)
  await world.namespace('host')
  await world.endpoint('one', 'host', { address: '10.68.0.1' })
  await world.endpoint('two', 'host', { address: '10.68.0.2' })
  const daemon = await world.switch('host', network, nodeOptions)
  return { world, daemon, socket: world.socket('host') }
}

t.test('a reader that stops: frames are lost to the capture, counted, and to nobody else', root, async (t) => {
  const { world, daemon, socket } = await twoEndpoints(t)
  const [sender, receiver] = stations(t, world, 'one', 'two')
  const path = join(world.directory, 'stalled.pcapng')
  const args = ['lab0', '-w', path, '--buffer', '1', '--port', 'one', 'ethertype', '0x88b6']
  const capturing = await Capturing.begin(t, socket, ...args)
  capturing.child.kill('SIGSTOP')
  const sent = 6000
  for (let id = 0; id < sent; id += 100) {
    for (let i = 0; i < 100; i++) t.equal(sender.send(testFrame(id + i, { length: 1400 })), null)
    await until('the switch', 5000, async () => (await daemon.port('two')).counters.txFrames >= id + 100 || undefined)
    receiver.received()
  }
  t.equal((await world.pings('one', '10.68.0.2')).code, 0)
  capturing.child.kill('SIGCONT')
  t.equal(await capturing.stop(), 0, capturing.stderr)
  const [, packets, lost] = (/(\d+) packets; (\d+) lost/.exec(capturing.stderr) ?? []).map(Number)
  t.ok(packets! > 100)
  t.ok(lost! > 100)
  t.equal(packets! + lost!, sent)
  const statistics = await run('tshark', ['-r', path, '-q', '-z', 'io,stat,0'])
  t.match(statistics, /Frames/)
  t.equal((await tshark(path)).length, packets)
})

t.test('a pipe whose reader stops: Ctrl-C ends the capture all the same', root, async (t) => {
  const { world, socket } = await twoEndpoints(t)
  const [sender] = stations(t, world, 'one', 'two')
  const fifo = join(world.directory, 'pipe')
  await run('mkfifo', [fifo])
  const reader = spawn('cat', [fifo], { stdio: 'ignore' })
  t.teardown(() => reader.kill('SIGKILL'))
  const capturing = await Capturing.begin(t, socket, 'lab0', '-w', fifo)
  // One that is stopped while it opens the pipe does not have it, and opens it again when it goes on.
  const descriptors = `/proc/${reader.pid}/fd`
  const has = () => readdirSync(descriptors).some((fd) => readlinkSync(join(descriptors, fd)) === fifo)
  await until('the reader', 10_000, () => has() || undefined, 10)
  reader.kill('SIGSTOP')
  for (let id = 0; id < 500; id++) t.equal(sender.send(testFrame(id, { length: 1400 })), null)
  t.equal((await world.pings('one', '10.68.0.2')).code, 0)
  t.equal(await capturing.stop(), 0, capturing.stderr)
  t.match(capturing.stderr, /packets; \d+/)
})

t.test('a disk that is slow: the end waits for it, and the file is whole', root, async (t) => {
  const { world, socket } = await twoEndpoints(t)
  const [sender] = stations(t, world, 'one', 'two')
  const path = join(world.directory, 'slow.pcapng')
  const file = await fileOutput(path)
  let shown = 0
  let isWriting = false
  let looks = 0
  let closedWhileWriting = false
  let release: () => void = () => undefined
  const released = new Promise<void>((resolve) => {
    release = resolve
  })
  const output: Output = {
    write: async (blocks) => {
      isWriting = true
      // The last frames: with them the capture has enough, and ends.
      if (shown >= 10) await released
      await file.write(blocks)
      isWriting = false
    },
    close: async () => {
      closedWhileWriting ||= isWriting
      await file.close()
    },
    abandon: () => file.abandon(),
    get isAtDisk() {
      looks++
      return isWriting
    },
  }
  const capturing = runCapture({
    socket,
    network: 'lab0',
    request: { filter: 'in and port one and ethertype 0x88b6' },
    count: 10,
    output: async () => output,
    show: () => shown++,
    begun: () => {
      for (let id = 0; id < 10; id++) sender.send(testFrame(id))
    },
  })
  // They come once a second; a reader would have been given up after three.
  await until('looks', 20_000, () => looks > 5 || closedWhileWriting || undefined)
  release()
  t.match(await capturing, { packets: 10, lost: 0, reason: null, complete: true })
  t.notOk(closedWhileWriting)
  t.equal((await tshark(path)).length, 10)
})

t.test('a reader that has gone ends the capture, and the switch knows', root, async (t) => {
  const { world, daemon, socket } = await twoEndpoints(t)
  const capturing = await Capturing.begin(t, socket, 'lab0', '-w', '-')
  capturing.child.stdout!.destroy()
  for (let i = 0; i < 20 && capturing.isRunning; i++) await world.pings('one', '10.68.0.2')
  t.equal(await capturing.ended, 0, capturing.stderr)
  const list = () => daemon.client.captures({ deadlineMs: patience(5000) })
  await until('the end', 5000, async () => (await list()).length === 0 || undefined)
})

t.test('a full disk: the capture ends with what is whole, and the network goes on', root, async (t) => {
  const { world, daemon, socket } = await twoEndpoints(t)
  const [sender] = stations(t, world, 'one', 'two')
  const disk = join(world.directory, 'disk')
  mkdirSync(disk)
  await run('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'none', disk])
  t.teardown(() => attempt('umount', ['-l', disk]))
  const path = join(disk, 'full.pcapng')
  const capturing = await Capturing.begin(t, socket, 'lab0', '-w', path)
  for (let id = 0; id < 200 && capturing.isRunning; id++) t.equal(sender.send(testFrame(id, { length: 1400 })), null)
  t.equal(await capturing.ended, 1)
  t.match(capturing.stderr, /^error OUTPUT_FAILED: .*full\.pcapng cannot be written: the disk is full/m)
  t.ok(statSync(path).size <= 65_536)
  const info = await attempt('capinfos', ['-c', path])
  t.equal(info.code, 0, info.stdout + info.stderr)
  t.equal((await world.pings('one', '10.68.0.2')).code, 0)
  const list = () => daemon.client.captures({ deadlineMs: patience(5000) })
  await until('the end', 5000, async () => (await list()).length === 0 || undefined)
})

t.test('the forwarding thread fails, and the capture goes on with the next one', root, async (t) => {
  const hook = pathToFileURL(join(import.meta.dirname, '..', 'switch', 'crash-hook.js')).href
  const { world, daemon, socket } = await twoEndpoints(t, ['--import', hook])
  const path = join(world.directory, 'restarted.pcapng')
  const capturing = await Capturing.begin(t, socket, 'lab0', '-w', path, 'ip')
  t.equal((await world.pings('one', '10.68.0.2')).code, 0)
  daemon.signal('SIGUSR2')
  await until('the restart', 5000, async () => {
    const status = await daemon.client.status({ deadlineMs: patience(5000) }).catch(() => undefined)
    return status?.datapathRestarts === 1 ? true : undefined
  })
  t.equal((await world.pings('one', '10.68.0.2')).code, 0)
  t.equal(await capturing.stop(), 0, capturing.stderr)
  t.equal((await tshark(path, 'icmp.type == 8 && frame.packet_flags_direction == 1')).length, 6)
})

t.test('the daemon ends: stopped, it says so; killed, the file is whole', root, async (t) => {
  const { world, daemon, socket } = await twoEndpoints(t)
  const paths = ['stopped', 'killed'].map((name) => join(world.directory, `${name}.pcapng`))
  for (const path of paths) {
    const capturing = await Capturing.begin(t, socket, 'lab0', '-w', path, 'ip')
    t.equal((await world.pings('one', '10.68.0.2')).code, 0)
    // What is under way when it is killed is lost.
    await until('the packets', 10_000, async () => (await tshark(path, 'icmp')).length === 12 || undefined)
    if (path === paths[0]) t.equal(await daemon.stop(), 0)
    else await daemon.crash()
    t.equal(await capturing.ended, 1)
    t.match(
      capturing.stderr,
      path === paths[0] ? /ended by the switch: the switch is stopping/ : /error SOCKET_UNREACHABLE/,
    )
    t.equal((await run('capinfos', ['-c', path])).includes('Number of packets'), true)
    await daemon.start()
  }
})
