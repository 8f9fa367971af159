// Tunnels between endpoints of a switch, whose kernels send whole GSO frames through them: the same bytes arrive as
// over a kernel bridge, no kernel has seen a wrong checksum, nothing was refused; and where a device takes finished
// frames only, tcpdump finds every checksum right, outer and inner.

import { createHash } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { fileLimit, patience } from '../patience.js'
import { root, type Switch, World } from '../switch/world.js'
import { dropsOf } from './daemon-health.js'

t.setTimeout(fileLimit(180_000))

/** Some hundred GSO frames each way. */
const BYTES = 8_000_000

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

/** The program that receives: prints the digest of what came. */
const LISTEN = `
const hash = require('node:crypto').createHash('sha256')
require('node:net').createServer((s) => s.on('data', (d) => hash.update(d)).on('end', () => {
  console.log(hash.digest('hex'))
  s.end()
  process.exit()
})).listen(5555, process.argv[1], () => console.log('listening'))`
const SEND = `
const s = require('node:net').connect(5555, process.argv[1])
s.on('close', () => process.exit())
require('node:fs').createReadStream(process.argv[2]).pipe(s)`

async function transfer(world: World, to: string, from: string, address: string, file: string): Promise<string> {
  const listener = await world.start(to, process.execPath, '-e', LISTEN, address)
  await listener.says(/listening/)
  await world.in(from, process.execPath, '-e', SEND, address, file)
  await listener.closed
  return listener.stdout.split('\n')[1]
}

async function noErrors(t: Test, world: World, ...labels: string[]): Promise<void> {
  for (const label of labels) {
    const four = (await world.in(label, 'cat', '/proc/net/snmp')).split('\n')
    for (const [protocol, field] of [
      ['Tcp', 'InCsumErrors'],
      ['Udp', 'InCsumErrors'],
      ['Ip', 'InHdrErrors'],
    ]) {
      const [head, values] = four.filter((line) => line.startsWith(`${protocol}: `))
      t.equal(values.split(' ')[head.split(' ').indexOf(field)], '0', `${label}: ${protocol} ${field}`)
    }
    t.match(await world.in(label, 'cat', '/proc/net/snmp6'), /Udp6InCsumErrors\s+0\s/, `${label}: Udp6InCsumErrors`)
  }
}

async function nothingLost(t: Test, daemon: Switch): Promise<void> {
  for (const { name, counters } of await daemon.client.ports({ deadlineMs: patience(5000) })) {
    const { 'device-dropped': _full, ...drops } = counters.drops
    t.same(drops, {}, `${name}: no drop but of full queues (${dropsOf(counters)})`)
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
    const file = join(world.directory, 'content')
    const content = Buffer.alloc(BYTES, createHash('sha512').update('content').digest())
    writeFileSync(file, content)
    const digest = createHash('sha256').update(content).digest('hex')

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
