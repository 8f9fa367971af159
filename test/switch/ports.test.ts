// Ports and their devices, with a datapath that answers when the test says so: changes that come while another is under way.

import { EventEmitter } from 'node:events'
import { pino } from 'pino'
import t from 'tap'
import { createTap, deleteTap } from '../../src/linux/tap.js'
import { UnreadFrames } from '../../switch/agent/unread.js'
import type { Datapath } from '../../switch/datapath/datapath.js'
import { createCounters } from '../../switch/forwarding/counters.js'
import { Ports } from '../../switch/ports.js'
import { enterFreshNamespace } from '../linux/namespace.js'

enterFreshNamespace()

/** Knows which ports it has been given; answers at once, or, while `holds`, when `answer` is called. */
class MadeUpDatapath extends EventEmitter {
  readonly counters = createCounters()
  readonly has = new Set<number>()
  holds = false
  private readonly waiting: (() => void)[] = []

  addPort({ spec }: { spec: { index: number } }): Promise<void> {
    this.has.add(spec.index)
    return this.answered()
  }

  portChanged(): Promise<void> {
    return this.answered()
  }

  removePort(_network: string, index: number): Promise<void> {
    this.has.delete(index)
    return this.answered()
  }

  answer(): void {
    this.holds = false
    for (const resolve of this.waiting.splice(0)) resolve()
  }

  private answered(): Promise<void> {
    return this.holds ? new Promise((resolve) => this.waiting.push(resolve)) : Promise.resolve()
  }
}

const turns = () => new Promise((resolve) => setTimeout(resolve, 20))

t.test('a port is removed while its device comes back: it stays removed, and its index is free', async (t) => {
  const datapath = new MadeUpDatapath()
  const ports = new Ports(
    datapath as unknown as Datapath,
    new UnreadFrames(datapath.counters),
    pino({ level: 'silent' }),
  )
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
