// The datapath as the daemon runs it, with its commands: cuts while frames flow on the fast path. With `buffer` nothing
// is lost, doubled or overtaken, and the ports are fast again when the cut is over, before the snapshot ends.

import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import t from 'tap'
import { quietLink } from '../../src/linux/ingress.js'
import { libc } from '../../src/linux/libc.js'
import { Links } from '../../src/linux/link.js'
import { createTap, openTap } from '../../src/linux/tap.js'
import { Datapath } from '../../switch/datapath/datapath.js'
import { readPortCounters } from '../../switch/forwarding/counters.js'
import { enterFreshNamespace, run, until } from '../linux/namespace.js'
import { fileLimit } from '../patience.js'
import { OPTIONS } from './rig.js'
import { type Fate, type Traffic, Word } from './traffic.js'

t.setTimeout(fileLimit(120_000))
enterFreshNamespace()

const CUTS = Number(process.env.CUTS ?? 6)
const network = 'lab0'
const ports = [0, 1]

t.test('cuts under load', async (t) => {
  const links = new Links()
  const datapath = new Datapath({ poll: 'adaptive', spinUs: 25 })
  t.teardown(async () => {
    await datapath.stop()
    links.close()
  })
  await datapath.start()
  await datapath.setFastPath('auto')
  t.equal(datapath.fastPathTrouble, null)
  const { bootId: _, bootedAt: __, ...options } = OPTIONS
  await datapath.addNetwork({ options, epoch: 1, fence: 0 })
  const ends: number[] = []
  for (const index of ports) {
    const device = `tap${index}`
    const { index: ifindex } = createTap(device)
    quietLink(links, links.get(device))
    run('sysctl', '-qw', `net.ipv6.conf.${device}.disable_ipv6=1`)
    ends.push(openTap(device, { nonBlocking: true }))
    run('ip', 'link', 'set', device, 'up')
    const mac = Uint8Array.of(2, 0, 0, 1, 0, index)
    const spec = { index, name: device, kind: 'member' as const, vm: device, epoch: 1, mac }
    await datapath.addPort({ network, spec, device: { device, ifindex } })
  }
  t.teardown(() => {
    for (const fd of ends) libc().close(fd)
  })
  const areFast = async () => {
    for (;;) {
      if ((await datapath.call('paths', { network })).every(({ why }) => why === null)) return
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }
  await areFast()

  const words = new SharedArrayBuffer(16)
  const state = new Int32Array(words)
  state[Word.STOP] = -1
  const start = (role: Traffic['role']) => {
    const workerData: Traffic = { role, ends, isTap: true, words, burst: 4, pauseMs: 0.2 }
    return new Worker(new URL('./traffic.js', import.meta.url), { workerData })
  }
  const workers = [start('send'), start('read')]
  const said = workers.map((worker) => once(worker, 'message'))
  await until(() => Atomics.load(state, Word.READY) === 2, 'traffic', 20_000)
  Atomics.store(state, Word.STOP, 0)
  Atomics.notify(state, Word.STOP)

  let verdicts = 0
  let held = 0
  for (let epoch = 2; epoch < 2 + CUTS; epoch++) {
    await areFast()
    await until(() => Atomics.load(state, Word.RECEIVED) > epoch * 1000, 'frames', 20_000)
    verdicts = Math.max(verdicts, (await datapath.call('verdicts', { network })).length)
    await datapath.call('begin', { network, epoch, policy: 'buffer', until: Date.now() + 10_000 })
    for (const port of ports) {
      await datapath.call('arm', { network, ports: [port] })
      await datapath.call('gate', { network, ports: [port] })
      await datapath.call('flip', { network, ports: [port], epoch, residue: [0] })
      held += (await datapath.call('gate', { network, ports: [port] })).held[0]!
      await datapath.call('release', { network, ports: [port], most: [] })
    }
    // All have cut, and their memory may be saved for long.
    await areFast()
    await datapath.call('end', { network })
    t.same(
      (await datapath.call('paths', { network })).map(({ why }) => why),
      [null, null],
      'its end makes nobody slow',
    )
  }
  Atomics.store(state, Word.STOP, 1)
  const [sent] = (await said[0]) as [number[][]]
  // What never comes is told below.
  const all = sent.flat().reduce((sum, frames) => sum + frames, 0)
  await until(() => Atomics.load(state, Word.RECEIVED) >= all, 'the last frames', 20_000).catch(() => undefined)
  Atomics.store(state, Word.STOP, 2)
  const [fates] = (await said[1]) as [Fate[][]]
  await datapath.call('paths', { network })
  t.equal(verdicts, 2, 'both ways were the kernel’s')
  t.comment(`${CUTS} cuts, ${sent[0]![1]} and ${sent[1]![0]} frames, ${held} held`)
  for (const [from, to] of [ports, [...ports].reverse()] as [number, number][]) {
    t.match(fates[from]![to], { received: sent[from]![to], doubled: 0, overtaken: 0 }, `from ${from} to ${to}`)
    t.equal(readPortCounters(datapath.counters, from).rxFrames, sent[from]![to], 'counted in')
    t.equal(readPortCounters(datapath.counters, to).txFrames, sent[from]![to], 'counted out')
  }
})
