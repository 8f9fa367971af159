// `snapswitch play` into devices: what comes out at the other end of a veth is what the capture has, byte by byte and
// in its order. tcpdump judges.

import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import t from 'tap'
import { ethernet, ip4, tcp } from '../frame/tunnels.js'
import { until } from '../lab/command.js'
import { fileLimit } from '../patience.js'
import { root, World } from '../switch/world.js'
import { fragmentable, packets } from './packets.js'
import { capture, captureFile, FILTER, numbered, play, type Recorded, startPlay } from './player.js'

t.setTimeout(fileLimit(180_000))

const VLAN = [0x81, 0, 0x20, 5]
const SERVICE = [0x88, 0xa8, 0, 6]

/**
 * Two devices, `one` and `two`, of a namespace with a player in it; their other ends are in namespaces of their own.
 */
async function stage(t: { teardown(end: () => Promise<void>): void }): Promise<World> {
  const world = World.for(t)
  await world.namespace('p')
  for (const label of ['one', 'two']) {
    await world.endpoint(label, 'p')
    await world.ip('p', 'link', 'set', label, 'up')
  }
  return world
}

t.test('frames of all lengths and tags come out as they were captured', root, async (t) => {
  const world = await stage(t)
  const frames = [14, 15, 60, 61, 64, 512, 513, 1500, 1514].map((length, i) => numbered(i, length))
  frames.push(
    numbered(100, 64, VLAN),
    numbered(101, 1518, VLAN),
    numbered(102, 90, SERVICE),
    numbered(103, 90, [...SERVICE, ...VLAN]),
  )
  for (let i = 0; i < 300; i++) frames.push(numbered(1000 + i, 60 + (i % 200)))
  const file = captureFile(
    world,
    'all.pcapng',
    frames.map((bytes) => ({ bytes, atMs: 0 })),
  )
  const packed = join(world.directory, 'all.gz')
  writeFileSync(packed, gzipSync(readFileSync(file)))
  for (const [name, args] of [
    [file, []],
    [packed, ['--top']],
  ] as const) {
    const came = await capture(world, 'one', 'eth0', frames.length, [])
    const { code, stdout, stderr } = await play(world, 'p', name, '--map', 'device:one', ...args)
    t.equal(code, 0, stderr)
    t.match(stdout, new RegExp(`^${frames.length} frames sent`))
    const found = await came()
    t.equal(found.length, frames.length)
    t.ok(
      frames.every((bytes, i) => found[i]?.equals(bytes) === true),
      'byte by byte, in order',
    )
  }
})

t.test('each packet goes where the first rule that fits says, and addresses change', root, async (t) => {
  const world = await stage(t)
  const all = Object.values(packets(Uint8Array.of(1, 2, 3)))
  const recorded: Recorded[] = all.flatMap((bytes, i) => [
    { bytes, from: 'west', atMs: i },
    { bytes, from: 'east', atMs: i, direction: 'inbound' },
    { bytes, from: 'east', atMs: i, direction: 'outbound' },
  ])
  const file = captureFile(world, 'two.pcapng', recorded)
  const one = await capture(world, 'one', 'eth0', all.length, ['ether', 'src', '06:00:00:00:00:09'])
  const two = await capture(world, 'two', 'eth0', all.length, ['ether', 'src', '06:00:00:00:00:09'])
  const { code, stdout } = await play(
    world,
    'p',
    file,
    ...['--map', 'interface:west=device:one', '--map', 'mac:02:00:00:00:00:01=device:two'],
    ...['--mac', '02:00:00:00:00:01=06:00:00:00:00:09', '--speed', '10'],
  )
  t.equal(code, 0)
  t.match(stdout, `${all.length} packets left out: of the other direction`)
  const [west, east] = [await one(), await two()]
  t.equal(west.length, all.length)
  t.same(west, east)
  t.ok(west.every((bytes) => bytes.subarray(6, 12).toString('hex') === '060000000009'))
})

t.test('loops, limits and rates', root, async (t) => {
  const world = await stage(t)
  const file = captureFile(
    world,
    'three.pcapng',
    [1, 2, 3].map((id) => ({ bytes: numbered(id) })),
  )
  const came = await capture(world, 'one', 'eth0', 11)
  for (const args of [
    ['--loop', '2'],
    ['--loop', '0', '--limit', '5', '--rate', '1000fps'],
  ]) {
    const { code, stderr } = await play(world, 'p', file, '--map', 'device:one', ...args)
    t.equal(code, 0, stderr)
  }
  const ids = (await came()).map((bytes) => bytes.readUInt16BE(14))
  t.same(ids, [1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2])
  const dry = await play(world, 'p', file, '--map', 'device:one', '--dry-run', '--loop', '3')
  t.match(dry, { code: 0, stdout: /^9 frames would be sent/ })
})

t.test('frames that are too long are told of, or cut', root, async (t) => {
  const world = await stage(t)
  await world.ip('p', 'link', 'set', 'one', 'mtu', '600')
  const long = packets(new Uint8Array(3000).fill(7))
  const file = captureFile(
    world,
    'long.pcapng',
    [long.TCP, long['TCP over IPv6'], fragmentable(long.UDP), numbered(1), numbered(2, 615)].map((bytes) => ({
      bytes,
    })),
  )
  const first = await play(world, 'p', file, '--map', 'device:one')
  t.match(first, { code: 1, stdout: /^1 frames sent.*\n(.*\n)*4 packets left out: longer than the MTU/ })
  const came = await capture(world, 'one', 'eth0', 18, ['ip', 'or', 'ip6'])
  const cut = await play(world, 'p', file, '--map', 'device:one', '--cut', '--top', '--limit', '20')
  t.match(cut, { code: 1, stdout: /1 packets left out: longer than the MTU/ })
  const pieces = await came()
  t.ok(pieces.every((bytes) => bytes.length <= 614))
  const check = await captureChecks(world, pieces)
  t.equal(check.bad, '', 'no wrong checksum')
  t.match(check.reassembled, /3008/, 'the fragments are a datagram again')
  const payload = pieces.filter((bytes) => bytes[23] === 6 && bytes[12] === 8).map((bytes) => bytes.length - 66)
  t.equal(
    payload.reduce((a, b) => a + b, 0),
    3000,
  )
})

t.test('a tag of 802.1ad has no room of its own at a device', root, async (t) => {
  const world = await stage(t)
  const fit = [numbered(1, 1518, VLAN), numbered(2, 1514, SERVICE), numbered(3, 1514, [...SERVICE, ...VLAN])]
  const segment = ethernet(ip4(tcp(4, new Uint8Array(1448).fill(7))), [...SERVICE, ...VLAN]).bytes
  const tooLong = [numbered(4, 1518, SERVICE), numbered(5, 1522, [...SERVICE, ...VLAN]), segment]
  const file = captureFile(
    world,
    'tags.pcapng',
    [...tooLong, ...fit].map((bytes) => ({ bytes })),
  )
  const from = ['ether', 'src', '02:00:00:00:00:01']
  const came = await capture(world, 'one', 'eth0', fit.length, from)
  const played = await play(world, 'p', file, '--map', 'device:one')
  t.match(played, { code: 1, stdout: /^3 frames sent.*\n(.*\n)*3 packets left out: longer than the MTU/ })
  t.same(await came(), fit.map(Buffer.from))
  const pieces = await capture(world, 'one', 'eth0', 2 + fit.length, from)
  const cut = await play(world, 'p', file, '--map', 'device:one', '--cut')
  t.match(cut, { code: 1, stdout: /2 packets left out: longer than the MTU/ })
  t.same(
    (await pieces()).map(({ length }) => length),
    [1514, 82, 1518, 1514, 1514],
  )
})

async function captureChecks(world: World, frames: readonly Buffer[]) {
  const file = captureFile(
    world,
    'pieces.pcapng',
    frames.map((bytes) => ({ bytes })),
  )
  const checks = ['ip', 'tcp', 'udp'].flatMap((one) => ['-o', `${one}.check_checksum:TRUE`])
  const bad = 'ip.checksum.status==0 || tcp.checksum.status==0 || udp.checksum.status==0'
  return {
    bad: await world.in('p', 'tshark', '-r', file, ...checks, '-Y', bad),
    reassembled: await world.in('p', 'tshark', '-r', file, '-Y', 'udp', '-T', 'fields', '-e', 'udp.length'),
  }
}

t.test('bad input is refused before anything is sent', root, async (t) => {
  const world = await stage(t)
  const good = captureFile(
    world,
    'good.pcapng',
    [1, 2, 3].map((id) => ({ bytes: numbered(id) })),
  )
  const file = (name: string, content: Uint8Array | string) => {
    writeFileSync(join(world.directory, name), content)
    return join(world.directory, name)
  }
  const bytes = readFileSync(good)
  const truncated = file('truncated', bytes.subarray(0, bytes.length - 10))
  const rawIp = Buffer.alloc(40)
  rawIp.writeUInt32LE(0xa1b2c3d4)
  rawIp.set([2, 0, 4, 0], 4)
  rawIp.set([101], 20)
  const none = 'device:one'
  for (const [path, map, code] of [
    [file('empty', ''), none, 'TRACE_INVALID'],
    [file('text', 'what is this, then?\n'.repeat(20)), none, 'TRACE_INVALID'],
    [file('raw', rawIp), none, 'TRACE_UNSUPPORTED'],
    [join(world.directory, 'missing'), none, 'TRACE_UNREADABLE'],
    [truncated, none, 'TRACE_INVALID'],
    [good, 'device:oen', 'DEVICE_MISSING'],
    [good, 'device:lo', 'DEVICE_UNSUPPORTED'],
    [good, 'port:web', 'SOCKET_UNREACHABLE'],
  ] as const) {
    const said = await play(world, 'p', path, '--map', map, '--socket', join(world.directory, 'no'))
    t.match(said, { code: 1, stderr: new RegExp(`error ${code}`) }, `${path} ${map}`)
    t.notMatch(said.stdout, /[1-9]\d* frames sent/)
  }
  await world.ip('p', 'link', 'set', 'two', 'down')
  t.match(await play(world, 'p', good, '--map', 'device:two'), { code: 1, stderr: /DEVICE_DOWN.*two is down/ })
  await world.ip('two', 'link', 'set', 'eth0', 'down')
  await world.ip('p', 'link', 'set', 'two', 'up')
  const unplugged = await play(world, 'p', good, '--map', 'device:two')
  t.match(unplugged, { code: 1, stderr: /DEVICE_DOWN.*nothing is at the other end/ })
  for (const wrong of [
    ['--map', 'web'],
    ['--rate', '7'],
    ['--speed', '0'],
    ['--vlan', '1=5000'],
    ['--loop', '-1'],
  ]) {
    t.equal((await play(world, 'p', good, '--map', none, ...wrong)).code, 2, wrong.join(' '))
  }
  t.equal((await play(world, 'p', good)).code, 2)
  const came = await capture(world, 'one', 'eth0', 2)
  t.match(await play(world, 'p', truncated, '--map', none, '--allow-truncated'), { code: 0, stdout: /^2 frames sent/ })
  t.equal((await came()).length, 2)
})

t.test('packets that were captured in part', root, async (t) => {
  const world = await stage(t)
  const file = captureFile(world, 'short.pcapng', [
    { bytes: numbered(1) },
    { bytes: numbered(2, 40), originalLength: 100 },
  ])
  const args = [file, '--map', 'device:one'] as const
  t.match(await play(world, 'p', ...args), { code: 1, stdout: /1 packets left out: captured in part/ })
  const came = await capture(world, 'one', 'eth0', 4)
  t.equal((await play(world, 'p', ...args, '--allow-truncated')).code, 0)
  t.equal((await play(world, 'p', ...args, '--pad')).code, 0)
  const padded = Buffer.concat([numbered(2, 40), new Uint8Array(60)])
  t.same(await came(), [numbered(1), numbered(2, 40), numbered(1), padded].map(Buffer.from))
})

t.test('Ctrl-C ends it at once, and the summary is there', root, async (t) => {
  const world = await stage(t)
  const file = captureFile(world, 'slow.pcapng', [
    { bytes: numbered(1) },
    { bytes: numbered(2) },
    { bytes: numbered(3), atMs: 1e7 },
  ])
  const came = await capture(world, 'one', 'eth0', 2)
  const running = await startPlay(world, 'p', file, '--map', 'device:one', '-j')
  await came()
  const report = JSON.parse(await running.stop())
  t.equal(running.child.exitCode, 130)
  t.match(report, { end: 'interrupted', frames: 2, targets: [{ kind: 'device', name: 'one', frames: 2 }] })

  // Also where it waits for a pipe.
  const fifo = join(world.directory, 'pipe')
  await world.in('p', 'mkfifo', fifo)
  const held = await world.start('p', 'sh', '-c', `exec 3<>${fifo}; cat ${file} >&3; exec sleep 1000`)
  const piped = await startPlay(world, 'p', fifo, '--map', 'device:one', '--top', '-j')
  await until('the socket', 5000, async () => ((await world.packetSockets('p')) > 0 ? true : undefined))
  t.match(JSON.parse(await piped.stop()), { end: 'interrupted' })
  await held.stop()
})

t.test('a device that goes away ends it', root, async (t) => {
  const world = await stage(t)
  const file = captureFile(
    world,
    'long.pcapng',
    [1, 2].map((id) => ({ bytes: numbered(id), atMs: id * 5 })),
  )
  const came = await capture(world, 'one', 'eth0', 1)
  const running = await startPlay(world, 'p', file, '--map', 'device:one', '--loop', '0')
  await came()
  await world.ip('p', 'link', 'del', 'one')
  await running.closed
  t.equal(running.child.exitCode, 1)
  t.match(running.stderr, /error DEVICE_DOWN/)
  t.match(running.stdout, /frames sent/)
})

t.test('a player that is killed leaves nothing behind', root, async (t) => {
  const world = await stage(t)
  const file = captureFile(
    world,
    'x.pcapng',
    [1, 2].map((id) => ({ bytes: numbered(id) })),
  )
  const came = await capture(world, 'one', 'eth0', 1, FILTER)
  const running = await startPlay(world, 'p', file, '--map', 'device:one', '--loop', '0')
  await came()
  t.ok((await world.packetSockets('p')) > 0)
  running.child.kill('SIGKILL')
  await running.closed
  await world.packetSocketsAre('p', 0)
  t.notOk(existsSync(`/proc/${running.child.pid}`))
  await until('nothing', 1000, () => true)
})
