// kill -9 of the daemon while a bridge is taken: the kernel's bridge forwards again by itself, and the next daemon or
// `give` finds what is left.

import { join } from 'node:path'
import t from 'tap'
import { until } from '../lab/command.js'
import { repositoryRoot } from '../lab/repository.js'
import { fileLimit, patience } from '../patience.js'
import { root, World } from '../switch/world.js'
import { bridgeHost, container, HOST_ADDRESS, Stream } from './bridge-world.js'

t.setTimeout(fileLimit(120_000))
const CALL = { deadlineMs: patience(20_000) }
const program = join(repositoryRoot(), 'bin', 'snapswitch')

async function lab(t: Parameters<typeof World.for>[0]) {
  const world = World.for(t)
  await bridgeHost(world)
  await container(world, 'c1', '192.0.2.11')
  await container(world, 'c2', '192.0.2.12')
  return world
}

const reaches = async (world: World) =>
  (await world.pings('c1', '192.0.2.12')).code === 0 && (await world.pings('c1', HOST_ADDRESS)).code === 0

/** It goes with the daemon. */
const noPair = (world: World) =>
  until('the pair is gone', 3000, async () =>
    (await world.in('h', 'ip', 'link')).includes('ssh-br0') ? undefined : true,
  )

const taken = (daemon: Awaited<ReturnType<World['switch']>>) =>
  daemon.client.bridges(CALL).then((all) => all.some((one) => one.taken))

t.test('killed, stopped and started again, a bridge is forwarded for and taken again', root, async (t) => {
  const world = await lab(t)
  const daemon = await world.switch('h', { networks: {} })
  await daemon.client.takeBridge({ bridge: 'br0' }, CALL)
  const streams = [
    await Stream.start(world, 'c1', 'c2', '192.0.2.12', 5001),
    await Stream.start(world, 'c1', 'h', HOST_ADDRESS, 5002),
  ]
  t.equal(await daemon.stop(), 0)
  t.ok(await reaches(world), 'stopped')
  t.equal(await world.in('h', 'nft', 'list', 'ruleset'), '')
  await daemon.start()
  t.ok(await taken(daemon), 'started, it is taken again')
  await until('frames', 20_000, async () => (await daemon.port('c1')).counters.txFrames > 0 || undefined)
  for (const stream of streams) {
    const { sent, lost, doubled } = await stream.end()
    t.same({ lost, doubled }, { lost: 0, doubled: 0 }, `${stream.name}: ${sent} sent while it stopped and started`)
  }
  const server = await world.start('c2', 'iperf3', '--server', '--one-off', '--forceflush')
  await until('iperf3', 10_000, () => (server.stdout.includes('listening') ? true : undefined), 20)
  const transfer = await world.start('c1', 'iperf3', '--client', '192.0.2.12', '--time', '600', '--bitrate', '20M')
  const intervals = () => server.stdout.match(/[1-9][\d.]* .?bits\/sec/g)?.length ?? 0
  await until('TCP', 20_000, () => intervals() > 0 || undefined)
  const killed = [
    await Stream.start(world, 'c1', 'c2', '192.0.2.12', 5003),
    await Stream.start(world, 'c2', 'h', HOST_ADDRESS, 5004),
  ]
  await daemon.crash()
  await noPair(world)
  t.ok(await reaches(world), 'killed')
  await daemon.start()
  t.ok(await taken(daemon), 'started after a kill, it is taken again')
  t.ok(await reaches(world))
  for (const stream of killed) {
    const { sent, lost, doubled, longestGap } = await stream.end()
    t.comment(`${stream.name}: killed and started: ${sent} sent, ${lost} lost, ${doubled} doubled, ${longestGap} ms`)
    t.equal(doubled, 0, stream.name)
  }
  const before = intervals()
  await until('TCP goes on', 20_000, () => intervals() > before + 1 || undefined)
  t.equal(transfer.child.exitCode, null, 'the connection has lived through it')
  await daemon.crash()
  const give = (...more: string[]) =>
    world.try('h', program, 'give', 'br0', '--socket', world.socket('h'), '--state', world.state('h'), ...more)
  t.match(await give(), { code: 0, stdout: /br0 is the kernel’s again/ }, 'given back without a daemon')
  t.match(await give(), { code: 1, stderr: /BRIDGE_NOT_TAKEN/ })
  t.notMatch(await world.in('h', 'ip', 'link'), /ss[hw]-br0/)
  await daemon.start()
  t.notOk(await taken(daemon), 'what was given back is not taken again')
  t.ok(await reaches(world))
})
