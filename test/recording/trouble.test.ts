// What goes wrong around a recording: disks that are full, readers that stop, threads that fail, keys. The network goes
// on, and files replay as far as they are whole.

import { spawn } from 'node:child_process'
import {
  closeSync,
  constants,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import { attempt, run, sleep, until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { stations, testFrame } from '../switch/station.js'
import { root, type SwitchFile, World } from '../switch/world.js'
import { Recording, replayed, snapswitch } from './processes.js'

t.setTimeout(fileLimit(180_000))

async function twoEndpoints(
  t: { teardown(end: () => Promise<void>): void },
  more: SwitchFile = {},
  nodeOptions: readonly string[] = [],
) {
  const world = World.for(t)
  await world.namespace('host')
  for (const [at, label] of ['one', 'two'].entries())
    await world.endpoint(label, 'host', { address: `10.68.0.${at + 1}` })
  const ports = { one: { device: 'one', vm: 'alpha' }, two: { device: 'two', vm: 'beta' } }
  const daemon = await world.switch('host', { networks: { lab0: { ports, ...more } } }, nodeOptions)
  return { world, daemon, socket: world.socket('host') }
}

t.test('a full disk: the recording ends with what is whole, and the network goes on', root, async (t) => {
  const { world, socket } = await twoEndpoints(t)
  const [sender] = stations(t, world, 'one', 'two')
  const disk = join(world.directory, 'disk')
  mkdirSync(disk)
  await run('mount', ['-t', 'tmpfs', '-o', 'size=128k', 'none', disk])
  t.teardown(() => attempt('umount', ['-l', disk]))
  const recording = await new Recording(socket, 'lab0', join(disk, 'full.pcapng')).begun()
  for (let id = 0; id < 400 && recording.child.exitCode === null; id++) sender.send(testFrame(id, { length: 1400 }))
  t.equal(await recording.ended, 1)
  t.match(recording.said, /^error OUTPUT_FAILED: .*full\.pcapng cannot be written: the disk is full/m)
  t.ok(statSync(recording.path).size <= 131_072)
  // The daemon has ended it, too: another one may begin.
  const next = await until('the end', 20_000, async () => {
    const other = new Recording(socket, 'lab0', join(world.directory, 'next.pcapng'))
    return other.begun().catch(() => undefined)
  })
  t.equal((await world.pings('one', '10.68.0.2')).code, 0)
  t.equal(await next.stop(), 0, next.said)
  t.match(await replayed(next.path), { same: true, end: 'asked' })
})

t.test('a reader that stops: there is a gap, and the recording goes on after it', root, async (t) => {
  const { world, daemon, socket } = await twoEndpoints(t)
  const [sender, receiver] = stations(t, world, 'one', 'two')
  const path = join(world.directory, 'stalled.pcapng')
  const recording = await new Recording(socket, 'lab0', path, '--buffer', '1').begun()
  const size = () => statSync(path).size
  recording.child.kill('SIGSTOP')
  for (let id = 0; id < 6000; id += 100) {
    for (let i = 0; i < 100; i++) sender.send(testFrame(id + i, { length: 1400 }))
    await until('the switch', 5000, async () => (await daemon.port('two')).counters.txFrames >= id + 100 || undefined)
    receiver.received()
  }
  const before = size()
  recording.child.kill('SIGCONT')
  // It goes on once all that was kept has been read: then what comes is in the file.
  await until('the end of the gap', 20_000, async () => {
    await world.pings('one', '10.68.0.2')
    return size() > before && readFileSync(path).includes('"missed":') ? true : undefined
  })
  t.equal((await world.pings('one', '10.68.0.2')).code, 0)
  t.equal(await recording.stop(), 1)
  t.match(recording.said, /^incomplete: there is a gap, where something found no room/m)
  const found = await replayed(path)
  t.match(found, { same: true, truncated: false, end: 'asked', gaps: { length: 1 } })
  t.ok(found.frames > 100 && found.frames < 6000, `${found.frames} frames`)
  t.ok(found.frames + found.gaps[0]!.missed >= 6000, 'all others are counted')
  t.match(await run('capinfos', ['-M', path], 60_000), new RegExp(`Number of packets: +${found.frames}\\b`))
  // Both parts are there: what came before the gap, and the pings after it.
  const packets = await run('tshark', ['-r', path, '-Y', 'icmp', '-T', 'fields', '-e', 'frame.number'], 60_000)
  t.ok(packets.trim().split('\n').length >= 2)
})

t.test('a pipe whose reader stops: Ctrl-C ends the recording all the same', root, async (t) => {
  const { world, daemon, socket } = await twoEndpoints(t)
  const [sender] = stations(t, world, 'one', 'two')
  const fifo = join(world.directory, 'pipe')
  await run('mkfifo', [fifo])
  const reader = spawn('cat', [fifo], { stdio: 'ignore' })
  t.teardown(() => reader.kill('SIGKILL'))
  const recording = await new Recording(socket, 'lab0', fifo).begun()
  t.teardown(() => recording.child.kill('SIGKILL'))
  // One that is stopped while it opens the pipe does not have it, and opens it again when it goes on.
  const descriptors = `/proc/${reader.pid}/fd`
  const has = () => readdirSync(descriptors).some((fd) => readlinkSync(join(descriptors, fd)) === fifo)
  await until('the reader', 10_000, () => has() || undefined, 10)
  reader.kill('SIGSTOP')
  for (let id = 0; id < 500; id++) t.equal(sender.send(testFrame(id, { length: 1400 })), null)
  await until('the switch', 5000, async () => (await daemon.port('two')).counters.txFrames >= 500 || undefined)
  t.equal(await recording.stop(), 1, recording.said)
  t.match(recording.said, /^incomplete: whoever reads has gone, or takes nothing/m)
})

t.test('a pipe whose reader is slow: all that was kept is written, however long the end takes', root, async (t) => {
  const { world, daemon, socket } = await twoEndpoints(t)
  const [sender, receiver] = stations(t, world, 'one', 'two')
  const fifo = join(world.directory, 'pipe')
  await run('mkfifo', [fifo])
  const fd = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK)
  t.teardown(() => closeSync(fd))
  const recording = await new Recording(socket, 'lab0', fifo).begun()
  t.teardown(() => recording.child.kill('SIGKILL'))
  for (let id = 0; id < 4000; id += 100) {
    for (let i = 0; i < 100; i++) sender.send(testFrame(id + i, { length: 1400 }))
    await until('the switch', 5000, async () => (await daemon.port('two')).counters.txFrames >= id + 100 || undefined)
    receiver.received()
  }
  const pieces: Buffer[] = []
  /** False: there is nothing now. */
  const read = (): boolean => {
    const piece = Buffer.alloc(65_536)
    try {
      const length = readSync(fd, piece)
      pieces.push(piece.subarray(0, length))
      return length > 0
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error
      return false
    }
  }
  recording.child.kill('SIGINT')
  // A little each second, for longer than a reader is waited for that takes nothing.
  for (let second = 0; second < 13; second++) {
    read()
    await sleep(1000)
  }
  await until('the end', 20_000, () => (!read() && recording.child.exitCode !== null) || undefined, 1)
  while (read()) {}
  t.equal(await recording.ended, 0, recording.said)
  const path = join(world.directory, 'slow.pcapng')
  writeFileSync(path, Buffer.concat(pieces))
  const found = await replayed(path)
  t.match(found, { same: true, truncated: false, end: 'asked' })
  t.ok(found.frames >= 4000, `${found.frames} frames`)
})

t.test('bounds: it ends by time and by size', root, async (t) => {
  const { world, socket } = await twoEndpoints(t)
  const timed = new Recording(socket, 'lab0', join(world.directory, 'timed.pcapng'), '--for', '300ms')
  t.equal(await timed.ended, 0, timed.said)
  t.match(await replayed(timed.path), { same: true, end: 'time' })
  const sized = await new Recording(socket, 'lab0', join(world.directory, 'sized.pcapng'), '--size', '20k').begun()
  const pings = world.try('one', 'ping', '-n', '-q', '-c', '200', '-i', '0.002', '-s', '1000', '10.68.0.2')
  t.equal(await sized.ended, 0, sized.said)
  await pings
  t.match(await replayed(sized.path), { same: true, end: 'size' })
})

t.test('the forwarding thread fails: the recording ends, and says so', root, async (t) => {
  const hook = pathToFileURL(join(import.meta.dirname, '..', 'switch', 'crash-hook.js')).href
  const { world, daemon, socket } = await twoEndpoints(t, {}, ['--import', hook])
  const recording = await new Recording(socket, 'lab0', join(world.directory, 'restarted.pcapng')).begun()
  t.equal((await world.pings('one', '10.68.0.2')).code, 0)
  process.kill(daemon.pid, 'SIGUSR2')
  // It fails at the next command.
  await daemon.client.status({ deadlineMs: patience(5000) }).catch(() => undefined)
  t.equal(await recording.ended, 1)
  t.match(recording.said, /^incomplete: the forwarding thread was started anew/m)
  t.notMatch(recording.said, / frames, /, 'how many there were nobody has said')
  t.match(await replayed(recording.path), { same: true, end: 'datapath-restarted' })
  await until('the way', 10_000, async () => (await world.pings('one', '10.68.0.2')).code === 0 || undefined)
})

t.test('a network with a key: only when it is allowed', root, async (t) => {
  const directory = World.for(t).directory
  const key = join(directory, 'key')
  writeFileSync(key, 'this is the key of the network of a test', { mode: 0o600 })
  const { world, socket } = await twoEndpoints(t, { controlKey: key })
  const refused = new Recording(socket, 'lab0', join(world.directory, 'refused.pcapng'))
  t.equal(await refused.ended, 1)
  t.match(refused.said, /^error RECORDING_KEY: /m)
  const allowed = await new Recording(socket, 'lab0', join(world.directory, 'allowed.pcapng'), '--with-key').begun()
  t.equal((await world.pings('one', '10.68.0.2')).code, 0)
  t.equal(await allowed.stop(), 0)
  t.match(await replayed(allowed.path), { same: true })
})

t.test('files that are none, and networks that are none', root, async (t) => {
  const { world, socket } = await twoEndpoints(t)
  const other = new Recording(socket, 'lab9', join(world.directory, 'none.pcapng'))
  t.equal(await other.ended, 1)
  t.match(other.said, /^error NETWORK_UNKNOWN: /m)
  const text = join(world.directory, 'text')
  writeFileSync(text, 'no recording')
  const replay = async (...args: string[]) => attempt(snapswitch, ['replay', ...args])
  t.match(await replay(text), { code: 1, stderr: /^error TRACE_INVALID: / })
  t.match(await replay(join(world.directory, 'missing')), { code: 1, stderr: /^error TRACE_UNREADABLE: / })
  t.match(await replay(text, '--from', 'frame:1'), { code: 2 })
  t.match(await replay(text, '--until', 'soon'), { code: 2 })
  // What is there stays: it may be no recording, or the recording itself.
  t.match(await replay(text, '--to', text), { code: 2, stderr: /would write over the recording/ })
  const somebodys = join(world.directory, 'other')
  writeFileSync(somebodys, 'somebody’s')
  t.match(await replay(text, '--to', somebodys), { code: 1, stderr: /^error TRACE_INVALID: / })
  t.equal(readFileSync(somebodys, 'utf8'), 'somebody’s')
  t.match(await replay('-', '--config', text), { code: 2, stderr: /a pipe will not do/ })
  t.equal(readFileSync(text, 'utf8'), 'no recording')
})
