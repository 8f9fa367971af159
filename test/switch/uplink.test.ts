// Two daemons and an outside host on one LAN (a bridge in a namespace of its own): members reach one another and the
// outside with checksums that are right, bits and tags that are theirs; the outside host is given nothing that is not
// for it.

import t from 'tap'
import { until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { idOf, isOurs, stations, tagsArrive } from './station.js'
import { root, type Switch, World } from './world.js'

t.setTimeout(fileLimit(180_000))

const side = (port: string, color?: string) => ({
  networks: {
    lab0: {
      ports: {
        [port]: { device: port, vm: port },
        up: { device: 'up', kind: 'uplink', ...(color === undefined ? {} : { color }) },
      },
    },
  },
})

/** Hosts a and b with a member each, `one` and `two`, and `out`, an outside host: all in 10.67.0.0/24 and fd67::/64. */
async function lan(t: { teardown(end: () => Promise<void>): void }, color?: string) {
  const world = World.for(t)
  await world.namespace('lan')
  await world.ip('lan', 'link', 'add', 'br0', 'type', 'bridge')
  await world.ip('lan', 'link', 'set', 'br0', 'up')
  const onLan = async (device: string) => {
    await world.ip('lan', 'link', 'set', device, 'master', 'br0')
    await world.ip('lan', 'link', 'set', device, 'up')
  }
  for (const host of ['a', 'b']) {
    await world.host(host)
    // No offloads on the LAN itself, as between machines: every checksum is there to be seen.
    await world.cable(['lan', `to-${host}`], [host, 'up'], { offload: 'off' })
    await onLan(`to-${host}`)
  }
  await world.endpoint('one', 'a', { address: '10.67.0.1', ipv6: true })
  await world.endpoint('two', 'b', { address: '10.67.0.2', ipv6: true })
  await world.endpoint('out', 'lan', { address: '10.67.0.9', ipv6: true, offload: 'off' })
  await onLan('out')
  for (const [label, n] of [
    ['one', 1],
    ['two', 2],
    ['out', 9],
  ] as const)
    await world.ip(label, 'address', 'add', `fd67::${n}/64`, 'dev', 'eth0', 'nodad')
  const a = await world.switch('a', side('one', color))
  const b = await world.switch('b', side('two', color))
  await until('the peers', 10_000, async () => {
    const status = await Promise.all([a, b].map((daemon) => daemon.client.status({ deadlineMs: patience(5000) })))
    return status.every(({ networks }) => networks[0].peers[0]?.alive) ? true : undefined
  })
  return { world, a, b }
}

/**
 * TCP from `one` to another place: how many bytes came. iperf3 ends when all is sent: what is under way then is not
 * counted.
 */
async function iperf(world: World, to: string, address: string, ...options: string[]): Promise<number> {
  return (await world.iperf('one', to, address, ...options)).sum_received.bytes
}

const lines = (text: string, pattern: RegExp) => text.split('\n').filter((line) => pattern.test(line))

/** Pings until frames of these two travel without carriers (and with `bit`, in tcpdump's words). */
async function agreed(world: World, address: string, bit = 'echo request'): Promise<void> {
  await until('the agreement', 15_000, async () => {
    const capture = await world.capture('lan', 'to-a', 'icmp', 'or', 'icmp6')
    await world.try('one', 'ping', '-n', '-c', '1', '-W', '1', address)
    await capture.says(/echo request/)
    const seen = await capture.stop()
    return seen.includes('echo request') && seen.includes(bit) ? true : undefined
  })
}

async function dropsOf(...switches: Switch[]): Promise<(readonly [string, Readonly<Record<string, number>>])[]> {
  const ports = await Promise.all(switches.map((daemon) => daemon.client.ports({ deadlineMs: patience(5000) })))
  return ports.flat().map(({ name, counters }) => [name, counters.drops] as const)
}

t.test('members over a LAN, with an outside host on it', root, async (t) => {
  const { world, a, b } = await lan(t)
  const atOutside = await world.capture('out', 'eth0', '-p')

  await t.test('ping: between members, and with the outside host', async (t) => {
    for (const address of ['10.67.0.2', 'fd67::2', '10.67.0.9', 'fd67::9']) {
      const pings = await world.pings('one', address)
      t.match(pings.stdout, / 0% packet loss/, address)
      t.notMatch(pings.stdout, /duplicates/)
    }
    t.match((await world.pings('out', '10.67.0.2')).stdout, / 0% packet loss/)
    await agreed(world, '10.67.0.2')
    await agreed(world, 'fd67::2')
  })

  // From here on in an odd epoch: what carries a color on the LAN has its bit set there, and nowhere else.
  for (const { client } of [a, b]) await client.discard('lab0', 'none', { epoch: 1 }, { deadlineMs: patience(5000) })
  for (const [address, bit] of [
    ['10.67.0.2', 'tos 0x4,'],
    ['fd67::2', 'class 0x04,'],
  ])
    await agreed(world, address, bit)

  await t.test('fragments', async (t) => {
    const atEnd = await world.capture('two', 'eth0', 'icmp', 'or', 'icmp6', 'or', 'ip6[6] = 44')
    for (const address of ['10.67.0.2', 'fd67::2']) {
      t.match((await world.pings('one', address, '-s', '4000')).stdout, / 0% packet loss/, address)
    }
    await atEnd.says(/frag \(|flags \[\+\]/, 9)
    const seen = await atEnd.stop()
    t.ok(lines(seen, /frag \(|flags \[\+\]/).length > 8)
    t.same(lines(seen, /tos 0x4,|class 0x04,|bad cksum|wrong/), [])
  })

  await t.test('TCP with whole GSO frames, IPv4 and IPv6, to the member and to the outside host', async (t) => {
    const onLan = await world.capture('lan', 'to-a', 'tcp', 'and', 'not', 'host', '10.67.0.9')
    const came = [
      await iperf(world, 'two', '10.67.0.2', '-n', '10M'),
      await iperf(world, 'two', 'fd67::2', '-n', '10M'),
      await iperf(world, 'out', '10.67.0.9', '-n', '10M'),
    ]
    const seen = await onLan.stop()
    // The sender ends when its socket has taken all: what that holds yet is not counted.
    t.ok(
      came.every((bytes) => bytes > 1024 * 1024),
      `${came.join(', ')} bytes arrived`,
    )
    t.ok(
      lines(seen, /ethertype IPv4 .*10\.67\.0\.2/).length > 0 ||
        lines(seen, /10\.67\.0\.1\.\d+ > 10\.67\.0\.2/).length > 10,
    )
    t.ok(lines(seen, /fd67::1\.\d+ > fd67::2/).length > 10)
    t.same(lines(seen, /incorrect|bad cksum/), [])
    t.ok(lines(seen, /\(correct\)/).length > 10)
    for (const bit of [/tos 0x4,/, /class 0x04,/]) t.ok(lines(seen, bit).length > 10, String(bit))
    t.ok((await a.port('one')).counters.rxGso > 0)
  })

  await t.test('code points arrive as they were sent; those with the bit set, LE and NQB, in carriers', async (t) => {
    for (const address of ['10.67.0.2', 'fd67::2']) {
      for (const [name, tos] of [
        ['LE', 0x04],
        ['NQB', 0xb4],
        ['EF', 0xb8],
        ['default', 0],
      ] as const) {
        const filter = ['icmp[0] = 8', 'or', 'ip6[40] = 128']
        const atEnd = await world.capture('two', 'eth0', '-c', '3', ...filter)
        const onLan = await world.capture('lan', 'to-a', ...filter)
        const pings = await world.pings('one', address, '-Q', String(tos), '-s', '1400')
        t.match(pings.stdout, / 0% packet loss/, `${name} to ${address}`)
        await atEnd.closed
        const seen = atEnd.stdout
        const hex = tos.toString(16)
        const said = address.includes(':')
          ? tos === 0
            ? / IP6 \(hlim|\(flowlabel/
            : `class 0x${hex.padStart(2, '0')},`
          : `tos 0x${hex},`
        t.equal(lines(seen, new RegExp(said)).length, 3, seen)
        t.same(lines(seen, /bad cksum|wrong/), [])
        const themselves = (tos & 4) === 0 ? 3 : 0
        await onLan.says(/echo request/, themselves)
        t.equal(lines(await onLan.stop(), /echo request/).length, themselves, 'as themselves on the LAN')
      }
    }
  })

  await t.test('frames of any kind and length arrive once, whole and in order', async (t) => {
    const [one, two, out] = stations(t, world, 'one', 'two', 'out')
    await tagsArrive(t, one, two)
    t.same((await out.collect(3)).map(idOf), [0, 1, 2], 'and once outside')
    // What the ends' own kernels ask each other (ARP, neighbor discovery) comes at any time.
    t.same(
      [two, out].map((station) => station.received().filter(isOurs).length),
      [0, 0],
    )
  })

  const outside = await atOutside.stop()
  // The header of an IPv4 packet is on one line with its addresses' MACs, the addresses themselves on the next.
  const bodies = lines(outside, /^\s+10\.67\.0\.[12]\.?\d* > 10\.67\.0\.[12]/)
  t.same(bodies, [], 'the outside host saw nothing between members')
  t.same(lines(outside, /10\.67.*tos 0x4,/), [])
  // What the stations' kernels said in the switches' first moments.
  for (const [name, { starting: _, ...drops }] of await dropsOf(a, b)) t.same(drops, {}, `drops of ${name}`)
})
