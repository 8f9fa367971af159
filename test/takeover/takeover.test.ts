// A bridge is taken over and given back under traffic: nothing is lost, nobody notices.

import t from 'tap'
import { until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { root, World } from '../switch/world.js'
import { bridgeHost, container, found, HOST_ADDRESS, Stream } from './bridge-world.js'

t.setTimeout(fileLimit(120_000))
const CALL = { deadlineMs: patience(20_000) }
const ROUNDS = 10

t.test('ten times taken and given: no datagram is lost, the bridge keeps its address', root, async (t) => {
  const world = World.for(t)
  await bridgeHost(world)
  await container(world, 'c1', '192.0.2.11')
  await container(world, 'c2', '192.0.2.12')
  const before = await found(world)
  const daemon = await world.switch('h', { networks: {} })
  t.equal((await world.pings('c1', '192.0.2.12')).code, 0)
  t.equal((await world.pings('c1', HOST_ADDRESS)).code, 0)
  const streams = [
    await Stream.start(world, 'c1', 'c2', '192.0.2.12', 5001),
    await Stream.start(world, 'c2', 'c1', '192.0.2.11', 5002),
    await Stream.start(world, 'h', 'c1', '192.0.2.11', 5003),
    await Stream.start(world, 'c1', 'h', HOST_ADDRESS, 5004),
  ]
  for (let round = 0; round < ROUNDS; round++) {
    const taken = await daemon.client.takeBridge({ bridge: 'br0' }, CALL)
    t.match(taken, { bridge: 'br0', network: 'br0', taken: true, problem: null })
    if (round === 0) {
      const ports = await daemon.client.ports(CALL)
      t.same(ports.map(({ name, kind }) => [name, kind]).sort(), [
        ['c1', 'plain'],
        ['c2', 'plain'],
        ['ssw-br0', 'host'],
      ])
      t.match(await world.in('h', 'bridge', 'link'), /: c1@.* master br0 state forwarding/, 'a port goes on to be one')
    }
    await passes(daemon, 'c1')
    await passes(daemon, 'ssw-br0')
    t.equal((await found(world)).mac, before.mac)
    await daemon.client.giveBridge('br0', CALL)
  }
  for (const stream of streams) {
    const { sent, lost, doubled, longestGap } = await stream.end()
    t.comment(`${stream.name}: ${sent} sent, ${lost} lost, ${doubled} doubled, longest gap ${longestGap.toFixed(1)} ms`)
    t.same({ lost, doubled }, { lost: 0, doubled: 0 }, stream.name)
  }
  t.same(await found(world), before, 'as it was found')
  t.equal(await world.in('h', 'nft', 'list', 'ruleset'), '')
})

/** Waits until a port of the switch has forwarded something. */
async function passes(daemon: Awaited<ReturnType<World['switch']>>, name: string): Promise<void> {
  const { counters: before } = await daemon.port(name)
  await until(`frames at ${name}`, 10_000, async () => {
    const { counters } = await daemon.port(name)
    return counters.rxFrames > before.rxFrames && counters.txFrames > before.txFrames ? true : undefined
  })
}
