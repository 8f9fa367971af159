// `snapswitch play --expect`: what comes out is compared with a capture, at devices and at ports of a switch.

import t from 'tap'
import { fileLimit } from '../patience.js'
import { root, World } from '../switch/world.js'
import { captureFile, numbered, play } from './player.js'

t.setTimeout(fileLimit(120_000))

const VLAN_10 = [0x81, 0, 0, 10]
/** How long what does not come is waited for. */
const SETTLE = ['--settle', '300ms']

t.test('at a device', root, async (t) => {
  const world = World.for(t)
  await world.namespace('p')
  await world.cable(['p', 'in'], ['p', 'out'])
  await world.ip('p', 'link', 'set', 'out', 'up')
  const ids = Array.from({ length: 200 }, (_, i) => i)
  const frames = ids.map((id) => ({ bytes: numbered(id, 60 + id, id % 3 === 0 ? VLAN_10 : []), atMs: 0 }))
  const file = captureFile(world, 'sent.pcapng', frames)
  const playAndExpect = (played: string, expected: string, ...args: string[]) =>
    play(world, 'p', played, '--map', 'device:in', '--expect', expected, '--at', 'device:out', ...SETTLE, ...args)
  const run = (expected: string, ...args: string[]) => playAndExpect(file, expected, ...args)

  const same = await run(file, '-j')
  t.equal(same.code, 0, same.stderr)
  const counts = { lost: 0, doubled: 0, reordered: 0, changed: 0, late: 0, missed: 0 }
  t.match(JSON.parse(same.stdout), { frames: 200, expected: [{ name: 'out', expected: 200, found: 200, ...counts }] })

  const changed = Uint8Array.from(frames[7]!.bytes)
  changed[40] ^= 0xff
  const other = [
    ...frames.slice(0, 7),
    { bytes: changed },
    frames[9]!,
    frames[8]!,
    ...frames.slice(10),
    { bytes: numbered(999) },
  ]
  const differs = await run(captureFile(world, 'other.pcapng', other), '-j')
  t.equal(differs.code, 1)
  t.match(JSON.parse(differs.stdout).expected[0], {
    lost: 1,
    changed: 1,
    reordered: 1,
    told: [
      { kind: 'reordered', packet: 9 },
      { kind: 'changed', packet: 8, words: /from 40 to 40/ },
      { kind: 'lost', packet: 201 },
    ],
  })
  const twice = await run(file, '--loop', '2')
  t.match(twice, { code: 1, stdout: /out: doubled: packet 1 came again/ })
  const at = (name: string, ...times: number[]) =>
    captureFile(
      world,
      name,
      times.map((atMs, i) => ({ ...frames[i]!, atMs })),
    )
  t.match(await playAndExpect(at('slow.pcapng', 0, 5000), at('quick.pcapng', 0, 0), '--late', '1s'), {
    code: 1,
    stdout: /out: late: packet 2 came \d{4,}\.\d+ ms late/,
  })
  const setBack = at('back.pcapng', 0, 50, -60_000, -59_950)
  const onTime = await playAndExpect(setBack, setBack, '--late', '30s')
  t.equal(onTime.code, 0, onTime.stdout)
  t.match(await run(file, '--top', '--late', '1s'), { code: 1, stderr: /error REQUEST_INVALID/ })
  t.match(await play(world, 'p', file, '--map', 'device:in', '--expect', file), { code: 1, stderr: /--at go together/ })
})

t.test('at a port of the switch, with a filter on what is played', root, async (t) => {
  const world = World.for(t)
  await world.namespace('host')
  for (const label of ['web', 'db']) await world.endpoint(label, 'host')
  await world.switch('host', {
    networks: {
      lab0: {
        ports: {
          web: { device: 'web', vlan: { pvid: 10, untagged: [10] } },
          db: { device: 'db', vlan: { tagged: [10] } },
        },
      },
    },
  })
  const ids = Array.from({ length: 100 }, (_, i) => i)
  const file = captureFile(
    world,
    'sent.pcapng',
    ids.flatMap((id) => [
      { bytes: numbered(id), from: 'web', atMs: id / 10 },
      { bytes: numbered(id, 60, [0x81, 0, 0, 3]), from: 'web', atMs: id / 10 },
    ]),
  )
  const expected = captureFile(
    world,
    'expected.pcapng',
    ids.map((id) => {
      const bytes = numbered(id)
      const tagged = Uint8Array.of(...bytes.subarray(0, 12), ...VLAN_10, ...bytes.subarray(12))
      return { bytes: tagged, from: 'db', atMs: id / 10, direction: 'outbound' as const }
    }),
  )
  const compare = ['--expect', expected, '--at', 'interfaces=ports', ...SETTLE, '-j', '--socket', world.socket('host')]
  const { code, stdout, stderr } = await play(
    world,
    'host',
    file,
    'not vlan 3',
    '--map',
    'interfaces=ports',
    ...compare,
  )
  t.equal(code, 0, `${stderr}${stdout}`)
  const { skipped, expected: outcomes } = JSON.parse(stdout)
  t.match(skipped, { filtered: 100 })
  t.match(
    outcomes.find((one: { name: string }) => one.name === 'db'),
    { expected: 100, found: 100, lost: 0 },
  )
  const vm = await play(world, 'host', file, 'vm', 'web', '--map', 'interfaces=ports', ...compare)
  t.match(vm, { code: 1, stderr: /REQUEST_INVALID.*asked for its vm/ })
})
