// Tunnels between endpoints of a switch, whose kernels send whole GSO frames through them: the same bytes arrive as
// over a kernel bridge, no kernel has seen a wrong checksum, nothing was refused; and where a device takes finished
// frames only, tcpdump finds every checksum right, outer and inner.

import t from 'tap'
import { until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { root, type Switch, World } from '../switch/world.js'
import { contentFile, noErrors, nothingLost, transfer } from './tunnel-lab.js'

t.setTimeout(fileLimit(180_000))

interface Tunnel {
  readonly outer: 4 | 6
  readonly options: readonly string[]
}

const tunnels: Record<string, Tunnel> = {
  vxlan: { outer: 4, options: ['noudpcsum'] },
  vxsum: { outer: 4, options: ['udpcsum'] },
  vxsix: { outer: 6, options: [] },
}
const names = Object.keys(tunnels)

const outer = (version: 4 | 6, n: number) => (version === 4 ? `10.66.0.${n}` : `fd66::${n}`)
const inner = (name: string, n: number) => `10.70.${names.indexOf(name)}.${n}`

async function endpoints(world: World): Promise<void> {
  await world.host('host')
  for (const [label, n, offload] of [
    ['one', 1, 'on'],
    ['two', 2, 'on'],
    ['bare', 3, 'off'],
  ] as const) {
    await world.endpoint(label, 'host', { address: outer(4, n), ipv6: true, offload })
    if (offload === 'off') await world.in(label, 'ethtool', '-K', 'eth0', 'tx-udp-segmentation', 'off')
    if (offload === 'off') await world.try('host', 'ethtool', '-K', label, 'tx-udp-segmentation', 'off')
    await world.ip(label, 'address', 'add', `${outer(6, n)}/64`, 'dev', 'eth0', 'nodad')
  }
}

/** One end of each tunnel at `from`, the other at `to`. */
async function connect(world: World, from: [string, number], to: [string, number]): Promise<void> {
  for (const [at, name] of names.entries()) {
    const { outer: version, options } = tunnels[name]
    for (const [[label, n], [, other]] of [
      [from, to],
      [to, from],
    ] as const) {
      const ends = ['local', outer(version, n), 'remote', outer(version, other)]
      await world.ip(
        label,
        'link',
        'add',
        name,
        'type',
        'vxlan',
        'id',
        `${70 + at}`,
        'dstport',
        '4789',
        ...ends,
        ...options,
      )
      await world.ip(label, 'address', 'add', `${inner(name, n)}/24`, 'dev', name)
      await world.ip(label, 'link', 'set', name, 'up')
    }
  }
}

for (const kind of ['bridge', 'switch'] as const) {
  t.test(`tunnels through a ${kind}`, root, async (t) => {
    const world = World.for(t)
    await endpoints(world)
    const labels = ['one', 'two', 'bare']
    let daemon: Switch | null = null
    if (kind === 'bridge') {
      await world.ip('host', 'link', 'add', 'br0', 'type', 'bridge', 'mcast_snooping', '0')
      await world.ip('host', 'link', 'set', 'br0', 'up')
      for (const label of labels) await world.ip('host', 'link', 'set', label, 'up', 'master', 'br0')
    } else {
      const ports = Object.fromEntries(labels.map((label) => [label, { device: label, kind: 'plain' }]))
      daemon = await world.switch('host', { networks: { lab0: { ports } } })
    }
    const { file, digest } = contentFile(world)

    await t.test('between stacks that take GSO frames', async (t) => {
      await connect(world, ['one', 1], ['two', 2])
      for (const name of names) {
        t.equal(await transfer(world, 'two', 'one', inner(name, 2), file), digest, name)
        t.equal(await transfer(world, 'one', 'two', inner(name, 1), file), digest, `${name}, back`)
      }
      await noErrors(t, world, 'one', 'two')
    })

    await t.test('to a stack that takes finished frames only', async (t) => {
      for (const name of names) await world.ip('one', 'link', 'delete', name)
      await connect(world, ['one', 1], ['bare', 3])
      for (const name of names) {
        const capture = await world.capture('bare', 'eth0', '-c', '300', 'udp', 'dst', 'port', '4789')
        t.equal(await transfer(world, 'bare', 'one', inner(name, 3), file), digest, name)
        await capture.says(/\(correct\)/, 51)
        if (name !== 'vxlan') await capture.says(/\[udp sum ok\]/, 51)
        const text = await capture.stop()
        t.notMatch(text, /incorrect|bad (udp )?cksum|wrong/i, `${name}: no wrong checksum`)
        t.ok((text.match(/\(correct\)/g)?.length ?? 0) > 50, `${name}: right ones inside`)
        if (name !== 'vxlan') t.ok((text.match(/\[udp sum ok\]/g)?.length ?? 0) > 50, `${name}: right ones outside`)
      }
      await noErrors(t, world, 'one', 'bare')
    })
    if (daemon !== null) await nothingLost(t, daemon)
  })
}

for (const kind of ['trunk', 'uplink'] as const) {
  t.test(
    `a tunnel between members of two hosts, over ${kind === 'trunk' ? 'a trunk' : 'an uplink'}`,
    root,
    async (t) => {
      const world = World.for(t)
      for (const host of ['a', 'b']) await world.host(host)
      await world.cable(['a', 'between'], ['b', 'between'])
      for (const host of ['a', 'b']) await world.ip(host, 'link', 'set', 'between', 'mtu', '1504')
      await world.endpoint('one', 'a', { address: outer(4, 1), ipv6: true })
      await world.endpoint('two', 'b', { address: outer(4, 2), ipv6: true })
      await connect(world, ['one', 1], ['two', 2])
      const daemons: Switch[] = []
      for (const [host, member] of [
        ['a', 'one'],
        ['b', 'two'],
      ]) {
        const ports = { [member]: { device: member, vm: member }, between: { device: 'between', kind } }
        daemons.push(await world.switch(host, { networks: { lab0: { ports } } }))
      }
      await until('the peers', 10_000, async () => {
        const states = await Promise.all(daemons.map(({ client }) => client.status({ deadlineMs: patience(5000) })))
        return states.every(({ networks }) => networks[0].peers[0]?.alive) ? true : undefined
      })
      const { file, digest } = contentFile(world)
      for (const name of ['vxlan', 'vxsum']) {
        t.equal(await transfer(world, 'two', 'one', inner(name, 2), file), digest, name)
        t.equal(await transfer(world, 'one', 'two', inner(name, 1), file), digest, `${name}, back`)
      }
      await noErrors(t, world, 'one', 'two')
      for (const daemon of daemons) await nothingLost(t, daemon)
    },
  )
}
