// Frames that are out of the ordinary cross a bridge that is taken over as they cross the bridge: longer than some
// ports may carry, full-size with two tags, in tunnels and to be cut. What others have put at the ports works on.

import t from 'tap'
import { VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { kernelIsAtLeast } from '../../src/linux/kernel.js'
import { ethernet, gsoFrame, ip4, overUdp, tcp } from '../frame/tunnels.js'
import { tapGuest } from '../hardening/tap-guest.js'
import { until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { stations, testFrame } from '../switch/station.js'
import { root, World } from '../switch/world.js'
import { bridgeHost, container, HOST_ADDRESS, joinBridge } from './bridge-world.js'

t.setTimeout(fileLimit(120_000))
const CALL = { deadlineMs: patience(20_000) }

t.test('ports of different MTUs', root, async (t) => {
  const world = World.for(t)
  await bridgeHost(world)
  for (const [name, address, mtu] of [
    ['jumbo', '192.0.2.11', 9000],
    ['other', '192.0.2.12', 9000],
    ['small', '192.0.2.13', 1500],
  ] as const) {
    await world.endpoint(name, 'h', { address, mtu })
    await joinBridge(world, name)
  }
  const mtuOf = async (device: string): Promise<number> =>
    JSON.parse(await world.in('h', 'ip', '-j', 'link', 'show', device))[0].mtu
  /** Which ways are open to packets of 8028 bytes. The small one’s device cannot send them at all. */
  const ways = async () => {
    await world.ip('small', 'link', 'set', 'eth0', 'mtu', '9000')
    await world.ip('h', 'link', 'set', 'small', 'mtu', '1500')
    const from = { h: HOST_ADDRESS, jumbo: '192.0.2.11', other: '192.0.2.12', small: '192.0.2.13' }
    const open: string[] = []
    for (const [one, other] of [
      ['h', 'jumbo'],
      ['jumbo', 'h'],
      ['jumbo', 'other'],
      ['jumbo', 'small'],
    ] as const) {
      t.equal((await world.pings(one, from[other])).code, 0, `${one} to ${other}: short ones`)
      const { code } = await world.try(
        one,
        'ping',
        '-n',
        '-q',
        '-c',
        '1',
        '-W',
        '2',
        '-M',
        'do',
        '-s',
        '8000',
        from[other],
      )
      if (code === 0) open.push(`${one} to ${other}`)
    }
    return open
  }
  t.equal(await mtuOf('br0'), 1500, 'the lowest')
  const daemon = await world.switch('h', { networks: {} })
  const take = async () => t.match(await daemon.client.takeBridge({ bridge: 'br0' }, CALL), { warnings: [/MTU/] })
  await take()
  t.equal(await mtuOf('br0'), 1500)
  await world.ip('h', 'link', 'set', 'small', 'nomaster')
  t.equal(await mtuOf('br0'), 9000, 'the next lowest, as without a switch')
  await joinBridge(world, 'small')
  t.equal(await mtuOf('br0'), 1500)
  await daemon.client.giveBridge('br0', CALL)

  await world.ip('h', 'link', 'set', 'br0', 'mtu', '9000')
  const asBridge = await ways()
  t.same(asBridge, ['h to jumbo', 'jumbo to h', 'jumbo to other'])
  await take()
  t.same(await ways(), asBridge)
  // A change of the bridge is followed, and is no reason for less.
  await world.ip('h', 'link', 'set', 'small', 'nomaster')
  await joinBridge(world, 'small')
  await until('the port', 20_000, async () => (await daemon.port('small').catch(() => undefined)) && true)
  t.same(await ways(), asBridge)
  t.ok((await daemon.port('small')).counters.drops['too-long']! > 0, 'what it cannot carry is counted')
  t.equal(await mtuOf('br0'), 9000)
})

/** TC_ACT_SHOT for what goes to 02:00:00:00:00:77. */
const DROPS_TO_77 = '4,48 0 0 5,21 0 1 119,6 0 0 2,6 0 0 4294967295'

t.test('two tags, tunnels, and a filter of somebody’s', root, async (t) => {
  const world = World.for(t)
  await bridgeHost(world)
  await container(world, 'c1', '192.0.2.11')
  await container(world, 'c2', '192.0.2.12')
  const guest = tapGuest(t, world, 'h', 'tap1')
  await joinBridge(world, 'tap1')
  await world.in('h', 'tc', 'qdisc', 'add', 'dev', 'c1', 'clsact')
  await world.in('h', 'tc', 'filter', 'add', 'dev', 'c1', 'egress', 'bpf', 'da', 'bytecode', DROPS_TO_77)
  const atPorts = async () => {
    const shown = ['c1', 'c2', 'tap1'].flatMap((device) => [
      world.in('h', 'tc', 'qdisc', 'show', 'dev', device),
      world.in('h', 'tc', 'filter', 'show', 'dev', device, 'egress'),
    ])
    return (await Promise.all(shown)).join('')
  }
  const before = await atPorts()
  const [one, two] = stations(t, world, 'c1', 'c2')
  const tunnel = gsoFrame(
    ethernet(ip4(overUdp(ethernet(ip4(tcp(4, new Uint8Array(20_500)))), [8, 0, 0, 0, 0, 0, 7, 0], null))),
    1000,
    1,
  )
  const tags = [0x88, 0xa8, 0, 7, 0x81, 0, 0, 8]
  let id = 0
  const crossing = async () => {
    one!.received()
    two!.received()
    guest.write(testFrame(++id, { to: 0x77 }))
    t.equal(guest.write(testFrame(++id, { length: 1522, tags })), null)
    const [tagged, elsewhere] = [await one!.collect(1), await two!.collect(2)]
    t.equal(tagged.length, 1, 'full-size, with two tags; the other frame meets the filter')
    t.equal(elsewhere.length, 2, 'both where there is no filter')
  }
  const tunnelled = async () => {
    const { bytes } = tunnel
    t.equal(guest.write(bytes.subarray(VNET_HEADER_LENGTH), bytes.subarray(0, VNET_HEADER_LENGTH)), null)
    const isTunnel = (copy: { bytes: Uint8Array }) =>
      copy.bytes.length > 1000 && copy.bytes[VNET_HEADER_LENGTH + 23] === 17
    return (await two!.collect(1, isTunnel)).map((copy) => copy.bytes.length)[0]!
  }
  await crossing()
  const daemon = await world.switch('h', { networks: {} })
  await daemon.client.takeBridge({ bridge: 'br0' }, CALL)
  await crossing()
  const length = await tunnelled()
  t.ok(kernelIsAtLeast(6, 6) ? length > 20_000 : length < 2000, `a tunnel of ${tunnel.bytes.length}: ${length}`)
  t.equal(await atPorts(), before, 'nothing of ours is there to be seen')
  await daemon.client.giveBridge('br0', CALL)
  await crossing()
  t.equal(await atPorts(), before)
})

t.test(
  'a querier on the LAN: what the host sends to groups gets to the switch from the first moment on',
  root,
  async (t) => {
    const world = World.for(t)
    for (const label of ['h', 'lan']) await world.namespace(label, { ipv6: true })
    const bridge = async (label: string, name: string, address: string, ...options: string[]) => {
      await world.ip(label, 'link', 'add', name, 'up', 'type', 'bridge', ...options)
      await world.ip(label, 'address', 'add', `${address}/64`, 'dev', name, 'nodad')
    }
    await bridge('h', 'br0', 'fd00::1')
    await bridge('lan', 'lan0', 'fd00::200', 'mcast_querier', '1', 'mcast_query_response_interval', '100')
    await world.endpoint('c1', 'h', { ipv6: true })
    await world.ip('c1', 'address', 'add', 'fd00::11/64', 'dev', 'eth0', 'nodad')
    await joinBridge(world, 'c1')
    await world.cable(['lan', 'nic'], ['h', 'nic'])
    await world.ip('lan', 'link', 'set', 'nic', 'master', 'lan0')
    await joinBridge(world, 'nic')
    // A bridge that has heard a querier floods for one response interval more (br_multicast_querier_exists).
    const wire = await world.capture('c1', 'eth0', 'icmp6')
    await until('groups to be kept from who is in none', 40_000, async () => {
      const before = wire.stdout.length
      await world.try('h', 'ping', '-c', '1', '-W', '1', 'ff02::1:ff99:9999%br0')
      await world.pings('h', 'fd00::11')
      await until('the ping', 10_000, () => (wire.stdout.includes('> fd00::11: ', before) ? true : undefined))
      return wire.stdout.includes('ff02::1:ff99:9999', before) ? undefined : true
    })
    await wire.stop()
    /** The host looks for somebody whom it does not know. */
    const finds = async (how: string) => {
      await world.ip('h', 'neighbor', 'flush', 'all')
      for (const address of ['fd00::11', 'fd00::200'])
        t.match(await world.pings('h', address), { code: 0, stdout: /3 received(?!.*duplicates)/ }, `${address} ${how}`)
    }
    await finds('by the bridge')
    const daemon = await world.switch('h', { networks: {} })
    await daemon.client.takeBridge({ bridge: 'br0' }, CALL)
    await finds('by the switch')
    await daemon.client.giveBridge('br0', CALL)
    await finds('by the bridge again')
  },
)
