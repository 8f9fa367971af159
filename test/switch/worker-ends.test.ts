// Changes of ports and networks that meet the end of the datapath's worker, or the start of the next one: whatever
// they answer, the next worker has what the daemon says that there is.

import './crash-hook.js'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { setImmediate } from 'node:timers/promises'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { libc } from '../../src/linux/libc.js'
import { Links } from '../../src/linux/link.js'
import { closePortSockets, openPortSocketsNow } from '../../src/linux/port-sockets.js'
import { createTap, deleteTap } from '../../src/linux/tap.js'
import { Datapath } from '../../switch/datapath/datapath.js'
import { DatapathLoop } from '../../switch/datapath/loop.js'
import { PacketPort } from '../../switch/datapath/port/packet-port.js'
import { Counter, createCounters, ROW } from '../../switch/forwarding/counters.js'
import { Ports } from '../../switch/ports/ports.js'
import { UnreadFrames } from '../../switch/ports/unread.js'
import { enterFreshNamespace, until } from '../linux/namespace.js'
import { fileLimit } from '../patience.js'
import { networkOptions as options } from './network-options.js'

t.setTimeout(fileLimit(60_000))
enterFreshNamespace()

const { network } = options
const plain = (name: string) => ({ name, network, device: name, kind: 'plain', vm: null }) as const

async function lab(t: Test) {
  const datapath = new Datapath({ poll: 'sleep', spinUs: 0 })
  const ports = new Ports(datapath, new UnreadFrames(datapath.counters), pino({ level: 'silent' }))
  t.teardown(async () => {
    await datapath.stop()
    await ports.close()
    for (const device of ['a', 'b']) deleteTap(device)
  })
  for (const device of ['a', 'b']) createTap(device, { up: true })
  await datapath.start()
  await datapath.addNetwork({ options, epoch: 0, fence: 0 })
  for (const device of ['a', 'b']) await ports.add(plain(device), 0)
  const crash = () => {
    const restarted = once(datapath, 'restarted')
    process.emit('SIGUSR2')
    // It wakes up.
    datapath.call('ping', null).catch(() => undefined)
    return restarted
  }
  return { datapath, ports, crash }
}

/** Does this when the next worker is about to be given its ports; it gets the first one when this has had its time. */
function beforePorts(datapath: Datapath, act: () => void): void {
  const ask = datapath.ask.bind(datapath)
  let done = false
  datapath.ask = async (name, args) => {
    if (!done && name === 'addPort') {
      done = true
      act()
      for (let turn = 0; turn < 10; turn++) await setImmediate()
    }
    return await ask(name, args)
  }
}

const names = (ports: Ports) => ports.all().map(({ name }) => name)

t.test('a port that is removed while the worker ends is removed', async (t) => {
  const { datapath, ports, crash } = await lab(t)
  const restarted = crash()
  await ports.remove('a')
  t.same(names(ports), ['b'])
  await restarted
  await ports.add(plain('a'), 0)
  for (const name of ['a', 'b']) await ports.remove(name)
  await t.resolves(datapath.removeNetwork(network), 'none is left in the worker')
})

t.test('and so is one that is removed while the next worker gets its ports', async (t) => {
  const { datapath, ports, crash } = await lab(t)
  let removed: Promise<void> | undefined
  datapath.on('lost', (_, error) => t.fail(`opened with sockets that were closed: ${error.message}`))
  beforePorts(datapath, () => {
    removed = ports.remove('a')
  })
  await crash()
  await removed
  t.same(names(ports), ['b'])
  await ports.remove('b')
  await t.resolves(datapath.removeNetwork(network), 'none is left in the worker')
})

t.test('a port that changes then is what it was changed to', async (t) => {
  const { datapath, ports, crash } = await lab(t)
  let changed: Promise<void> | undefined
  beforePorts(datapath, () => {
    changed = ports.change({ ...plain('a'), kind: 'member', vm: 'web' }, 7)
  })
  await crash()
  await changed
  await datapath.call('ping', null)
  t.equal(datapath.counters[Counter.epoch], 7)
  t.equal(datapath.counters[ROW + Counter.epoch], 0)
})

t.test('a network that is removed while the worker ends is removed', async (t) => {
  const { datapath, crash } = await lab(t)
  const other = { ...options, network: 'other' }
  await datapath.addNetwork({ options: other, epoch: 0, fence: 0 })
  const restarted = crash()
  await datapath.removeNetwork('other')
  t.notOk(datapath.hasNetwork('other'))
  await restarted
  await datapath.addNetwork({ options: other, epoch: 0, fence: 0 })
  await t.resolves(datapath.removeNetwork('other'))
})

/** Packet sockets that are bound to a device: a mapped ring keeps one open, whoever has closed its descriptor. */
function socketsAt(ifindex: number): number {
  const lines = readFileSync('/proc/thread-self/net/packet', 'utf8').trim().split('\n').slice(1)
  return lines.filter((line) => Number(line.trim().split(/\s+/)[4]) === ifindex).length
}

t.test('a loop that fails closes all its ports, though some of what comes before fails, too', async (t) => {
  const links = new Links()
  const wakeFd = libc().eventfd(0, 0)
  const newsFd = libc().epoll_create1(0)
  const input = { oversize: [], counters: createCounters().buffer as SharedArrayBuffer, wakeFd, newsFd }
  const nothing = () => undefined
  const loop = new DatapathLoop({ ...input, poll: 'busy', spinUs: 0 }, nothing, nothing, nothing, nothing, () => {
    throw new Error('the loop')
  })
  const opened = ['a', 'b'].map((device, index) => {
    createTap(device, { up: true })
    const place = { device, ifindex: links.get(device).index }
    const sockets = openPortSocketsNow(place, 2)
    const port = new PacketPort(index, device, place, sockets, { send: () => 90 }, createCounters())
    loop.addPort(index, port, null!)
    return { port, sockets: { ...sockets, aside: port.asideFd } }
  })
  t.teardown(() => {
    for (const device of ['a', 'b']) deleteTap(device)
    for (const fd of [wakeFd, newsFd]) libc().close(fd)
    links.close()
  })
  for (const { port } of opened) t.ok(socketsAt(port.ifindex) > 0)
  const [{ port: first }] = opened as [(typeof opened)[number]]
  const close = first.close.bind(first)
  first.close = () => {
    close()
    throw new Error('the first port')
  }
  t.throws(
    () =>
      loop.run(() => {
        throw new Error('before')
      }),
    { message: 'the loop' },
    'what failed first is what is said',
  )
  for (const { sockets } of opened) await closePortSockets(sockets)
  for (const { port } of opened)
    await until(() => socketsAt(port.ifindex) === 0, `the sockets of ${port.name} to close`)
  t.pass('no socket is left open')
})

t.test('a port that the forwarder refuses leaves nothing open', async (t) => {
  const { datapath, ports } = await lab(t)
  const { ifindex } = ports.all().find(({ name }) => name === 'a')!
  await ports.remove('a')
  await until(() => socketsAt(ifindex) === 0, 'its sockets to close')
  const files = () => readdirSync('/proc/self/fd').length
  const before = files()
  const spec = { index: 9, name: 'a', kind: 'uplink', vm: null, epoch: 0, mac: new Uint8Array(6) } as const
  // An uplink without what an uplink has is what no forwarder takes.
  await t.rejects(datapath.addPort({ network, spec, device: { device: 'a', ifindex } }), { code: 'INTERNAL' })
  await until(() => socketsAt(ifindex) === 0, 'its sockets to close again')
  await until(() => files() <= before, 'its descriptors to close, too')
  await ports.remove('b')
  await t.resolves(datapath.removeNetwork(network), 'nothing of it is left in the worker')
})
