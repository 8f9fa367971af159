// Changes of ports and networks that meet the end of the datapath's worker, or the start of the next one: whatever
// they answer, the next worker has what the daemon says that there is.

import './crash-hook.js'
import { once } from 'node:events'
import { setImmediate } from 'node:timers/promises'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { createTap, deleteTap } from '../../src/linux/tap.js'
import { Datapath } from '../../switch/datapath/datapath.js'
import { Counter, ROW } from '../../switch/forwarding/counters.js'
import { Ports } from '../../switch/ports/ports.js'
import { UnreadFrames } from '../../switch/ports/unread.js'
import { enterFreshNamespace } from '../linux/namespace.js'
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
