// A watch over TAPs: machines come, hand their TAPs on, are killed, and come back.

import path from 'node:path'
import { pino } from 'pino'
import t from 'tap'
import { createHypervisors } from '../../src/hypervisor/drivers.js'
import { Links } from '../../src/linux/link.js'
import { createTap } from '../../src/linux/tap.js'
import type { Discovered, DiscoveryNews, Identifier, TapDevice } from '../../switch/discovery/discovery.js'
import { TapIdentifier } from '../../switch/discovery/identify.js'
import { MachineResolver } from '../../switch/discovery/resolver.js'
import { until } from '../hypervisor/boot-guest.js'
import { scratch } from '../hypervisor/machines.js'
import { enterFreshNamespace, run } from '../linux/namespace.js'
import { fileLimit } from '../patience.js'
import { startHolder, startQemu } from './holders.js'

enterFreshNamespace()
t.setTimeout(fileLimit(90_000))
const directory = scratch('resolver')
const links = new Links()
t.teardown(() => links.close())
const none = () => new Map()
const isHeld = (ifindex: number) => links.findByIndex(ifindex)?.lowerUp ?? false
const log = pino({ level: 'silent' })

function watched(t: { teardown(end: () => Promise<void>): void }, tap: TapDevice, identifier?: Identifier) {
  const options = { hypervisors: createHypervisors({}), configured: none, known: none, isHeld }
  const resolver = new MachineResolver(identifier ?? new TapIdentifier(options), log)
  t.teardown(() => resolver.close())
  const news: DiscoveryNews[] = []
  resolver.onNews((one) => {
    news.push(one)
  })
  resolver.onNews(() => {
    throw new Error('a listener of little worth')
  })
  resolver.watch(tap)
  const reaches = (kind: Discovered['kind']) => until(kind, () => resolver.of(tap.ifindex).kind === kind, 20_000)
  return { resolver, news, reaches }
}

function makeTap(name: string): TapDevice {
  return { name, ifindex: createTap(name, { up: true }).index }
}

const qemu = (tap: string, name: string) =>
  startQemu([tap], ['-name', name, '-qmp', `unix:${path.join(directory, name)},server=on,wait=off`])

t.test('a machine comes, is killed, and comes back', async (t) => {
  const tap = makeTap('r0')
  const { resolver, news, reaches } = watched(t, tap)
  await resolver.settle()
  t.same(resolver.of(tap.ifindex), { kind: 'none' })
  const first = await qemu('r0', 'web')
  await reaches('machine')
  t.match(resolver.of(tap.ifindex), { name: 'web', holder: { pid: first.pid } })
  await first.end()
  await reaches('none')
  const second = await qemu('r0', 'web')
  await reaches('machine')
  t.match(resolver.of(tap.ifindex), { name: 'web', holder: { pid: second.pid } }, 'another process, the same machine')
  run('ip', 'link', 'set', 'r0', 'down')
  run('ip', 'link', 'set', 'r0', 'name', 'r1', 'up')
  await resolver.settle()
  t.match(resolver.of(tap.ifindex), { kind: 'machine', name: 'web' }, 'its device was renamed')
  run('ip', 'link', 'delete', 'r1')
  await reaches('none')
  const kinds = news.map(({ found }) => found.kind).filter((kind) => kind === 'machine' || kind === 'none')
  t.same(kinds, ['machine', 'none', 'machine', 'none'], 'each change is told, whatever a listener throws')
  await second.end()
  resolver.unwatch(tap.ifindex)
  t.same(resolver.of(tap.ifindex), { kind: 'none' })
})

t.test('libvirtd opens the TAP, and QEMU takes it on', async (t) => {
  const tap = makeTap('r2')
  const { news, reaches } = watched(t, tap)
  const opener = await startHolder('r2', 'libvirtd', directory)
  await reaches('pending')
  await opener.end()
  const machine = await qemu('r2', 'db')
  await reaches('machine')
  t.match(news.at(-1), { tap, found: { name: 'db' } })
  await machine.end()
  const vpn = await startHolder('r2', 'vpn', directory)
  await reaches('undrivable')
  await vpn.end()
  await reaches('none')
})

t.test('a look that fails is repeated, of all devices', async (t) => {
  const taps = [makeTap('r4'), makeTap('r5')]
  const holder = { pid: process.pid, startTicks: '1', program: 'x' }
  let looks = 0
  const identifier: Identifier = {
    identify: async (asked) => {
      looks += 1
      if (looks === 1) throw Object.assign(new Error('EMFILE: too many open files'), { code: 'EMFILE' })
      return new Map(
        asked.map(({ ifindex, name }): [number, Discovered] => [
          ifindex,
          { kind: 'machine', name, spec: { qmp: `/${name}` }, holder },
        ]),
      )
    },
  }
  const { resolver, news, reaches } = watched(t, taps[0]!, identifier)
  resolver.watch(taps[1]!)
  await resolver.settle()
  t.same([looks, resolver.isLookedAt(taps[0]!.ifindex)], [1, false])
  await reaches('machine')
  t.same(resolver.of(taps[1]!.ifindex).kind, 'machine')
  t.same(
    news.map(({ found }) => found.kind),
    ['machine', 'machine'],
  )
})

t.test('a holder that cannot be watched is told of with the next look', async (t) => {
  const tap = makeTap('r6')
  const holder = { pid: process.pid, startTicks: '1', program: 'x' }
  const found: Discovered = { kind: 'machine', name: 'x', spec: { qmp: '/x' }, holder }
  let asked = 0
  const ends = {
    add: () => {
      asked += 1
      if (asked === 1) throw new Error('ENOSPC')
      return true
    },
    keepOnly: () => undefined,
    drain: () => [],
    close: () => undefined,
  }
  const signals = { links: { drain: () => [], close: () => undefined }, ends }
  const resolver = new MachineResolver({ identify: async () => new Map([[tap.ifindex, found]]) }, log, signals)
  t.teardown(() => resolver.close())
  const news: DiscoveryNews[] = []
  resolver.onNews((one) => {
    news.push(one)
  })
  resolver.watch(tap)
  await resolver.settle()
  t.same(news, [])
  await until('the second look', () => news.length === 1)
})

t.test('what cannot be driven is looked at again', async (t) => {
  const tap = makeTap('r3')
  const holder = { pid: process.pid, startTicks: '1', program: 'x' }
  const problem = { message: 'busy' } as never
  let looks = 0
  const identifier: Identifier = {
    identify: async () => {
      looks += 1
      const found: Discovered =
        looks < 4
          ? { kind: 'undrivable', title: null, problem, holder }
          : { kind: 'machine', name: 'x', spec: { qmp: '/x' }, holder }
      return new Map([[tap.ifindex, found]])
    },
  }
  const { news, reaches } = watched(t, tap, identifier)
  await reaches('machine')
  t.same(
    news.map(({ found }) => found.kind),
    ['undrivable', 'machine'],
    'told once',
  )
})
