// Ports and their devices, with a datapath that answers when the test says so: changes that come while another is under
// way.

import { EventEmitter } from 'node:events'
import { readdirSync } from 'node:fs'
import { pino } from 'pino'
import t from 'tap'
import { libc } from '../../src/linux/libc.js'
import { Links } from '../../src/linux/link.js'
import { createTap, deleteTap, openTap } from '../../src/linux/tap.js'
import type { DatapathEvents } from '../../switch/datapath/datapath.js'
import { createCounters } from '../../switch/forwarding/counters.js'
import type { DeviceState } from '../../switch/forwarding/port-state.js'
import { Ports } from '../../switch/ports/ports.js'
import type { PortEntry } from '../../switch/ports/table.js'
import { UnreadFrames } from '../../switch/ports/unread.js'
import { enterFreshNamespace, mountOwnSysfs, run, until } from '../linux/namespace.js'

enterFreshNamespace()

/** Knows which ports it has been given; answers at once, or, while `holds`, when `answer` is called. */
class MadeUpDatapath extends EventEmitter<DatapathEvents> {
  readonly counters = createCounters()
  readonly has = new Set<number>()
  readonly changes: unknown[] = []
  removals = 0
  refusesRemovals = false
  refusesAdditions = false
  holds = false
  readonly #waiting: (() => void)[] = []

  addPort({ spec }: { spec: { index: number } }): Promise<void> {
    if (this.refusesAdditions) return Promise.reject(new Error('the datapath worker ended'))
    this.has.add(spec.index)
    return this.#answered()
  }

  portChanged(_network: string, index: number, device: DeviceState): Promise<void> {
    const address = Buffer.from(device.mac).toString('hex')
    this.changes.push([index, device.mtu, device.queueLength, address, device.lost === true ? 'lost' : 'there'])
    return this.#answered()
  }

  changePort(): Promise<void> {
    return this.#answered()
  }

  removePort(_network: string, index: number): Promise<void> {
    if (this.refusesRemovals) return Promise.reject(new Error('the datapath worker ended'))
    this.has.delete(index)
    this.removals++
    return this.#answered()
  }

  answer(): void {
    this.holds = false
    for (const resolve of this.#waiting.splice(0)) resolve()
  }

  #answered(): Promise<void> {
    return this.holds ? new Promise((resolve) => this.#waiting.push(resolve)) : Promise.resolve()
  }
}

const turns = () => new Promise((resolve) => setTimeout(resolve, 20))

t.test('a port is removed while its device comes back: it stays removed, and its index is free', async (t) => {
  const datapath = new MadeUpDatapath()
  const ports = new Ports(datapath, new UnreadFrames(datapath.counters), pino({ level: 'silent' }))
  t.teardown(() => ports.close())
  const request = { name: 'p0', network: 'lab0', device: 'ssw-t0', kind: 'member', vm: 'web' } as const
  createTap('ssw-t0', { up: true })
  await ports.add(request, 1)
  t.same([...datapath.has], [0])
  deleteTap('ssw-t0')
  await ports.reconcile(() => 1)
  t.same([...datapath.has], [], 'the device is gone')

  createTap('ssw-t0', { up: true })
  datapath.holds = true
  const removed = ports.remove('p0')
  await turns()
  const reconciled = ports.reconcile(() => 1)
  await turns()
  datapath.answer()
  await Promise.all([removed, reconciled])
  t.same(ports.all(), [])
  t.same([...datapath.has], [])
  t.equal((await ports.add(request, 1)).index, 0)
  await t.rejects(
    ports.add({ ...request, network: 'lab1' }, 1),
    { code: 'PORT_EXISTS' },
    'a refusal keeps nobody waiting',
  )
  await ports.remove('p0')
  t.same([...datapath.has], [])
})

/** Ports on a made-up datapath, and links to change devices by. */
function lab(t: { teardown(end: () => unknown): void }) {
  const datapath = new MadeUpDatapath()
  const log = pino({ level: 'silent' })
  const ports = new Ports(datapath, new UnreadFrames(datapath.counters), log)
  const links = new Links()
  t.teardown(() => ports.close())
  t.teardown(() => links.close())
  return { datapath, ports, links }
}

const member = (device: string, name = device) =>
  ({ name, network: 'lab0', device, kind: 'member', vm: 'web' }) as const
const look = (ports: Ports) => ports.reconcile(() => 1)

t.test('what a port took over from its device follows it, under whatever name', async (t) => {
  const { datapath, ports, links } = lab(t)
  const { index } = createTap('ssw-c0', { up: true })
  t.teardown(() => links.remove(index))
  await ports.add(member('ssw-c0'), 1)
  await look(ports)
  t.match(datapath.changes.splice(0), [[0, Number, Number, String, 'lost']], 'nobody holds it: it has no carrier')
  await look(ports)
  t.same(datapath.changes, [])
  links.change(index, { queueLength: 77 })
  links.change(index, { mtu: 1300, mac: '02:00:00:00:00:0c' })
  await look(ports)
  t.same(datapath.changes.splice(0), [[0, 1300, 77, '02000000000c', 'there']])
  links.change(index, { up: false })
  links.change(index, { name: 'ssw-c1' })
  await look(ports)
  links.change(index, { mtu: 1200 })
  await look(ports)
  t.match(ports.get('ssw-c0'), { device: 'ssw-c0', ifname: 'ssw-c1', mtu: 1200, queueLength: 77 })
  t.same(datapath.changes.at(-1), [0, 1200, 77, '02000000000c', 'there'])
})

t.test('a restore does nothing to a stranger that has the name of a port’s device', async (t) => {
  const { ports, links } = lab(t)
  const own = createTap('ssw-r0')
  await ports.add(member('ssw-r0'), 1)
  links.change(own.index, { up: false })
  links.change(own.index, { name: 'ssw-r1' })
  const stranger = createTap('ssw-r0')
  const standIn = createTap('ssw-r2')
  t.teardown(() => {
    for (const { index } of [own, stranger, standIn]) if (links.findByIndex(index) !== null) links.remove(index)
  })
  await look(ports)
  t.equal(ports.get('ssw-r0')?.ifindex, own.index)
  t.throws(() => ports.ensureTap('ssw-r0', undefined), { code: 'DEVICE_RENAMED', message: /ssw-r1/ })
  await t.rejects(ports.replaceDevice('ssw-r0', 'ssw-r2', 2), { code: 'DEVICE_RENAMED' })
  t.equal((await ports.takeBack('ssw-r0', 2))?.ifindex, own.index, 'it has its device')
  t.ok(links.findByIndex(stranger.index), 'the stranger is there')
  t.equal(ports.outside('ssw-r1'), null, 'a port’s device by its present name')
  t.equal(ports.outside('ssw-r0'), null)
  await ports.remove('ssw-r0')
  t.ok(links.findByIndex(own.index), 'which was not made by us')
  run('ip', 'link', 'add', 'ssw-r9', 'type', 'bridge')
  ports.removeTap('ssw-r9')
  t.ok(links.find('ssw-r9'), 'no TAP')
})

t.test('one device is one port, by whatever names', async (t) => {
  const { ports, links } = lab(t)
  const { index } = createTap('ssw-o0', { up: true })
  t.teardown(() => links.remove(index))
  run('ip', 'link', 'property', 'add', 'dev', 'ssw-o0', 'altname', 'other-name')
  const both = [member('ssw-o0', 'a'), member('other-name', 'b')]
  t.throws(() => ports.check(both), { code: 'PORT_EXISTS', message: /other-name is already port a/ })
  await ports.add(both[0]!, 1)
  await t.rejects(ports.add(both[1]!, 1), { code: 'PORT_EXISTS' })
  await ports.remove('a')
  await ports.add(both[1]!, 1)
  const hold = openTap('ssw-o0')
  t.teardown(() => libc().close(hold))
  await until(() => links.get('ssw-o0').lowerUp, 'a carrier')
  t.match(ports.problemsOf('lab0'), [{ code: 'DEVICE_RENAMED', action: 'Write ssw-o0 in the configuration.' }])
})

t.test('another program’s filter in the place of ours is said', async (t) => {
  const { ports, links } = lab(t)
  const { index } = createTap('ssw-f0', { up: true })
  t.teardown(() => links.remove(index))
  await ports.add(member('ssw-f0'), 1)
  const tc = (...args: string[]) => run('tc', ...args)
  tc('qdisc', 'del', 'dev', 'ssw-f0', 'clsact')
  tc('qdisc', 'add', 'dev', 'ssw-f0', 'clsact')
  tc('filter', 'add', 'dev', 'ssw-f0', 'ingress', 'pref', '1', 'protocol', 'all', 'u32', 'match', 'u32', '0', '0')
  await look(ports)
  t.match(ports.info()[0]?.warnings, [{ code: 'DEVICE_BUSY', action: /pref/ }])
})

t.test('it is told that a port has lost its device, and that it has one again', async (t) => {
  const { ports } = lab(t)
  const told: [string, number][] = []
  ports.onMoved = ({ name }) => told.push([name, ports.get(name)!.ifindex])
  const { index } = createTap('ssw-m0', { up: true })
  t.teardown(() => deleteTap('ssw-m0'))
  run('ip', 'link', 'add', 'ssw-m1', 'type', 'bridge')
  t.teardown(() => run('ip', 'link', 'del', 'ssw-m1'))
  await ports.add(member('ssw-m0'), 1)
  await look(ports)
  t.same(told, [])
  run('ip', 'link', 'set', 'ssw-m0', 'master', 'ssw-m1')
  await look(ports)
  t.same(told.splice(0), [['ssw-m0', 0]])
  run('ip', 'link', 'set', 'ssw-m0', 'nomaster')
  await look(ports)
  t.same(told, [['ssw-m0', index]])
})

/** The worker says that the socket of a port was left by its device. */
function leave(datapath: MadeUpDatapath, { index, ifindex }: PortEntry): void {
  datapath.emit('event', { kind: 'unbound', network: 'lab0', port: index, ifindex })
}

t.test('a restored machine’s device is not taken for the one that has left', async (t) => {
  const { datapath, ports } = lab(t)
  createTap('ssw-u0', { up: true })
  const entry = await ports.add(member('ssw-u0'), 1)
  deleteTap('ssw-u0')
  leave(datapath, entry)
  const { index } = createTap('ssw-u1')
  t.teardown(() => deleteTap('ssw-u0'))
  t.equal((await ports.replaceDevice('ssw-u0', 'ssw-u1', 2)).ifindex, index)
  t.equal(datapath.removals, 1)
  await look(ports)
  t.equal(datapath.removals, 1, 'its port stays, gate closed, with what waits behind it')
  t.notOk(ports.hasNews)
})

t.test('a device that has left is let go once, whatever becomes of its port', async (t) => {
  const { datapath, ports } = lab(t)
  createTap('ssw-v0', { up: true })
  t.teardown(() => deleteTap('ssw-v0'))
  leave(datapath, await ports.add(member('ssw-v0'), 1))
  datapath.refusesRemovals = true
  await look(ports)
  datapath.refusesRemovals = false
  t.equal(ports.get('ssw-v0')?.ifindex, 0, 'it waits')
  await look(ports)
  t.ok(ports.get('ssw-v0')!.ifindex > 0, 'the device was there all the time')
  await look(ports)
  t.equal(datapath.removals, 0)

  leave(datapath, ports.get('ssw-v0')!)
  datapath.emit('lost', 0, new Error('no device'))
  t.notOk(ports.hasNews, 'a port without a device has none that could leave')
  await look(ports)
  await look(ports)
  t.equal(datapath.removals, 0)
})

t.test('a port that cannot be added leaves no file of its device open', async (t) => {
  const { datapath, ports } = lab(t)
  mountOwnSysfs()
  const openFiles = () => readdirSync('/proc/self/fd').length
  const before = openFiles()
  datapath.refusesAdditions = true
  for (let round = 0; round < 3; round++) {
    createTap('ssw-x0', { up: true })
    await t.rejects(ports.add(member('ssw-x0'), 1), { message: 'the datapath worker ended' })
    deleteTap('ssw-x0')
  }
  t.equal(openFiles(), before)
  datapath.refusesAdditions = false
  createTap('ssw-x0', { up: true })
  t.teardown(() => deleteTap('ssw-x0'))
  await ports.add(member('ssw-x0'), 1)
  t.ok(openFiles() >= before + 3, 'one that is there has its lock, and two counters of its device')
})
