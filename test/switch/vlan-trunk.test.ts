// Access ports of one VLAN on two hosts, and a trunk between these: they meet, long frames and unfinished checksums
// included, and those of another VLAN stay among themselves.

import { join } from 'node:path'
import t from 'tap'
import { until } from '../lab/command.js'
import { repositoryRoot } from '../lab/repository.js'
import { fileLimit, patience } from '../patience.js'
import { root, World } from './world.js'

t.setTimeout(fileLimit(120_000))

const MIB = 1024 * 1024
const bin = join(repositoryRoot(), 'bin', 'snapswitch')

t.test('VLANs across two hosts', root, async (t) => {
  const world = World.for(t)
  await world.host('a')
  await world.host('b')
  // The same addresses in both VLANs: whoever answers is of the VLAN that was asked.
  const ends = {
    red1: ['a', '10.66.0.1', 10],
    red2: ['b', '10.66.0.2', 10],
    blue1: ['a', '10.66.0.1', 20],
    blue3: ['b', '10.66.0.3', 20],
  } as const
  for (const [label, [host, address]] of Object.entries(ends)) await world.endpoint(label, host, { address })
  await world.cable(['a', 'trunk'], ['b', 'trunk'], { mtu: 1512 })
  const content = (host: string) => {
    const access = Object.entries(ends).filter(([, [of]]) => of === host)
    const ports = access.map(([port, [, , vlan]]) => [port, { device: port, vm: port, vlan: { pvid: vlan } }])
    const trunk = { device: 'trunk', kind: 'trunk' }
    return { networks: { lab0: { ports: { ...Object.fromEntries(ports), trunk } } } }
  }
  const a = await world.switch('a', content('a'))
  const b = await world.switch('b', content('b'))
  await until('the peers', 5000, async () => {
    const status = await Promise.all([a, b].map((daemon) => daemon.client.status({ deadlineMs: patience(5000) })))
    return status.every(({ networks }) => networks[0].peers[0].alive) ? true : undefined
  })

  const code = async (from: string, to: string) => (await world.pings(from, to)).code
  t.equal(await code('red1', '10.66.0.2'), 0, 'one VLAN on both hosts')
  t.equal(await code('blue1', '10.66.0.3'), 0, 'and the other one')
  t.equal(await code('red1', '10.66.0.3'), 1, 'but no way from one to the other')
  t.equal(await code('blue1', '10.66.0.2'), 1, 'but no way from one to the other')

  for (const [from, to, address] of [
    ['red1', 'red2', '10.66.0.2'],
    ['blue1', 'blue3', '10.66.0.3'],
  ] as const) {
    const { sum_received } = await world.iperf(from, to, address, '-n', String(20 * MIB))
    t.ok(sum_received.bytes > 10 * MIB, `${from} to ${to}: ${sum_received.bytes} bytes`)
  }
  const one = await a.port('red1')
  t.match(one, { rules: { vlan: { pvid: 10 } } })
  t.ok(one.counters.rxGso > 0, 'long frames among them')
  const fdb = await b.client.fdb('lab0', { deadlineMs: patience(5000) })
  t.same([...new Set(fdb.map(({ vlan }) => vlan))].sort(), [10, 20])
  t.equal((await b.port('trunk')).counters.drops.vlan ?? 0, 0)
  const list = await world.try('a', bin, 'port', 'list', '--socket', world.socket('a'))
  t.match(list.stdout, /RULES[\s\S]*VLAN 10\*/)
})
