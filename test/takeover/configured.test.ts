// What the configuration says of a bridge is so of one that is taken already, after a reload and after a restart.

import { join } from 'node:path'
import t, { type Test } from 'tap'
import { until } from '../lab/command.js'
import { repositoryRoot } from '../lab/repository.js'
import { fileLimit, patience } from '../patience.js'
import { root, World } from '../switch/world.js'
import { bridgeHost, container, HOST_ADDRESS, joinBridge, Stream } from './bridge-world.js'

t.setTimeout(fileLimit(120_000))
const CALL = { deadlineMs: patience(20_000) }
const program = join(repositoryRoot(), 'bin', 'snapswitch')
const LAN = '192.0.2.200'

/** A container on br0, and a LAN behind `nic`. */
async function lab(t: Test) {
  const world = World.for(t)
  await bridgeHost(world)
  // Else it is the lowest of its ports', whichever join.
  await world.ip('h', 'link', 'set', 'br0', 'address', '02:00:00:00:02:01')
  await container(world, 'c1', '192.0.2.11')
  await container(world, 'nic', LAN)
  const daemon = await world.switch('h', { networks: {} })
  /** Without a network: no configuration names the bridge. */
  const write = (network: string | null, more: Record<string, unknown> = {}) =>
    world.configFile('h', { networks: network === null ? {} : { [network]: { bridge: 'br0', ...more } } })
  const reload = async (...wanted: Parameters<typeof write>) => {
    write(...wanted)
    return (await daemon.client.reload(CALL)).changes
  }
  const bridge = async () => (await daemon.client.bridges(CALL))[0]
  /** Waits for what is said of the bridge: its network, its problem, and the kind of the port `nic`. */
  const is = (network: string, code: string | null, kind: string | null) =>
    until(`${network} ${code} ${kind}`, 20_000, async () => {
      const found = await bridge()
      const port = await daemon.port('nic')
      const now = [found?.network, found?.problem?.code ?? null, found?.taken, port?.network, port?.kind ?? null]
      const taken = kind === null ? [false, undefined, null] : [true, network, kind]
      return JSON.stringify(now) === JSON.stringify([network, code, ...taken]) ? true : undefined
    })
  return { world, daemon, write, reload, bridge, is }
}

t.test('a reload takes up what the configuration says of a bridge that is taken', root, async (t) => {
  const { world, daemon, reload, is } = await lab(t)
  await reload('br0')
  await is('br0', null, 'plain')
  const inside = await Stream.start(world, 'c1', 'h', HOST_ADDRESS, 5001)
  const outside = await Stream.start(world, 'c1', 'nic', LAN, 5002)
  t.same(await reload('br0', { uplink: 'nic' }), ['bridge changed: br0 (uplink)'])
  await is('br0', null, 'uplink')
  t.same(await reload('br0', { uplink: 'nic' }), [])
  await reload('br0')
  await is('br0', null, 'plain')
  await reload('br0', { uplink: 'other' })
  await is('br0', 'DEVICE_MISSING', 'plain')
  await container(world, 'other', '192.0.2.201', { join: false })
  await joinBridge(world, 'other')
  await is('br0', null, 'plain')
  t.equal((await daemon.port('other')).kind, 'uplink', 'it has joined')
  await reload('lab', { uplink: 'nic' })
  await is('lab', null, 'uplink')
  await reload('lab', { ignoreFilters: true })
  await is('lab', null, 'plain')
  const { sent, lost, doubled } = await inside.end()
  t.same({ lost, doubled }, { lost: 0, doubled: 0 }, `${sent} sent meanwhile`)
  // A port that becomes an uplink is quiet at first (docs/internals/uplinks.md).
  t.equal((await outside.end()).doubled, 0)

  await world.in('h', 'nft', 'add table bridge mine; add chain bridge mine f { type filter hook forward priority 0; }')
  await world.in('h', 'nft', 'add rule bridge mine f counter')
  t.same(await reload('lab', {}), ['bridge changed: br0 (ignoreFilters)'])
  await is('lab', 'BRIDGE_FILTERED', null)
  await reload('lab', { ignoreFilters: true })
  await is('lab', null, 'plain')
  await world.in('h', 'nft', 'delete', 'table', 'bridge', 'mine')
  await reload(null)
  await until('it is given back', 20_000, async () =>
    (await daemon.client.bridges(CALL)).length === 0 ? true : undefined,
  )
  t.equal((await world.pings('c1', LAN)).code, 0)
})

t.test('a bridge that was taken by hand becomes the configuration’s', root, async (t) => {
  const { daemon, reload, bridge, is } = await lab(t)
  await daemon.client.takeBridge({ bridge: 'br0' }, CALL)
  await is('br0', null, 'plain')
  await reload('br0', { uplink: 'nic' })
  await is('br0', null, 'uplink')
  t.match(await bridge(), { configured: true })
  await reload(null)
  await until('it is given back', 20_000, async () => ((await bridge()) === undefined ? true : undefined))
})

t.test('a restart takes it up, too', root, async (t) => {
  const { world, daemon, write, bridge, is } = await lab(t)
  await daemon.client.takeBridge({ bridge: 'br0' }, CALL)
  await is('br0', null, 'plain')
  write('br0', { uplink: 'nic' })
  t.equal(await daemon.stop(), 0)
  await daemon.start()
  await is('br0', null, 'uplink')
  t.match(await bridge(), { configured: true }, 'taken by hand at first')
  write('lab')
  await daemon.crash()
  await daemon.start()
  await is('lab', null, 'plain')
  write('lab', { uplink: 'nic' })
  await daemon.crash()
  await daemon.start()
  await is('lab', null, 'uplink')
  t.equal((await world.pings('c1', LAN)).code, 0)
})

t.test('one that is given back stays given until the configuration is read again', root, async (t) => {
  const { world, daemon, reload, bridge, is } = await lab(t)
  const give = () => world.try('h', program, 'give', 'br0', '--socket', world.socket('h'), '--state', world.state('h'))
  const isGiven = async () => {
    // What the configuration wants is looked at bridge by bridge, in its order.
    await world.ip('h', 'link', 'add', 'br1', 'type', 'bridge')
    await until('the other one is taken', 20_000, async () =>
      (await daemon.client.bridges(CALL)).some((one) => one.bridge === 'br1' && one.taken) ? true : undefined,
    )
    t.match(await bridges(), { br0: { taken: false, given: true, problem: null }, br1: { taken: true } })
    t.match(await world.try('h', program, 'status', '--socket', world.socket('h')), {
      stdout: /br0 +lab +NO +given back until a reload or restart/,
    })
    t.equal(await world.in('h', 'bridge', 'link', 'show', 'dev', 'ssh-br0').catch(() => ''), '')
    t.equal((await world.pings('c1', LAN)).code, 0, 'the kernel forwards')
    await world.ip('h', 'link', 'delete', 'br1')
  }
  const bridges = async () => Object.fromEntries((await daemon.client.bridges(CALL)).map((one) => [one.bridge, one]))
  world.configFile('h', { networks: { lab: { bridge: 'br0', uplink: 'nic' }, two: { bridge: 'br1' } } })
  await daemon.client.reload(CALL)
  await is('lab', null, 'uplink')
  t.match(await give(), { code: 0, stdout: /is the kernel’s again.*\n.*until.*reload/ })
  await isGiven()
  t.match(await give(), { code: 1, stderr: /BRIDGE_NOT_TAKEN/ })
  await daemon.client.reload(CALL)
  await is('lab', null, 'uplink')

  t.match(await give(), { code: 0 })
  await isGiven()
  await t.rejects(daemon.client.takeBridge({ bridge: 'br0', network: 'another' }, CALL), { code: 'WANTED_TWICE' })
  t.match(await daemon.client.takeBridge({ bridge: 'br0' }, CALL), { taken: true, network: 'lab', configured: true })
  await is('lab', null, 'uplink')

  t.match(await give(), { code: 0 })
  await isGiven()
  t.equal(await daemon.stop(), 0)
  await daemon.start()
  await is('lab', null, 'uplink')
  await daemon.crash()
  t.match(await give(), { code: 0, stdout: /is the kernel’s again.*\n.*starts/ }, 'without a daemon')
  await daemon.start()
  await is('lab', null, 'uplink')
  await reload(null)
  await until('it is given back', 20_000, async () => ((await bridge()) === undefined ? true : undefined))
})
