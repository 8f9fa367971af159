// Two daemons with a colored trunk between them: bulk TCP, tags on the trunk and nowhere else, checksums that are right
// at the far side whatever the ends offload.

import { mkdirSync, rmdirSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { stations, tagsArrive } from './station.js'
import { type Running, root, World } from './world.js'

t.setTimeout(fileLimit(180_000))

const MIB = 1024 * 1024

const side = (port: string) => ({
  networks: {
    lab0: { ports: { [port]: { device: port, vm: port }, trunk: { device: 'trunk', kind: 'trunk' } } },
  },
})

async function twoHosts(t: { teardown(end: () => Promise<void>): void }, offloads: ['on' | 'off', 'on' | 'off']) {
  const world = World.for(t)
  await world.host('a')
  await world.host('b')
  await world.endpoint('one', 'a', { address: '10.66.0.1', offload: offloads[0] })
  await world.endpoint('two', 'b', { address: '10.66.0.2', offload: offloads[1] })
  // Room for the color and for one tag of the ends' own: what a bridge's ports have for their one.
  await world.cable(['a', 'trunk'], ['b', 'trunk'], { mtu: 1508 })
  const a = await world.switch('a', side('one'))
  const b = await world.switch('b', side('two'))
  await until('the peers', 5000, async () => {
    const status = await Promise.all([a, b].map((daemon) => daemon.client.status({ deadlineMs: patience(5000) })))
    return status.every(({ networks }) => networks[0].peers[0].alive) ? true : undefined
  })
  return { world, a, b }
}

/**
 * TCP, or UDP, from `one` to `two`: how much came, at which rate (for the report only), and segments sent again. iperf3
 * ends when all is sent: what is under way then is not counted.
 */
async function iperf(
  world: World,
  ...options: string[]
): Promise<{ bytes: number; mbits: number; retransmits: number }> {
  const end = await world.iperf('one', 'two', '10.66.0.2', ...options)
  const { bytes, bits_per_second } = end.sum_received
  return { bytes, mbits: Math.round(bits_per_second / 1e6), retransmits: end.sum_sent.retransmits }
}

const RIGHT = / \(correct\)|\[udp sum ok\]/

/** Lines of a verbose capture: how many packets, and how many with a checksum that is wrong. */
async function verdicts(capture: Running): Promise<{ correct: number; wrong: string[] }> {
  const text = await capture.stop()
  const lines = text.split('\n')
  return {
    correct: lines.filter((line) => RIGHT.test(line)).length,
    wrong: lines.filter((line) => /incorrect|bad (udp )?cksum|wrong/i.test(line)),
  }
}

t.test('bulk TCP over a trunk: tags there, none at the ends', root, async (t) => {
  const { world, a, b } = await twoHosts(t, ['on', 'on'])

  await t.test('ping', async (t) => {
    t.equal((await world.pings('one', '10.66.0.2')).code, 0)
  })

  await t.test('iperf3, whole GSO frames', async (t) => {
    const onTrunk = await world.capture('a', 'trunk', '-c', '2000')
    const atEnd = await world.capture('two', 'eth0', '-c', '2000')
    const { bytes, mbits, retransmits } = await iperf(world, '-n', '100M')
    t.comment(`${mbits} Mbit/s, ${retransmits} retransmits`)
    t.ok(bytes > 50 * MIB, `${bytes} bytes arrived`)
    for (const capture of [onTrunk, atEnd]) await capture.says(/ethertype/, 500)
    const trunkLines = (await onTrunk.stop()).split('\n').filter((line) => line.includes('ethertype'))
    const endLines = (await atEnd.stop()).split('\n').filter((line) => line.includes('ethertype'))
    t.ok(trunkLines.length > 100 && endLines.length > 100, 'both captures saw the traffic')
    const untagged = trunkLines.filter((line) => !/ethertype 802\.1Q-QinQ \(0x88a8\)|0x88b5/.test(line))
    t.same(untagged, [], 'every frame on the trunk has a color, or is a control frame')
    t.same(
      endLines.filter((line) => /0x88a8|802\.1Q|0x88b5/.test(line)),
      [],
      'no tag and no control frame reaches an endpoint',
    )
    const port = await a.port('one')
    t.ok(port.counters.rxGso > 0, `${port.counters.rxGso} GSO frames stayed whole`)
    t.same((await b.port('two')).counters.drops, {})
  })

  await t.test('the ends’ own tags stay inside, up to the MTU', async (t) => {
    const [sender, receiver] = stations(t, world, 'one', 'two')
    const onTrunk = await world.capture('b', 'trunk', 'ether', 'src', '02:00:00:00:00:01')
    await tagsArrive(t, sender, receiver)
    await onTrunk.says(/vlan 200/)
    const seen = await onTrunk.stop()
    t.match(seen, /ethertype 802\.1Q-QinQ \(0x88a8\), length 15\d\d: vlan [1-4], p 0, ethertype 802\.1Q.*vlan 100, p 3/)
    t.match(seen, /ethertype 802\.1Q-QinQ \(0x88a8\), length 15\d\d: vlan [1-4], p 0, ethertype 802\.1Q-QinQ.*vlan 200/)
  })

  await t.test('an epoch that is called off and cannot be written: frames pass all the same', async (t) => {
    const obstacle = join(world.state('a'), 'epochs.json.new')
    mkdirSync(obstacle)
    for (const { client } of [a, b]) await client.discard('lab0', 'none', { epoch: 1 }, { deadlineMs: patience(5000) })
    for (const from of ['one', 'two'])
      t.equal((await world.pings(from, from === 'one' ? '10.66.0.2' : '10.66.0.1')).code, 0, `from ${from}`)
    t.match(a.said(), /an epoch is not on disk/)
    rmdirSync(obstacle)
  })

  await t.test('a peer that dies is said to be down, and back when it is', async (t) => {
    await b.stop()
    await until('the peer to be down', 8000, async () => {
      const { networks } = await a.client.status({ deadlineMs: patience(5000) })
      return networks[0].peers[0].alive ? undefined : true
    })
    await b.start()
    await until('the peer to be back', 5000, async () => {
      const { networks } = await a.client.status({ deadlineMs: patience(5000) })
      return networks[0].peers[0].alive ? true : undefined
    })
    t.equal((await world.pings('one', '10.66.0.2')).code, 0)
  })
})

// With offloads on at both ends a capture sees checksums that nobody has filled in yet, as on any veth.
for (const offloads of [
  ['on', 'off'],
  ['off', 'on'],
  ['off', 'off'],
] as ['on' | 'off', 'on' | 'off'][]) {
  t.test(`checksums at the far side: sender's offloads ${offloads[0]}, receiver's ${offloads[1]}`, root, async (t) => {
    const { world, b } = await twoHosts(t, offloads)
    const capture = await world.capture('two', 'eth0', '-c', '200', 'src', '10.66.0.1', 'and', '(tcp or udp or icmp)')
    t.equal((await world.pings('one', '10.66.0.2', '-s', '1000')).code, 0)
    const udp = await iperf(world, '-u', '-b', '2M', '-t', '1', '-l', '1000').catch((error) => error as Error)
    if (udp instanceof Error) t.fail(udp.message)
    const { bytes } = await iperf(world, '-n', '20M')
    t.ok(bytes > 10 * MIB, `${bytes} bytes arrived`)
    await capture.says(RIGHT, 100)
    const { correct, wrong } = await verdicts(capture)
    t.same(wrong, [])
    t.ok(correct > 20, `${correct} correct checksums`)
    t.same((await b.port('two')).counters.drops, {})
  })
}
