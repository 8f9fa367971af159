// A worker that is busy for longer than commands have time: the daemon believes that a port was not added, or not
// removed, and the worker does it yet. However late it is, it has the ports that the daemon has, each once.

import { readdirSync } from 'node:fs'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { libc } from '../../src/linux/libc.js'
import { createTap, deleteTap, openTap } from '../../src/linux/tap.js'
import { Datapath } from '../../switch/datapath/datapath.js'
import { Ports } from '../../switch/ports/ports.js'
import { UnreadFrames } from '../../switch/ports/unread.js'
import { enterFreshNamespace, until } from '../linux/namespace.js'
import { readAll, withHeader, write } from '../linux/wire.js'
import { fileLimit } from '../patience.js'
import { networkOptions as options } from './network-options.js'
import { testFrame } from './station.js'

t.setTimeout(fileLimit(120_000))
enterFreshNamespace()

const { network } = options
const DEVICES = ['a', 'b']
const plain = (name: string) => ({ name, network, device: name, kind: 'plain', vm: null }) as const
const openDescriptors = () => readdirSync('/proc/self/fd').length

async function lab(t: Test) {
  const datapath = new Datapath({ poll: 'sleep', spinUs: 0 })
  const ports = new Ports(datapath, new UnreadFrames(datapath.counters), pino({ level: 'silent' }))
  const guests: number[] = []
  t.teardown(async () => {
    await datapath.stop()
    await ports.close()
    for (const guest of guests) libc().close(guest)
    for (const device of DEVICES) deleteTap(device)
  })
  for (const device of DEVICES) {
    createTap(device, { up: true })
    guests.push(openTap(device, { nonBlocking: true }))
  }
  await datapath.start()
  await datapath.addNetwork({ options, epoch: 0, fence: 0 })
  for (const device of DEVICES) await ports.add(plain(device), 0)
  return { datapath, ports, guests }
}

/** From now on what the worker is asked for lies before it, until `answer`: then it is seen to, in order. */
function busy(datapath: Datapath) {
  const ask = datapath.ask.bind(datapath)
  const waiting: (() => void)[] = []
  datapath.ask = (name, args) =>
    new Promise((resolve, reject) => {
      waiting.push(() => void ask(name, args).then(resolve, reject))
    })
  const answer = () => {
    datapath.ask = ask
    for (const one of waiting) one()
  }
  return { waiting, answer }
}

/** How often frames that enter by one device have left by the other, from when the way is open. */
async function copies(datapath: Datapath, from: number, to: number): Promise<number[]> {
  const count = new Map<number, number>()
  const read = () => {
    for (const frame of readAll(to)) {
      const view = new DataView(frame.buffer, frame.byteOffset)
      if (view.getUint16(12) === 0x88b6) count.set(view.getUint32(14), (count.get(view.getUint32(14)) ?? 0) + 1)
    }
  }
  let id = 0
  await until(() => {
    write(from, withHeader(testFrame(++id)))
    read()
    return count.size > 0
  }, 'the way to be open')
  await datapath.call('ping', null)
  read()
  return [...new Set(count.values())]
}

const names = (ports: Ports) => ports.all().map(({ name }) => name)

t.test('a port that is added too late is taken back: added again, it gets and sends each frame once', async (t) => {
  const { datapath, ports, guests } = await lab(t)
  const before = openDescriptors()
  await ports.remove('b')
  const { answer } = busy(datapath)
  await t.rejects(ports.add(plain('b'), 0), { code: 'DEADLINE' })
  t.same(names(ports), ['a'])
  answer()
  await ports.add(plain('b'), 0)
  const [a, b] = guests
  t.same(await copies(datapath, a, b), [1])
  t.same(await copies(datapath, b, a), [1])
  await until(() => openDescriptors() <= before, 'the sockets of the first one to be closed')
  for (const name of DEVICES) await ports.remove(name)
  await t.resolves(datapath.removeNetwork(network), 'none is left in the worker')
})

t.test('one that is removed too late is removed, and the next one keeps its sockets', async (t) => {
  const { datapath, ports, guests } = await lab(t)
  const before = openDescriptors()
  const { waiting, answer } = busy(datapath)
  await t.rejects(ports.remove('b'), { code: 'DEADLINE' })
  t.same(names(ports), ['a'])
  const again = ports.add(plain('b'), 0)
  await until(() => waiting.length === 2, 'the next one to wait for the worker')
  answer()
  await again
  const [a, b] = guests
  t.same(await copies(datapath, a, b), [1])
  t.same(await copies(datapath, b, a), [1])
  await until(() => openDescriptors() <= before, 'the sockets of the first one to be closed')
  for (const name of DEVICES) await ports.remove(name)
  await t.resolves(datapath.removeNetwork(network))
})

t.test('a network that is added too late is none', async (t) => {
  const { datapath } = await lab(t)
  const other = { options: { ...options, network: 'other' }, epoch: 0, fence: 0 }
  const { answer } = busy(datapath)
  await t.rejects(datapath.addNetwork(other), { code: 'DEADLINE' })
  answer()
  await t.rejects(datapath.call('fdb', { network: 'other' }), { code: 'NETWORK_UNKNOWN' })
  await datapath.addNetwork(other)
  t.same(await datapath.call('fdb', { network: 'other' }), [])
})
