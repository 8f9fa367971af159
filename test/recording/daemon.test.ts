// Real daemons, recorded while they work: two hosts, one network over a trunk, with VLANs and ageing, and another one
// over an uplink. Each recording is replayed in other processes, in other time zones, to the same digest.

import { readFileSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { attempt, run, until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { root, type SwitchFile, World } from '../switch/world.js'
import { Recording, replayed, snapswitch, ZONES } from './processes.js'

t.setTimeout(fileLimit(240_000))

const side = (member: string, other: string, vlan: number): SwitchFile => ({
  networks: {
    lab0: {
      ageing: 10,
      ports: {
        [member]: { device: member, vm: member, vlan: { pvid: vlan, untagged: [vlan], tagged: ['30-39'] } },
        trunk: { device: 'trunk', kind: 'trunk' },
      },
    },
    lab1: { ports: { [other]: { device: other, vm: other }, up: { device: 'up', kind: 'uplink' } } },
  },
})

t.test('a busy run on two hosts', root, async (t) => {
  const world = World.for(t)
  await world.hostsOnLan('a', 'b')
  await world.cable(['a', 'trunk'], ['b', 'trunk'], { mtu: 1508 })
  await world.endpoint('one', 'a', { address: '10.66.0.1' })
  await world.endpoint('two', 'b', { address: '10.66.0.2' })
  await world.endpoint('three', 'a', { address: '10.67.0.3' })
  await world.endpoint('four', 'b', { address: '10.67.0.4' })
  const a = await world.switch('a', side('one', 'three', 10))
  const b = await world.switch('b', side('two', 'four', 10))
  await until('the peers', 10_000, async () => {
    const status = await Promise.all([a, b].map((daemon) => daemon.client.status({ deadlineMs: patience(5000) })))
    return status.every(({ networks }) => networks.every(({ peers }) => peers[0]?.alive)) ? true : undefined
  })
  t.equal((await world.pings('one', '10.66.0.2')).code, 0, 'before the recording')
  const recordings = await Promise.all(
    (['a', 'b'] as const).flatMap((host) =>
      ['lab0', 'lab1'].map((network) =>
        new Recording(world.socket(host), network, join(world.directory, `${host}-${network}.pcapng`)).begun(),
      ),
    ),
  )

  const second = new Recording(world.socket('a'), 'lab0', join(world.directory, 'second.pcapng'))
  t.equal(await second.ended, 1)
  t.match(second.said, /RECORDING_BUSY/, 'one at a time')

  const server = await world.start('two', 'iperf3', '-s', '-1', '--forceflush')
  await server.says(/listening/)
  await world.in('one', 'iperf3', '-c', '10.66.0.2', '-n', '30M')
  t.equal((await world.pings('three', '10.67.0.4')).code, 0)
  const lan = await world.start('four', 'iperf3', '-s', '-1', '--forceflush')
  await lan.says(/listening/)
  await world.in('three', 'iperf3', '-c', '10.67.0.4', '-u', '-b', '0', '-l', '100', '-n', '2M')
  // Other rules while it runs; addresses age; a port goes and comes.
  world.configFile('a', side('one', 'three', 20))
  await a.client.reload({ deadlineMs: patience(5000) })
  await world.try('one', 'ping', '-n', '-c', '2', '-i', '0.1', '-W', '1', '10.66.0.2')
  world.configFile('a', side('one', 'three', 10))
  await a.client.reload({ deadlineMs: patience(5000) })
  await world.ip('a', 'link', 'set', 'three', 'down')
  await world.ip('a', 'link', 'set', 'three', 'up')
  await until('the way', 10_000, async () => ((await world.pings('three', '10.67.0.4')).code === 0 ? true : undefined))
  t.equal((await world.pings('one', '10.66.0.2')).code, 0)
  for (const recording of recordings) t.equal(await recording.stop(), 0, recording.said)

  for (const { path } of recordings) {
    const name = path.replace(/.*\//, '')
    t.equal(statSync(path).mode & 0o777, 0o600, `${name} is its owner's`)
    const found = await Promise.all(ZONES.map((zone) => replayed(path, zone)))
    t.match(found[0], { same: true, truncated: false, end: 'asked' }, `${name}: the same comes out`)
    t.equal(new Set(found.map(({ digest }) => digest)).size, 1, 'one digest')
    t.comment(`${name}: ${found[0]!.frames} frames, ${statSync(path).size} bytes`)
    const info = await run('capinfos', ['-M', path], 60_000)
    t.match(info, new RegExp(`Number of packets: +${found[0]!.frames}\\b`), 'Wireshark reads the frames')
  }

  await t.test('a bit that is flipped anywhere gives another digest, and --diff names the frame', async (t) => {
    const { path } = recordings[0]!
    const bytes = readFileSync(path)
    const whole = await replayed(path)
    const flipped = join(world.directory, 'flipped.pcapng')
    bytes[lastFrame(bytes) + PAYLOAD] ^= 4
    writeFileSync(flipped, bytes)
    const other = await replayed(flipped)
    t.match(other, { same: false })
    t.not(other.digest, whole.digest)
    const diff = await attempt(snapswitch, ['replay', path, '--diff', flipped], patience(60_000))
    t.equal(diff.code, 1)
    t.match(diff.stdout, /frame \d+ at port \w+ differs from byte \d+ on/)
  })

  await t.test('a file that ends early is replayed as far as it goes', async (t) => {
    const { path } = recordings[1]!
    const cut = join(world.directory, 'cut.pcapng')
    writeFileSync(cut, readFileSync(path).subarray(0, Math.floor(statSync(path).size * 0.6)))
    t.match(await replayed(cut), { same: true, truncated: true })
  })
})

/** In a packet block: of an IP header behind two tags. */
const PAYLOAD = 28 + 40

/** Where the last packet block begins. */
function lastFrame(bytes: Buffer): number {
  let last = 0
  for (let at = 0; at < bytes.length; at += bytes.readUInt32LE(at + 4)) if (bytes.readUInt32LE(at) === 6) last = at
  return last
}
