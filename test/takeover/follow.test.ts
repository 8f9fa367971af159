// What a bridge that is taken over is refused for, and what the switch does when its devices come, go and change.

import t from 'tap'
import { until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { root, World } from '../switch/world.js'
import { bridgeHost, container, HOST_ADDRESS, joinBridge, Stream } from './bridge-world.js'

t.setTimeout(fileLimit(120_000))
const CALL = { deadlineMs: patience(20_000) }

t.test(
  'what joins the bridge is on the switch, what leaves it leaves; flaps and new names change nothing',
  root,
  async (t) => {
    const world = World.for(t)
    await bridgeHost(world)
    await container(world, 'c1', '192.0.2.11')
    await container(world, 'c2', '192.0.2.12', { join: false })
    const daemon = await world.switch('h', { networks: { lab: { bridge: 'br0' } } })
    const names = async () => (await daemon.client.ports(CALL)).map(({ name }) => name).sort()
    const ports = (...wanted: string[]) =>
      until(`ports ${wanted.join(' ')}`, 20_000, async () =>
        JSON.stringify(await names()) === JSON.stringify(wanted.sort()) ? true : undefined,
      )
    await ports('c1', 'ssw-br0')
    t.match(await daemon.client.bridges(CALL), [{ bridge: 'br0', network: 'lab', taken: true, configured: true }])

    await joinBridge(world, 'c2')
    t.equal((await world.pings('c2', '192.0.2.11')).code, 0, 'at once, whoever forwards')
    await ports('c1', 'c2', 'ssw-br0')
    t.equal((await world.pings('c2', '192.0.2.11')).code, 0)
    const stream = await Stream.start(world, 'c1', 'h', HOST_ADDRESS, 5001)
    for (let flap = 0; flap < 5; flap++) {
      await world.ip('h', 'link', 'set', 'c2', 'down')
      await world.ip('h', 'link', 'set', 'c2', 'up')
    }
    // Neighbours ask for its address anew, and hear it once each.
    t.match(await world.pings('c2', '192.0.2.11'), { code: 0, stdout: /3 received(?!.*duplicates)/ })
    const { lost, doubled } = await stream.end()
    t.same({ lost, doubled }, { lost: 0, doubled: 0 })

    await world.ip('h', 'link', 'set', 'c2', 'down')
    await world.ip('h', 'link', 'set', 'c2', 'name', 'c2-new')
    await world.ip('h', 'link', 'set', 'c2-new', 'up')
    await ports('c1', 'c2-new', 'ssw-br0')
    t.match(await world.pings('c2', '192.0.2.11'), { code: 0, stdout: /3 received(?!.*duplicates)/ })

    await world.ip('h', 'link', 'add', 'br1', 'type', 'bridge')
    await world.ip('h', 'link', 'set', 'c2-new', 'master', 'br1')
    await ports('c1', 'ssw-br0')
    await world.ip('h', 'link', 'set', 'c2-new', 'master', 'br0')
    await ports('c1', 'c2-new', 'ssw-br0')
    t.equal((await world.pings('c2', '192.0.2.11')).code, 0)

    const problem = async (code: string | null) =>
      until(`the bridge’s problem: ${code}`, 20_000, async () =>
        ((await daemon.client.bridges(CALL))[0]?.problem?.code ?? null) === code ? true : undefined,
      )
    const rename = async (from: string, to: string) => {
      await world.ip('h', 'link', 'set', from, 'down')
      await world.ip('h', 'link', 'set', from, 'name', to)
      await world.ip('h', 'link', 'set', to, 'up')
    }
    await rename('br0', 'lan')
    await problem('BRIDGE_LOST')
    await ports('c1', 'c2-new', 'ssw-br0')
    t.equal((await world.pings('c2', '192.0.2.11')).code, 0, 'it works on under another name')
    t.equal((await world.pings('c2', HOST_ADDRESS)).code, 0)
    await rename('lan', 'br0')
    await problem(null)

    await world.ip('h', 'link', 'delete', 'br0')
    await ports()
    await until('the bridge is let go', 20_000, async () =>
      (await daemon.client.bridges(CALL)).some(({ taken }) => taken) ? undefined : true,
    )
    await world.ip('h', 'link', 'add', 'br0', 'type', 'bridge')
    await world.ip('h', 'link', 'set', 'br0', 'up')
    await joinBridge(world, 'c1')
    await ports('c1', 'ssw-br0')
  },
)

t.test('a bridge that is taken with no ports floods to those that join, as it does to others', root, async (t) => {
  const world = World.for(t)
  await bridgeHost(world)
  const daemon = await world.switch('h', { networks: { lab: { bridge: 'br0' } } })
  const port = (name: string) => until(`port ${name}`, 20_000, () => daemon.port(name).catch(() => undefined))
  const floods = async (why: string) => {
    const shown = await world.in('h', 'bridge', '-d', 'link', 'show', 'dev', 'ssh-br0')
    t.match(shown, /(?<!_)flood on mcast_flood on bcast_flood on/, why)
  }
  /** The host has its address, and the bridge no place for it: it is found when it is flooded to. */
  const reachesUnknown = async (label: string, address: string) => {
    const [{ address: mac }] = JSON.parse(await world.ip(label, '-j', 'link', 'show', 'eth0'))
    await world.ip('h', 'neighbor', 'replace', address, 'lladdr', mac, 'dev', 'br0', 'nud', 'permanent')
    await world.ip('h', 'link', 'set', 'br0', 'type', 'bridge', 'fdb_flush')
    const { code, stdout } = await world.pings('h', address)
    t.match({ code, stdout }, { code: 0, stdout: /3 received(?!.*duplicates)/ }, `the host to ${label}`)
  }
  await port('ssw-br0')
  await container(world, 'c1', '192.0.2.11')
  await port('c1')
  await floods('the first has joined')
  await reachesUnknown('c1', '192.0.2.11')

  await world.ip('h', 'link', 'set', 'c1', 'down')
  await world.ip('h', 'link', 'set', 'c1', 'name', 'c1-new')
  await world.ip('h', 'link', 'set', 'c1-new', 'up')
  await port('c1-new')
  await floods('the only one has another name')
  await container(world, 'c2', '192.0.2.12')
  await port('c2')
  await floods('another one has joined')
  await reachesUnknown('c1', '192.0.2.11')
  await reachesUnknown('c2', '192.0.2.12')

  for (const device of ['c1-new', 'c2']) await world.ip('h', 'link', 'set', device, 'nomaster')
  await until('no ports', 20_000, async () => ((await daemon.client.ports(CALL)).length === 1 ? true : undefined))
  await joinBridge(world, 'c2')
  await port('c2')
  await floods('all have left, and one has come back')
  await reachesUnknown('c2', '192.0.2.12')
})

t.test('what is refused is refused before anything is touched', root, async (t) => {
  const world = World.for(t)
  await bridgeHost(world)
  await container(world, 'c1', '192.0.2.11')
  await world.linkSays('h', 'br0', /state UP/)
  const daemon = await world.switch('h', { networks: {} })
  const take = (bridge = 'br0') => daemon.client.takeBridge({ bridge }, CALL)
  const look = async () => `${await world.in('h', 'ip', '-br', 'link')}${await world.in('h', 'nft', 'list', 'ruleset')}`
  const refused = async (code: string, message: RegExp, undo?: string[], bridge?: string) => {
    const before = await look()
    await t.rejects(take(bridge), { code, message })
    t.equal(await look(), before, 'nothing was touched')
    if (undo !== undefined) await world.in('h', undo[0]!, ...undo.slice(1))
  }
  await refused('DEVICE_MISSING', /no bridge br1/, undefined, 'br1')
  await refused('BRIDGE_INVALID', /c1 is no bridge/, undefined, 'c1')
  await t.rejects(daemon.client.giveBridge('br0', CALL), { code: 'BRIDGE_NOT_TAKEN' })

  await world.ip('h', 'link', 'set', 'br0', 'type', 'bridge', 'stp_state', '1')
  await refused('BRIDGE_UNSUPPORTED', /speaks STP/, ['ip', 'link', 'set', 'br0', 'type', 'bridge', 'stp_state', '0'])

  await world.in('h', 'nft', 'add table bridge mine; add chain bridge mine f { type filter hook forward priority 0; }')
  await world.in('h', 'nft', 'add rule bridge mine f counter drop')
  await refused('BRIDGE_FILTERED', /packet filters of bridges \(mine\)/, ['nft', 'delete', 'table', 'bridge', 'mine'])

  await world.in('h', 'tc', 'qdisc', 'add', 'dev', 'c1', 'clsact')
  await world.in('h', 'tc', 'filter', 'add', 'dev', 'c1', 'ingress', 'bpf', 'da', 'bytecode', '1,6 0 0 0')
  await refused('BRIDGE_FILTERED', /ingress filters or limits at c1/, ['tc', 'qdisc', 'del', 'dev', 'c1', 'clsact'])

  await take()
  await t.rejects(take(), { code: 'BRIDGE_TAKEN', message: /this daemon/ })
  t.equal((await world.pings('c1', HOST_ADDRESS)).code, 0)

  const problem = (code: string | undefined) =>
    until(`the bridge’s problem: ${code}`, 20_000, async () =>
      (await daemon.client.bridges(CALL))[0]?.problem?.code === code ? true : undefined,
    )
  await world.ip('h', 'link', 'set', 'br0', 'type', 'bridge', 'stp_state', '1')
  await problem('BRIDGE_UNSUPPORTED')
  await world.ip('h', 'link', 'set', 'br0', 'type', 'bridge', 'stp_state', '0')
  await problem(undefined)
  await world.ip('h', 'link', 'delete', 'br0')
  await problem('BRIDGE_LOST')
  await until('it is let go', 20_000, async () => (await daemon.client.bridges(CALL))[0]?.taken === false || undefined)
  await daemon.client.giveBridge('br0', CALL)
  t.same(await daemon.client.bridges(CALL), [])

  // A bridge that the last port has left has no address.
  await world.ip('h', 'link', 'add', 'br0', 'type', 'bridge')
  await joinBridge(world, 'c1')
  await world.ip('h', 'link', 'set', 'c1', 'nomaster')
  t.match(await world.in('h', 'ip', 'link', 'show', 'br0'), /00:00:00:00:00:00/)
  t.match(await take(), { taken: true, problem: null })
})
