// A mirror on real devices: copies of chosen ports' frames, as they came or as they left, and nothing else; also
// through a tunnel to another host. tcpdump is the judge.

import t from 'tap'
import { until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { stations, testFrame } from '../switch/station.js'
import { type Running, root, World } from '../switch/world.js'

t.setTimeout(fileLimit(180_000))

const DEADLINE = { deadlineMs: patience(10_000) }

/** ICMP echoes that a capture has seen, by what they are and whose. */
function echoes({ stdout }: Running): string[] {
  return [...stdout.matchAll(/ (\S+) > (\S+): ICMP echo (request|reply)/g)].map(
    ([, from, to, what]) => `${what} ${from} ${to}`,
  )
}

t.test('a mirror', root, async (t) => {
  const world = World.for(t)
  await world.namespace('host')
  for (const [at, label] of ['one', 'two', 'three', 'trunk', 'probe'].entries())
    await world.endpoint(label, 'host', { address: `10.70.0.${at + 1}` })
  const members = {
    one: { device: 'one', kind: 'member', vm: 'alpha', vlan: { pvid: 10 } },
    two: { device: 'two', kind: 'member', vm: 'beta', vlan: { pvid: 10 } },
    trunk: { device: 'trunk', vlan: { tagged: [10] } },
    three: { device: 'three', vlan: { pvid: 10 } },
  }
  const withMirror = (mirror: object) => ({
    networks: { lab0: { ports: { ...members, probe: { device: 'probe', mirror } } } },
  })
  const daemon = await world.switch('host', withMirror({ of: ['one'] }))
  const reload = async (mirror: object) => {
    world.configFile('host', withMirror(mirror))
    await daemon.client.reload(DEADLINE)
  }
  /** Echoes at the probe, of one ping. */
  const seen = async (from: string, address: string, expected: number) => {
    const capture = await world.capture('probe', 'eth0', 'icmp', 'or', 'vlan')
    const result = await world.pings(from, address, '-c', '1')
    t.equal(result.code, 0, result.stdout)
    await capture.says(/ICMP echo/, expected)
    await capture.stop()
    return { echoes: echoes(capture), text: capture.stdout }
  }
  t.equal((await world.pings('one', '10.70.0.2')).code, 0)

  await t.test('both directions, as the mirrored port has them on its wire', async (t) => {
    const found = await seen('one', '10.70.0.2', 2)
    t.same(found.echoes, ['request 10.70.0.1 10.70.0.2', 'reply 10.70.0.2 10.70.0.1'])
    t.notMatch(found.text, /vlan 10/)
  })

  await t.test('changed while it runs: one direction, another port', async (t) => {
    await reload({ of: ['two'], direction: 'out' })
    t.same((await seen('one', '10.70.0.2', 1)).echoes, ['request 10.70.0.1 10.70.0.2'])
    await reload({ of: ['trunk'], direction: 'in' })
    const capture = await world.capture('probe', 'eth0', 'vlan', '10')
    const [sender] = stations(t, world, 'trunk', 'three')
    t.equal(sender.send(testFrame(1, { tags: [0x81, 0, 0, 10] })), null)
    await capture.says(/vlan 10/)
    t.match(await capture.stop(), /vlan 10/, 'as it came')
    await reload({ of: ['one', 'two'], direction: 'in' })
    t.same((await seen('one', '10.70.0.2', 2)).echoes, ['request 10.70.0.1 10.70.0.2', 'reply 10.70.0.2 10.70.0.1'])
  })

  await t.test('nothing but copies leaves by it; what comes in is dropped, and its address not learned', async (t) => {
    await reload({ of: ['two'] })
    const capture = await world.capture('probe', 'eth0', '-Q', 'in')
    t.equal((await world.pings('one', '10.70.0.3', '-c', '1')).code, 0)
    t.not((await world.try('probe', 'ping', '-c', '1', '-W', '1', '10.70.0.1')).code, 0)
    t.same(echoes(capture), [])
    await capture.stop()
    t.ok(((await daemon.port('probe')).counters.drops.mirror ?? 0) > 0)
    t.notOk((await daemon.client.fdb('lab0', DEADLINE)).some(({ port }) => port === 'probe'))
    t.same((await daemon.port('probe')).rules, { mirror: { of: ['two'] } })
  })

  await t.test('long frames that a guest leaves to be cut arrive as they were', async (t) => {
    await reload({ of: ['one'], direction: 'in' })
    const server = await world.start('two', 'sh', '-c', 'iperf3 -s -1 --forceflush')
    await until('iperf3', 5000, () => (server.stdout.includes('listening') ? true : undefined), 10)
    const before = (await daemon.port('probe')).counters.txGso
    await world.in('one', 'iperf3', '-c', '10.70.0.2', '-n', '4M')
    t.ok((await daemon.port('probe')).counters.txGso > before)
  })

  await t.test('a port that is a mirror no more is one of the others again', async (t) => {
    const ports = { ...members, probe: { device: 'probe', vlan: { pvid: 10 } } }
    world.configFile('host', { networks: { lab0: { ports } } })
    await daemon.client.reload(DEADLINE)
    // Its kernel may be about to give up looking for the address.
    const pings = () => world.pings('probe', '10.70.0.1')
    await until('the probe', 10_000, async () => ((await pings()).code === 0 ? true : undefined))
    t.not((await daemon.port('probe')).counters.rxFrames, 0)
  })

  await t.test('what cannot be', async (t) => {
    const refusals: [probe: object, says: RegExp][] = [
      [{ mirror: { of: ['four'] } }, /has no port four/],
      [{ mirror: { of: ['probe'] } }, /is a mirror itself/],
      [{ mirror: { of: ['one'] }, isolated: true }, /a mirror has no other rules/],
      [{ mirror: { of: ['one'] }, kind: 'trunk' }, /a trunk port is no mirror/],
    ]
    for (const [probe, says] of refusals) {
      const ports = { ...members, probe: { device: 'probe', ...probe } }
      const file = world.configFile('host', { networks: { lab0: { ports } } }, 'refused')
      const result = await world.refused('host', file)
      t.match(result.stderr, says)
    }
  })
})

t.test('a mirror on another host, through a tunnel', root, async (t) => {
  const world = World.for(t)
  await world.namespace('host')
  await world.namespace('far')
  await world.endpoint('one', 'host', { address: '10.71.0.1' })
  await world.endpoint('two', 'host', { address: '10.71.0.2' })
  await world.cable(['host', 'wire'], ['far', 'wire'])
  for (const [at, label] of ['host', 'far'].entries()) {
    await world.ip(label, 'link', 'set', 'wire', 'up')
    await world.ip(label, 'address', 'add', `10.72.0.${at + 1}/24`, 'dev', 'wire')
    const ends = ['local', `10.72.0.${at + 1}`, 'remote', `10.72.0.${2 - at}`, 'id', '7', 'dstport', '4789']
    await world.ip(label, 'link', 'add', 'copies', 'type', 'vxlan', ...ends)
    if (label === 'far') await world.ip(label, 'link', 'set', 'copies', 'up')
  }
  const ports = {
    one: { device: 'one' },
    two: { device: 'two' },
    copies: { device: 'copies', mirror: { of: ['one'] } },
  }
  await world.switch('host', { networks: { lab0: { ports } } })
  const capture = await world.capture('far', 'copies', 'icmp')
  t.equal((await world.pings('one', '10.71.0.2', '-c', '1', '-s', '1000')).code, 0)
  await capture.says(/ICMP echo/, 2)
  await capture.stop()
  t.same(echoes(capture), ['request 10.71.0.1 10.71.0.2', 'reply 10.71.0.2 10.71.0.1'])
})
