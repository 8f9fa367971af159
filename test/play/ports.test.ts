// `snapswitch play` into ports of a running switch: frames enter as if the machine behind the port had sent them.

import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import t from 'tap'
import { until } from '../lab/command.js'
import { program } from '../lab/daemon.js'
import { fileLimit } from '../patience.js'
import { root, World } from '../switch/world.js'
import { capture, captureFile, numbered, play, startPlay } from './player.js'

t.setTimeout(fileLimit(120_000))

const VLAN_10 = [0x81, 0, 0, 10]

async function lab(t: { teardown(end: () => Promise<void>): void }) {
  const world = World.for(t)
  await world.namespace('host')
  for (const label of ['web', 'db', 'peer']) await world.endpoint(label, 'host')
  const daemon = await world.switch('host', {
    networks: {
      lab0: {
        ports: {
          web: { device: 'web', vlan: { pvid: 10, untagged: [10] } },
          db: { device: 'db', vlan: { tagged: [10] } },
          peer: { device: 'peer' },
        },
      },
    },
  })
  return { world, daemon, socket: ['--socket', world.socket('host')] as const }
}

/** The frame with its source in place of another. */
const from = (source: number, bytes: Uint8Array) => {
  bytes[11] = source
  return bytes
}

t.test('frames cross the switch as their port’s own, in order', root, async (t) => {
  const { world, daemon, socket } = await lab(t)
  const sent = Array.from({ length: 500 }, (_, i) => from(7, numbered(i, 60 + i)))
  const file = captureFile(
    world,
    'run.pcapng',
    sent.map((bytes) => ({ bytes, from: 'web', atMs: 0 })),
  )
  const came = await capture(world, 'db', 'eth0', sent.length, ['vlan', 'and', 'ether', 'proto', '0x88b6'])
  const before = await daemon.port('web')
  const { code, stdout, stderr } = await play(world, 'host', file, '--map', 'interfaces=ports', '-j', ...socket)
  t.equal(code, 0, stderr)
  t.match(JSON.parse(stdout), { frames: 500, switch: { frames: 500, refused: 0 } })
  const tagged = sent.map((bytes) =>
    Buffer.concat([bytes.subarray(0, 12), Uint8Array.from(VLAN_10), bytes.subarray(12)]),
  )
  t.same(await came(), tagged, 'in the VLAN of their port')
  const after = await daemon.port('web')
  t.equal(after.counters.rxFrames - before.counters.rxFrames, 500)
  const fdb = await daemon.client.fdb('lab0', { deadlineMs: 10_000 })
  t.match(
    fdb.find(({ mac }) => mac === '02:00:00:00:00:07'),
    { port: 'web', vlan: 10 },
    'the switch has learned where they came from',
  )
})

t.test('frames as long as the switch carries them are played, and no longer ones', root, async (t) => {
  const world = World.for(t)
  await world.namespace('host')
  for (const label of ['web', 'db']) await world.endpoint(label, 'host')
  await world.switch('host', { networks: { lab0: { ports: { web: { device: 'web' }, db: { device: 'db' } } } } })
  const twice = [0x88, 0xa8, 0, 6, ...VLAN_10]
  const fit = [
    numbered(1, 1514),
    numbered(2, 1518),
    numbered(3, 1522, VLAN_10),
    numbered(4, 1522, twice),
    numbered(5, 90, twice),
  ]
  const tooLong = [numbered(6, 1519), numbered(7, 1523, VLAN_10), numbered(8, 1523, twice)]
  const file = captureFile(
    world,
    'long.pcapng',
    [...tooLong, ...fit].map((bytes) => ({ bytes })),
  )
  const came = await capture(world, 'db', 'eth0', fit.length, ['ether', 'src', '02:00:00:00:00:01'])
  const { code, stdout } = await play(world, 'host', file, '--map', 'port:web', '--socket', world.socket('host'))
  t.equal(code, 1)
  t.match(stdout, /^5 frames sent.*\n(.*\n)*3 packets left out: longer than the MTU/)
  t.same(await came(), fit.map(Buffer.from))
})

t.test('a VLAN that a port is not in does not get in', root, async (t) => {
  const { world, daemon, socket } = await lab(t)
  const file = captureFile(world, 'x.pcapng', [{ bytes: numbered(1, 60, [0x81, 0, 0, 20]) }])
  t.equal((await play(world, 'host', file, '--map', 'port:db', ...socket)).code, 0)
  t.match((await daemon.port('db')).counters.drops, { vlan: 1 })
})

t.test('the address behind a port takes the place of another', root, async (t) => {
  const { world, socket } = await lab(t)
  const known = captureFile(world, 'known.pcapng', [{ bytes: from(9, numbered(1)) }])
  t.equal((await play(world, 'host', known, '--map', 'port:web', ...socket)).code, 0)
  const file = captureFile(world, 'x.pcapng', [{ bytes: numbered(2) }])
  const came = await capture(world, 'web', 'eth0', 1)
  const mac = ['--mac', '02:00:00:00:00:02=port:web', '--vlan', 'none=10']
  const { code, stderr } = await play(world, 'host', file, '--map', 'port:db', ...mac, ...socket)
  t.equal(code, 0, stderr)
  t.same(
    (await came()).map((bytes) => bytes.subarray(0, 6).toString('hex')),
    ['020000000009'],
  )
})

t.test('a daemon whose socket has another path here, as in a mount namespace of its own', root, async (t) => {
  const { world } = await lab(t)
  const file = captureFile(world, 'x.pcapng', [{ bytes: numbered(1) }])
  const elsewhere = mkdtempSync(join(tmpdir(), 'ssw-play-'))
  t.teardown(() => rmSync(elsewhere, { recursive: true, force: true }))
  const socket = basename(world.socket('host'))
  copyFileSync(file, join(elsewhere, 'x.pcapng'))
  writeFileSync(join(elsewhere, 'alone.sock'), '')
  mkdirSync(join(elsewhere, 'all'))
  const script = `
    mount --bind ${world.directory} ${elsewhere}/all
    mount --bind ${world.directory}/${socket} ${elsewhere}/alone.sock
    mount -t tmpfs none ${world.directory}
    exec ${program()} play ${elsewhere}/x.pcapng -m port:db --socket "$0"`
  const playBy = (path: string) => world.try('host', 'unshare', '-m', 'sh', '-ec', script, join(elsewhere, path))
  const played = await playBy(`all/${socket}`)
  t.equal(played.code, 0, played.stderr)
  const refused = await playBy('alone.sock')
  t.equal(refused.code, 1, 'no way to the socket of the play: an error, and an end')
  t.match(refused.stderr, /SYSCALL: connect to .*ENOENT/)
})

t.test('two ports of one capture, and a device beside them, keep their order', root, async (t) => {
  const { world, socket } = await lab(t)
  const ids = Array.from({ length: 300 }, (_, i) => i)
  const file = captureFile(
    world,
    'two.pcapng',
    ids.map((id) => ({ bytes: from(id % 2, numbered(id)), atMs: id / 10 })),
  )
  const came = await capture(world, 'db', 'eth0', 150, ['vlan', 'and', 'ether', 'proto', '0x88b6'])
  const maps = ['--map', 'mac:02:00:00:00:00:00=port:web', '--map', 'all=port:peer']
  const { code, stderr } = await play(world, 'host', file, ...maps, ...socket)
  t.equal(code, 0, stderr)
  t.same(
    (await came()).map((bytes) => bytes.readUInt16BE(18)),
    ids.filter((id) => id % 2 === 0),
  )
})

t.test('what is wrong is said, and nothing is left', root, async (t) => {
  const { world, daemon, socket } = await lab(t)
  const file = captureFile(
    world,
    'x.pcapng',
    [1, 2].map((id) => ({ bytes: numbered(id) })),
  )
  const nobody = await play(world, 'host', file, '--map', 'port:web', '--mac', '02:00:00:00:00:02=port:db', ...socket)
  t.match(nobody, { code: 1, stderr: /no address is known at port db/ })
  const unknown = await play(world, 'host', file, '--map', 'port:wbe', ...socket)
  t.match(unknown, { code: 1, stderr: /error PORT_UNKNOWN.*\n.*Did you mean web/ })
  const came = await capture(world, 'db', 'eth0', 1, ['vlan', 'and', 'ether', 'proto', '0x88b6'])
  const running = await startPlay(world, 'host', file, '--map', 'port:web', '--loop', '0', ...socket)
  await came()
  const files = daemon.openFiles()
  running.child.kill('SIGKILL')
  await running.closed
  await until('its end', 5000, () => (daemon.said().includes('the play is over') ? true : undefined))
  t.same(
    readdirSync(world.directory).filter((name) => name.includes('.play')),
    [],
  )
  // As many plays as one likes, one after another.
  for (let i = 0; i < 6; i++) t.equal((await play(world, 'host', file, '--map', 'port:web', ...socket)).code, 0)
  t.equal(daemon.openFiles(), files)
})

t.test('only so many at a time', root, async (t) => {
  const { world, daemon, socket } = await lab(t)
  const file = captureFile(world, 'slow.pcapng', [{ bytes: numbered(1) }, { bytes: numbered(2), atMs: 1e7 }])
  const args = [file, '--map', 'port:web', ...socket] as const
  const running = [1, 2, 3, 4].map(() => startPlay(world, 'host', ...args))
  await until('four plays', 10_000, () =>
    (daemon.said().match(/a capture is played/g)?.length ?? 0) === 4 ? true : undefined,
  )
  t.match(await play(world, 'host', ...args), { code: 1, stderr: /error DEVICE_BUSY/ })
  for (const one of running) await (await one).stop()
})

t.test('a switch that goes away ends it, and says so', root, async (t) => {
  const { world, daemon, socket } = await lab(t)
  const file = captureFile(
    world,
    'x.pcapng',
    [1, 2].map((id) => ({ bytes: numbered(id) })),
  )
  for (const end of ['stop', 'crash'] as const) {
    const came = await capture(world, 'db', 'eth0', 1, ['vlan', 'and', 'ether', 'proto', '0x88b6'])
    const running = await startPlay(world, 'host', file, '--map', 'port:web', '--loop', '0', ...socket)
    await came()
    await daemon[end]()
    await running.closed
    t.equal(running.child.exitCode, 1, end)
    t.match(running.stderr, /error (DEVICE_DOWN|SOCKET_UNREACHABLE)/, end)
    if (end === 'stop') await daemon.start()
  }
})
