// Of many ports only those with traffic are asked for frames; a silent one is found when it has something.

import t from 'tap'
import { check, libc } from '../../src/linux/libc.js'
import { ActivePorts } from '../../switch/datapath/active-ports.js'
import type { Port } from '../../switch/datapath/port/port.js'
import { Unsent } from '../../switch/datapath/unsent.js'

const EFD_NONBLOCK = 0o4000
const one = new Uint8Array(new BigUint64Array([1n]).buffer)

/** A port whose descriptor can be made ready. */
class FakePort implements Port {
  readonly index: number
  readonly name: string
  readonly ifindex = 1
  readonly fd = check(libc().eventfd(0, EFD_NONBLOCK), 'eventfd')
  readonly isCalm = true
  failures = 0
  flushes = 0

  constructor(index: number) {
    this.index = index
    this.name = `port${index}`
  }

  ready(): void {
    libc().write(this.fd, one, 8)
  }

  receive = () => 0
  send = () => true
  flush(): void {
    this.flushes++
  }
  release(): void {}
  tick(): void {}
  housekeeping(): void {}
  failed(): void {
    this.failures++
  }
  isBound = () => true
  handOver(): void {}
  woken(): void {}
  close(): void {
    libc().close(this.fd)
  }
}

function many(t: { teardown(end: () => void): void }, count: number) {
  let changes = 0
  const active = new ActivePorts(() => changes++)
  const ports = Array.from({ length: count }, (_, i) => new FakePort(i))
  for (const port of ports) active.add(port, 1000)
  t.teardown(() => {
    for (const port of ports) port.close()
    active.close()
  })
  return { active, ports, changes: () => changes }
}

t.test('silent ports are not asked, and are again when they have something', async (t) => {
  const { active, ports } = many(t, 200)
  active.rest(1100)
  t.equal(active.ports.length, 200, 'all are asked at first')
  for (const i of [3, 150]) active.brought(ports[i]!, 1150)
  active.rest(1300)
  t.equal(active.ports.length, 16)
  t.ok(active.ports.includes(ports[3]!) && active.ports.includes(ports[150]!), 'those with traffic are')
  active.wake(1310)
  t.equal(active.ports.length, 16, 'nobody has anything')
  for (let i = 50; i < 140; i++) ports[i]!.ready()
  active.wake(1320)
  active.wake(1320)
  t.ok(
    ports.slice(50, 140).every((port) => active.ports.includes(port)),
    'more than one look takes',
  )
  t.equal(new Set(active.ports).size, active.ports.length, 'each once')
  t.equal(active.ports.length, 16 + 90)
  t.same(
    ports.map(({ failures }) => failures).filter((count) => count > 0),
    [],
  )
  active.rest(1400)
  t.ok(
    ports.slice(50, 140).every((port) => active.ports.includes(port)),
    'they are asked for a while',
  )
  active.rest(1600)
  t.equal(active.ports.length, 16)
  active.wake(1601)
  t.ok(active.ports.length > 16, 'what has not been read is not forgotten')
})

t.test('few ports are always asked', async (t) => {
  const { active } = many(t, 16)
  active.rest(100_000)
  t.equal(active.ports.length, 16)
})

t.test('ports go, silent or not', async (t) => {
  const { active, ports, changes } = many(t, 40)
  active.rest(2000)
  const before = changes()
  for (const port of ports.splice(0, 30)) {
    active.remove(port)
    port.ready()
    port.close()
  }
  t.ok(changes() > before)
  active.wake(2001)
  t.equal(active.ports.length, 10 - ports.filter((port) => !active.ports.includes(port)).length)
  t.ok(active.ports.every((port) => ports.includes(port as FakePort)))
  for (const port of ports) active.activate(port, 2002)
  t.equal(active.ports.length, 10)
})

t.test('only ports that were given frames are flushed, each once', async (t) => {
  const { ports } = many(t, 20)
  const unsent = new Unsent()
  for (const i of [4, 7, 4, 4]) unsent.note(ports[i]!)
  unsent.flush()
  unsent.flush()
  t.same(
    ports.flatMap(({ flushes }, i) => (flushes > 0 ? [[i, flushes]] : [])),
    [
      [4, 1],
      [7, 1],
    ],
  )
  unsent.note(ports[4]!)
  unsent.flush()
  t.equal(ports[4]!.flushes, 2)
})
