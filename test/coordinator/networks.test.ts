// The networks that a coordinator inside `snapswitch switch` has: as the switches tell, while hosts come, go and fall
// silent, and while work is under way.

import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Coordinator } from '../../coordinator/coordinator.js'
import { LocalNetworks } from '../../coordinator/networks.js'
import { Catalogue } from '../../coordinator/store/catalogue.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import { fileLimit, patience } from '../patience.js'
import { FakeSwitch, silent, workDirectory } from './fake-switch.js'
import { asked, holdUp, waits, watchedClock } from './lab.js'

t.setTimeout(fileLimit(60_000))

/** Host a has the coordinator; a and b have lab1, c has not. */
async function lab(t: Test) {
  const directory = await workDirectory(t)
  const a = new FakeSwitch(directory, 'a', ['vm1'])
  const b = new FakeSwitch(directory, 'b', ['vm2'])
  const c = new FakeSwitch(directory, 'c', [])
  a.networks = ['lab1']
  b.networks = ['lab1']
  await Promise.all([a, b, c].map((one) => one.start()))
  const sockets = Object.fromEntries([a, b, c].map(({ host, socketPath }) => [host, socketPath]))
  const networks = new LocalNetworks('a', sockets, silent)
  const catalogue = new Catalogue(join(directory, 'store'))
  await catalogue.open()
  const clock = watchedClock()
  const coordinator = new Coordinator({ networks, catalogue, logger: silent, version: '0.1.0', embedded: true, clock })
  t.teardown(async () => {
    await coordinator.stop(100)
    await Promise.all([a, b, c].map((one) => one.stop()))
  })
  const create = (name?: string, more: object = {}) =>
    coordinator.create({ network: 'lab1', ...(name === undefined ? {} : { name }), ...more }, () => {})
  const hostsOf = async (network: string) => {
    await networks.refresh()
    return networks.all().get(network)?.hosts
  }
  return { a, b, c, networks, coordinator, create, hostsOf, clock }
}

const away = new SnapswitchError('INTERNAL', 'it cannot tell', 'Nothing.')

t.test('a network is where the switches say, and where one cannot tell', async (t) => {
  const { a, b, c, hostsOf, networks } = await lab(t)
  t.same(await hostsOf('lab1'), ['a', 'b'])
  t.equal(await hostsOf('lab0'), undefined, 'this host is not of it')
  const before = networks.all().get('lab1')
  await hostsOf('lab1')
  t.equal(networks.all().get('lab1'), before, 'nothing has changed')
  c.faults.set('status', away)
  t.same(await hostsOf('lab1'), ['a', 'b', 'c'])
  c.faults.clear()
  await b.stop()
  t.same(await hostsOf('lab1'), ['a', 'b'], 'it may have machines still')
  a.faults.set('status', away)
  c.networks = ['lab1']
  t.same(await hostsOf('lab1'), ['a', 'b'], 'without this host all is as it was')
  a.faults.clear()
  a.networks = []
  t.equal(await hostsOf('lab1'), undefined)
})

t.test('a restore goes on while hosts come and go, and while its network goes', async (t) => {
  for (const change of ['silent', 'gone'] as const) {
    const { a, b, c, coordinator, create, hostsOf } = await lab(t)
    await create('demo')
    const goOn = holdUp(b, 'restorePause')
    const restoring = coordinator.restore('lab1', 'demo', { replace: true }, () => {}).catch((error: unknown) => error)
    await asked(b, 'pause')
    if (change === 'silent') c.faults.set('status', away)
    else a.networks = []
    t.same(await hostsOf('lab1'), change === 'silent' ? ['a', 'b', 'c'] : undefined)
    goOn()
    t.match(await restoring, { name: 'demo', network: 'lab1' }, change)
    t.ok(b.calls.includes('resume'), b.calls.join())
  }
})

t.test('who has waited finds the network as it is by then', async (t) => {
  const { a, c, coordinator, create, clock } = await lab(t)
  await create('demo')
  const waitMs = patience(9_999)
  const order = { wait: true, deadlineMs: waitMs }
  /** Has `act` wait for a snapshot, and host c join the network meanwhile. */
  async function whileHostJoins<T>(act: () => Promise<T>): Promise<T> {
    c.networks = ['lab0']
    a.calls.length = 0
    clock.waits.length = 0
    const goOn = holdUp(a, 'prepare')
    const first = create()
    await asked(a, 'prepare')
    const second = act()
    await waits(clock, waitMs)
    c.networks = ['lab1']
    goOn()
    await first
    return second
  }
  const next = await whileHostJoins(() => create('next', order))
  t.same(
    next.parts.map(({ host }) => host),
    ['a', 'b', 'c'],
  )
  const elsewhere = { ...order, placement: { vm1: 'c' }, replace: true }
  const restored = await whileHostJoins(() => coordinator.restore('lab1', 'demo', elsewhere, () => {}))
  t.same(restored.placement, { vm1: 'c', vm2: 'b' })
})
