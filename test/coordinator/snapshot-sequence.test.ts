// The snapshot table: its way when all goes well, every failure at every step, and random schedules.

import t from 'tap'
import {
  beginSnapshot,
  discardAttempts,
  type SnapshotAt,
  type SnapshotCall,
  type SnapshotEffect,
  type SnapshotEvent,
  type SnapshotInput,
  type SnapshotOutcome,
  type SnapshotState,
  snapshotEnded,
  snapshotStates,
  snapshotTable,
  stepSnapshot,
} from '../../coordinator/sequence/snapshot/sequence.js'
import type { Manifest } from '../../src/api/schemas.js'
import type { ErrorReport } from '../../src/errors/errors.js'
import fc from '../property.js'
import { chooser, manifestOf, now0, partOf, preflightOf } from './fixtures.js'

const layout: Readonly<Record<string, readonly string[]>> = { a: ['vm1', 'vm2'], b: ['vm3'] }
const input: SnapshotInput = {
  network: 'lab0',
  name: 'demo',
  policy: 'buffer',
  version: '0.1.0',
  hosts: ['a', 'b'],
  maxKnownEpoch: 2,
  deadlineMs: 60_000,
}
const broken: ErrorReport = { code: 'SOCKET_UNREACHABLE', message: 'gone', action: 'Start it.' }

/** Steps the machine by hand and keeps all that it asked for. */
class Bench {
  at: SnapshotAt
  ms = now0.ms
  readonly effects: SnapshotEffect[] = []

  constructor(given: SnapshotInput = input) {
    const first = beginSnapshot(given, now0)
    this.at = first
    this.effects.push(...first.effects)
  }

  feed(event: SnapshotEvent): SnapshotEffect[] {
    const next = stepSnapshot(this.at, event, { ms: this.ms, wallUs: now0.wallUs + (this.ms - now0.ms) * 1000 })
    this.at = next
    this.effects.push(...next.effects)
    return [...next.effects]
  }

  /** Takes it to a state on the straight way. */
  reach(state: SnapshotState): this {
    const way: SnapshotEvent[] = [
      { kind: 'preflighted', host: 'a', preflight: preflightOf('a', ['vm1', 'vm2'], { epoch: 6 }) },
      { kind: 'preflighted', host: 'b', preflight: preflightOf('b', ['vm3']) },
      { kind: 'stored' },
      { kind: 'prepared', host: 'a' },
      { kind: 'prepared', host: 'b' },
      { kind: 'local', host: 'a', event: { type: 'done', part: partOf('a', ['vm1', 'vm2'], 'demo', 7) } },
      { kind: 'local', host: 'b', event: { type: 'done', part: partOf('b', ['vm3'], 'demo', 7) } },
      { kind: 'stored' },
    ]
    for (const event of way) {
      if (this.at.state === state) return this
      this.feed(event)
    }
    return this
  }

  of<D extends SnapshotEffect['do']>(what: D): Extract<SnapshotEffect, { do: D }>[] {
    return this.effects.filter((e): e is Extract<SnapshotEffect, { do: D }> => e.do === what)
  }

  get outcome(): SnapshotOutcome | undefined {
    return this.of('finish')[0]?.outcome
  }
}

t.test('the straight way', async (t) => {
  const bench = new Bench()
  t.same(
    bench.of('preflight').map((e) => e.host),
    ['a', 'b'],
  )
  bench.reach('recording')
  t.equal(bench.of('store')[0]?.manifest.state, 'pending')
  t.equal(bench.of('store')[0]?.manifest.epoch, 7, 'one above the highest of hosts and manifests')
  t.equal(bench.of('prepare').length, 0, 'no host hears of it before the manifest is durable')
  bench.reach('preparing')
  t.same(
    bench.of('prepare').map((e) => [e.host, e.request.epoch, e.request.policy]),
    [
      ['a', 7, 'buffer'],
      ['b', 7, 'buffer'],
    ],
  )
  const beforeTake = bench.effects.length
  bench.reach('taking')
  const taking = bench.effects.slice(beforeTake)
  t.same(
    taking.slice(0, 2).map((e) => e.do),
    ['take', 'take'],
    'both TAKEs leave together, before anything else',
  )
  bench.reach('complete')
  const outcome = bench.outcome
  t.equal(outcome?.kind, 'complete')
  t.equal(outcome?.manifest?.state, 'complete')
  t.same(
    outcome?.manifest?.parts.map((p) => p.host),
    ['a', 'b'],
  )
  t.match(outcome?.manifest?.figures, {
    held: 9,
    early: 6,
    recorded: 3,
    lost: 0,
    dropped: 12,
    downtimeMaxMs: 10,
    skewMs: 0,
  })
  t.same(bench.of('discard'), [])
})

t.test('room for a recording is asked for only when there is to be one', async (t) => {
  for (const record of [false, true]) {
    const bench = new Bench({ ...input, record })
    const little = { freeBytes: 1 << 21, recordingBytes: 1 << 21 }
    bench.feed({ kind: 'preflighted', host: 'a', preflight: preflightOf('a', ['vm1'], little) })
    bench.feed({ kind: 'preflighted', host: 'b', preflight: preflightOf('b', ['vm3'], little) })
    t.equal(bench.at.state, record ? 'refused' : 'recording')
  }
})

t.test('what preflight refuses changes nothing anywhere', async (t) => {
  type Changes = Parameters<typeof preflightOf>[2]
  const refusedBy = (a: Changes, b: Changes = {}, record = false) => {
    const bench = new Bench({ ...input, record })
    bench.feed({ kind: 'preflighted', host: 'a', preflight: preflightOf('a', ['vm1'], a) })
    bench.feed({ kind: 'preflighted', host: 'b', preflight: preflightOf('b', ['vm3'], b) })
    t.equal(bench.at.state, 'refused')
    t.same(
      bench.effects.filter((e) => ['store', 'prepare', 'take', 'discard'].includes(e.do)),
      [],
    )
    const outcome = bench.outcome
    return outcome?.kind === 'failed' ? outcome.error : undefined
  }
  const peer = { port: 'trunk0', host: 'b', bootId: 'boot-b', alive: true, lastHeardMs: 5 }
  t.match(refusedBy({ problems: [{ ...broken, code: 'MACHINE_NOT_RUNNING' }] }), {
    code: 'MACHINE_NOT_RUNNING',
    message: 'host a: gone',
  })
  t.equal(refusedBy({ peers: [{ ...peer, alive: false }] })?.code, 'PEER_DOWN')
  t.equal(refusedBy({ peers: [{ ...peer, bootId: 'older' }] })?.code, 'PEER_DOWN')
  t.match(refusedBy({ uplinks: ['up'], peers: [peer] }, { uplinks: ['up'] }), {
    code: 'PEER_DOWN',
    message: 'host b: the switch of a has not been heard on uplink up',
  })
  t.equal(refusedBy({ version: '9.9.9' })?.code, 'PEER_VERSION')
  t.equal(refusedBy({ freeBytes: 10, neededBytes: 11 })?.code, 'STORE_FULL')
  t.match(refusedBy({ freeBytes: 1 << 21, recordingBytes: 1 << 21 }, {}, true), {
    code: 'STORE_FULL',
    message: 'host a: the snapshot needs 3145728 bytes, up to 2097152 of them for the recording; 2097152 are free',
    action: /leave out --record/,
  })
  t.match(refusedBy({ peers: [peer, { ...peer, port: 'trunk1' }] }), {
    code: 'CONFIG_INVALID',
    message: /ports trunk0 and trunk1 all lead to the switch of b/,
  })
  t.match(refusedBy({ peers: [peer, { ...peer, port: 'up', host: 'c', bootId: 'boot-c' }] }), {
    code: 'CONFIG_INVALID',
    message: 'host a: the switch of c is on port up, and the coordinator has no host c in this network',
    action: /`hosts:`/,
  })
  t.equal(
    refusedBy({ peers: [{ ...peer, host: 'c', alive: false }] })?.message,
    'host a: no live switch answers on port trunk0',
    'one that is silent may be anybody',
  )
  t.equal(
    refusedBy({ peers: [{ ...peer, host: 'x' }] }, { host: 'x' })?.message,
    'the switch that the coordinator knows as host b calls itself x',
    'it is known by another name, and that is all',
  )
  t.equal(refusedBy({ host: 'x' })?.code, 'CONFIG_INVALID')
  t.equal(refusedBy({ epoch: 0xffffffff })?.code, 'EPOCH_STALE')
  t.match(refusedBy({}, { members: preflightOf('b', ['vm1']).members }), {
    code: 'CONFIG_INVALID',
    message: /vm1.*a and b/,
  })
  t.equal(refusedBy({ members: [] }, { members: [] })?.code, 'MACHINE_UNKNOWN')
  const two = refusedBy({ version: '9.9.9', freeBytes: 0 })
  t.match(two?.message, /versions.*needs/, 'all that is wrong is said at once')
})

t.test('every failure at every step ends with every host told, or with none having heard of it', async (t) => {
  const failures: Record<string, (bench: Bench) => SnapshotEvent> = {
    'agent lost': (bench) => ({ kind: 'agentFailed', host: 'b', call: callOf(bench.at.state), error: broken }),
    'local failure': () => ({ kind: 'local', host: 'a', event: { type: 'failed', error: broken } }),
    deadline: (bench) => ({ kind: 'deadline', timer: bench.at.data.timer }),
    cancel: () => ({ kind: 'cancel', error: { ...broken, code: 'SNAPSHOT_DISCARDED' } }),
    'store failed': () => ({ kind: 'storeFailed', error: { ...broken, code: 'STORE_FULL' } }),
    'wrong part': () => ({ kind: 'local', host: 'a', event: { type: 'done', part: partOf('a', ['vm1'], 'demo', 7) } }),
    'part of another epoch': () => ({
      kind: 'local',
      host: 'a',
      event: { type: 'done', part: partOf('a', ['vm1', 'vm2'], 'demo', 6) },
    }),
    'restarted meanwhile': () => ({
      kind: 'local',
      host: 'a',
      event: { type: 'done', part: { ...partOf('a', ['vm1', 'vm2'], 'demo', 7), bootId: 'newer' } },
    }),
  }
  const callOf = (state: SnapshotState): SnapshotCall =>
    state === 'preflight' ? 'preflight' : state === 'preparing' ? 'prepare' : 'take'
  let ended = 0
  for (const state of snapshotStates.filter((s) => !snapshotEnded(s) && s !== 'discarding' && s !== 'failing')) {
    for (const [what, failure] of Object.entries(failures)) {
      const bench = new Bench().reach(state)
      bench.feed(failure(bench))
      if (bench.at.state === 'discarding') {
        t.same(
          bench.of('discard').map((e) => [e.host, e.epoch]),
          [
            ['a', 7],
            ['b', 7],
          ],
          `${what} in ${state}`,
        )
        bench.feed({ kind: 'discarded', host: 'a' })
        bench.feed({ kind: 'discarded', host: 'b' })
      } else if (bench.at.state === 'recording' && what === 'cancel') {
        bench.feed({ kind: 'stored' })
        t.same(bench.of('prepare'), [], 'cancelled before any host heard of it')
      } else if (!snapshotEnded(bench.at.state)) {
        t.equal(bench.at.state, state, `${what} means nothing in ${state}`)
        continue
      }
      if (bench.at.state === 'failing') bench.feed({ kind: 'stored' })
      t.ok(bench.at.state === 'failed' || bench.at.state === 'refused', `${what} in ${state} ends it`)
      t.equal(bench.outcome?.kind, 'failed')
      const written = bench.of('store').map((e) => e.manifest.state)
      if (bench.at.state === 'failed') t.equal(written.at(-1), 'failed')
      ended++
    }
  }
  t.ok(ended >= 14, `${ended} combinations ended it`)
})

t.test('committing: only the store decides', async (t) => {
  const bench = new Bench().reach('committing')
  bench.feed({ kind: 'deadline', timer: bench.at.data.timer })
  bench.feed({ kind: 'cancel', error: broken })
  bench.feed({ kind: 'agentFailed', host: 'a', call: 'take', error: broken })
  t.equal(bench.at.state, 'committing', 'a discard now could leave a complete manifest without its parts')
  bench.feed({ kind: 'stored' })
  t.equal(bench.outcome?.kind, 'complete')
})

t.test('discards are repeated, bounded; who could not be told is in the manifest', async (t) => {
  const bench = new Bench().reach('taking')
  bench.feed({ kind: 'agentFailed', host: 'b', call: 'take', error: broken })
  bench.feed({ kind: 'discarded', host: 'a' })
  const delays: number[] = []
  for (let attempt = 1; attempt < discardAttempts; attempt++) {
    const again = bench.feed({ kind: 'agentFailed', host: 'b', call: 'discard', error: broken })
    for (const effect of again) if (effect.do === 'discard') delays.push(effect.delayMs)
  }
  t.same(delays, [200, 400, 800, 1600])
  bench.feed({ kind: 'agentFailed', host: 'b', call: 'discard', error: broken })
  t.equal(bench.at.state, 'failing')
  bench.feed({ kind: 'stored' })
  const manifest = bench.outcome?.manifest as Manifest
  t.same(manifest.undiscarded, ['b'])
  t.match(manifest.error?.message, /host b could not be told/)
})

t.test('a deadline names who is late', async (t) => {
  const bench = new Bench().reach('taking')
  bench.feed({ kind: 'local', host: 'a', event: { type: 'done', part: partOf('a', ['vm1', 'vm2'], 'demo', 7) } })
  bench.feed({ kind: 'deadline', timer: bench.at.data.timer })
  t.match(bench.at.data.failure, { code: 'DEADLINE', message: /host b had not finished its part after 60000 ms/ })
  t.notMatch(bench.at.data.failure?.message, /host a/)
})

t.test('every state answers every event without throwing', async (t) => {
  const events: SnapshotEvent[] = [
    { kind: 'preflighted', host: 'a', preflight: preflightOf('a', ['vm1']) },
    { kind: 'stored' },
    { kind: 'storeFailed', error: broken },
    { kind: 'prepared', host: 'a' },
    { kind: 'local', host: 'a', event: { type: 'paused', vm: 'vm1', atUs: 1 } },
    { kind: 'discarded', host: 'a' },
    { kind: 'agentFailed', host: 'a', call: 'take', error: broken },
    { kind: 'deadline', timer: 0 },
    { kind: 'cancel', error: broken },
  ]
  t.same(Object.keys(snapshotTable).sort(), [...snapshotStates].sort())
  for (const state of ['complete', 'failed', 'refused'] as const) {
    for (const event of events) {
      const at = { ...new Bench().reach('complete').at, state }
      const next = stepSnapshot(at, event, now0)
      t.equal(next.state, state, 'an end is an end')
      t.same(next.effects, [])
    }
  }
})

// --- random schedules ------------------------------------------------------------------------------------------------

/**
 * What becomes of one pending effect: its good answer, its failure, nothing ever (store: always one of the first two).
 */
type Fate = 'good' | 'bad' | 'lost'

interface World {
  readonly told: Set<string>
  readonly confirmed: Set<string>
  readonly mayHaveBegun: Set<string>
  readonly prepared: Set<string>
  readonly written: Manifest[]
  done: Set<string>
}

/** Performs effects in an order and with fates that fast-check chooses. Gives the steps it took to the end. */
function play(
  choose: (n: number) => number,
  hosts: readonly string[],
  vms: (host: string) => string[],
): { bench: Bench; world: World } {
  const bench = new Bench({ ...input, hosts })
  const world: World = {
    told: new Set(),
    confirmed: new Set(),
    mayHaveBegun: new Set(),
    prepared: new Set(),
    written: [],
    done: new Set(),
  }
  let seen = 0
  let pending: SnapshotEffect[] = []
  const events: SnapshotEvent[] = []
  const fate = (): Fate => (['bad', 'lost'] as const)[choose(50)] ?? 'good'
  for (let steps = 0; !snapshotEnded(bench.at.state); steps++) {
    if (steps > 500) throw new Error(`not ended after ${steps} steps, in ${bench.at.state}`)
    for (; seen < bench.effects.length; seen++) {
      const effect = bench.effects[seen] as SnapshotEffect
      if (effect.do === 'prepare' && world.written.length === 0)
        throw new Error('prepared before the manifest is durable')
      if (effect.do === 'take' && world.prepared.size < hosts.length) throw new Error('cut before all were prepared')
      if (effect.do === 'prepare' || effect.do === 'take') world.mayHaveBegun.add(effect.host)
      if (effect.do === 'discard') world.told.add(effect.host)
      if (effect.do !== 'progress' && effect.do !== 'finish') pending.push(effect)
    }
    // Now and then an answer that comes twice, or late, or a cancel.
    if (events.length > 0 && steps < 200 && choose(12) === 0) {
      bench.feed(events[choose(events.length)] as SnapshotEvent)
      continue
    }
    if (steps < 200 && choose(40) === 0) {
      bench.feed({ kind: 'cancel', error: broken })
      continue
    }
    if (pending.length === 0) throw new Error(`stuck in ${bench.at.state}: nothing is under way`)
    const effect = pending[choose(pending.length)] as SnapshotEffect
    // Timers ring rarely while there is something else to happen, or hardly any run would get far.
    if (effect.do === 'timer' && pending.length > 1 && steps < 200 && choose(30) !== 0) continue
    pending = pending.filter((e) => e !== effect)
    for (const event of answersTo(effect, fate(), vms, world, bench)) {
      if (event.kind !== 'deadline' && event.kind !== 'stored' && event.kind !== 'storeFailed') events.push(event)
      bench.feed(event)
    }
  }
  return { bench, world }
}

function answersTo(
  effect: SnapshotEffect,
  fate: Fate,
  vms: (host: string) => string[],
  world: World,
  bench: Bench,
): SnapshotEvent[] {
  if (effect.do === 'timer') {
    bench.ms += effect.afterMs
    return [{ kind: 'deadline', timer: effect.timer }]
  }
  if (effect.do === 'store') {
    if (fate === 'bad') return [{ kind: 'storeFailed', error: broken }]
    world.written.push(effect.manifest)
    return [{ kind: 'stored' }]
  }
  if (effect.do === 'progress' || effect.do === 'finish' || fate === 'lost') return []
  const { host } = effect
  if (fate === 'bad') {
    if (effect.do === 'take') return [{ kind: 'local', host, event: { type: 'failed', error: broken } }]
    return [{ kind: 'agentFailed', host, call: effect.do, error: broken }]
  }
  switch (effect.do) {
    case 'preflight':
      return [{ kind: 'preflighted', host, preflight: preflightOf(host, vms(host)) }]
    case 'prepare':
      world.prepared.add(host)
      return [{ kind: 'prepared', host }]
    case 'take': {
      world.done.add(host)
      const cuts = vms(host).map((vm): SnapshotEvent => ({ kind: 'local', host, event: { type: 'cut', vm, atUs: 5 } }))
      const part = partOf(host, vms(host), 'demo', bench.at.data.epoch)
      return [...cuts, { kind: 'local', host, event: { type: 'done', part } }]
    }
    case 'discard':
      world.confirmed.add(host)
      return [{ kind: 'discarded', host }]
  }
}

t.test('random schedules: each ends complete, or failed with every host told', async (t) => {
  const ends: Record<string, number> = {}
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 4 }), fc.noBias(fc.integer()), (hostCount, seed) => {
      const choose = chooser(seed)
      const hosts = ['a', 'b', 'c', 'd'].slice(0, hostCount)
      const { bench, world } = play(choose, hosts, (host) => (layout[host] ?? [`vm-${host}`]) as string[])
      const { state } = bench.at
      ends[state] = (ends[state] ?? 0) + 1
      const finishes = bench.of('finish')
      if (finishes.length !== 1) throw new Error(`${finishes.length} outcomes`)
      const last = world.written.at(-1)
      if (state === 'complete') {
        if (world.told.size > 0) throw new Error('complete, though hosts were told to discard')
        if (world.done.size !== hosts.length) throw new Error('complete without all parts')
        if (last?.state !== 'complete' || last.parts.length !== hosts.length)
          throw new Error('manifest is not complete')
      } else {
        for (const host of world.mayHaveBegun) if (!world.told.has(host)) throw new Error(`${host} was never told`)
        for (const host of world.told) {
          const named = bench.at.data.undiscarded.includes(host)
          if (!world.confirmed.has(host) && !named) throw new Error(`${host}: neither confirmed nor named`)
        }
        if (state === 'refused' && world.mayHaveBegun.size > 0) throw new Error('refused after it had begun')
        if (last?.state === 'complete') throw new Error('failed, yet its manifest says complete')
      }
      const commits = bench.of('store').filter((e) => e.manifest.state === 'complete').length
      if (commits > 1) throw new Error('committed twice')
    }),
    { numRuns: 1500 },
  )
  t.comment(JSON.stringify(ends))
  for (const end of ['complete', 'failed', 'refused']) t.ok((ends[end] ?? 0) > 20, `${end} was reached often`)
})

t.test('the same schedule gives the same run', async (t) => {
  const run = () => {
    const choose = chooser(7)
    return play(choose, ['a', 'b'], (host) => [...(layout[host] as string[])]).bench.effects
  }
  t.same(run(), run())
})

t.test('a manifest that failed keeps no parts', async (t) => {
  const bench = new Bench().reach('committing')
  bench.feed({ kind: 'storeFailed', error: broken })
  bench.feed({ kind: 'discarded', host: 'a' })
  bench.feed({ kind: 'discarded', host: 'b' })
  const failed = bench.of('store').at(-1)?.manifest
  t.match(failed, { state: 'failed', parts: [], figures: null, error: { code: 'SOCKET_UNREACHABLE' } })
  t.notSame(failed, manifestOf(layout))
})
