// The restore table: order of its steps, every failure at every step, and random schedules.

import t from 'tap'
import { planRestore } from '../../coordinator/sequence/restore/plan.js'
import {
  beginRestore,
  type RestoreAt,
  type RestoreCall,
  type RestoreEffect,
  type RestoreEvent,
  type RestoreInput,
  type RestoreState,
  restoreEnded,
  restoreStates,
  restoreTable,
  stepRestore,
  switchAttempts,
  transfersAtOnce,
} from '../../coordinator/sequence/restore/sequence.js'
import { contentOf } from '../../src/api/files.js'
import type { FileReference, RestoreCheck } from '../../src/api/schemas.js'
import type { ErrorReport } from '../../src/errors/errors.js'
import fc from '../property.js'
import { chooser, manifestOf, now0, preflightOf } from './fixtures.js'

const manifest = manifestOf({ a: ['vm1', 'vm2'], b: ['vm3'] })
const swapped = { vm1: 'b', vm2: 'b', vm3: 'a' }
const clean: RestoreCheck = { missing: [], running: [], problems: [] }
const broken: ErrorReport = { code: 'SOCKET_UNREACHABLE', message: 'gone', action: 'Start it.' }
const vmsOf: Readonly<Record<string, readonly string[]>> = { a: ['vm3'], b: ['vm1', 'vm2'] }

function inputOf(more: Partial<RestoreInput> = {}, placement: Record<string, string> = swapped): RestoreInput {
  const plan = planRestore(manifest, placement, ['a', 'b', 'c'])
  return { manifest, plan, replace: false, endFirst: false, maxKnownEpoch: 4, deadlineMs: 120_000, ...more }
}

class Bench {
  at: RestoreAt
  ms = now0.ms
  readonly effects: RestoreEffect[] = []

  constructor(input: RestoreInput = inputOf()) {
    const first = beginRestore(input, now0)
    this.at = first
    this.effects.push(...first.effects)
  }

  feed(event: RestoreEvent): RestoreEffect[] {
    const next = stepRestore(this.at, event, { ms: this.ms, wallUs: now0.wallUs })
    this.at = next
    this.effects.push(...next.effects)
    return [...next.effects]
  }

  of<D extends RestoreEffect['do']>(what: D): Extract<RestoreEffect, { do: D }>[] {
    return this.effects.filter((e): e is Extract<RestoreEffect, { do: D }> => e.do === what)
  }

  get error(): ErrorReport | undefined {
    const outcome = this.of('finish')[0]?.outcome
    return outcome?.kind === 'failed' ? outcome.error : undefined
  }

  /** `lacking`: what each host says it lacks of the files that are looked for. */
  reach(
    state: RestoreState,
    check: RestoreCheck = { ...clean, missing: [missingFile] },
    lacking: Readonly<Record<string, FileReference[]>> = { b: check.missing, c: check.missing },
  ): this {
    const looked = (host: string): RestoreEvent => {
      const missing = lacking[host] ?? []
      return { kind: 'checked', host, purpose: 'holder', check: { ...clean, missing } }
    }
    const way: RestoreEvent[] = [
      { kind: 'preflighted', host: 'a', preflight: preflightOf('a', [], { epoch: 9 }), holds: ['vm1', 'vm2'] },
      { kind: 'preflighted', host: 'b', preflight: preflightOf('b', []), holds: ['vm3'] },
      { kind: 'preflighted', host: 'c', preflight: preflightOf('c', []), holds: [] },
      { kind: 'checked', host: 'a', purpose: 'target', check: clean },
      { kind: 'checked', host: 'b', purpose: 'target', check },
      { kind: 'checked', host: 'a', purpose: 'former', check: clean },
      { kind: 'checked', host: 'b', purpose: 'former', check: clean },
      looked('a'),
      looked('b'),
      looked('c'),
      { kind: 'transferred', host: 'b', content: contentOf(missingFile) },
      { kind: 'loaded', host: 'a', loaded: { loaded: ['vm3'], channelFrames: 1 } },
      { kind: 'loaded', host: 'b', loaded: { loaded: ['vm1', 'vm2'], channelFrames: 2 } },
      { kind: 'paused', host: 'a', paused: { paused: ['vm1'] } },
      { kind: 'paused', host: 'c', paused: { paused: [] } },
      { kind: 'paused', host: 'b', paused: { paused: ['vm3'] } },
      { kind: 'switched', host: 'a', switched: { ended: ['vm1'], warnings: ['no bridge br0'] } },
      { kind: 'switched', host: 'c', switched: { ended: [], warnings: [] } },
      { kind: 'switched', host: 'b', switched: { ended: ['vm3'], warnings: [] } },
      { kind: 'resumed', host: 'a', resumed: { resumed: [{ vm: 'vm3', atUs: 1000 }] } },
      { kind: 'resumed', host: 'b', resumed: { resumed: [{ vm: 'vm1', atUs: 3500 }] } },
    ]
    for (const event of way) {
      if (this.at.state === state) return this
      this.feed(event)
    }
    return this
  }
}

const missingFile = manifest.parts[0]!.members[0]!.memory

t.test('the straight way', async (t) => {
  const bench = new Bench().reach('checking')
  const checks = bench.of('check')
  t.same(
    checks.map((c) => [c.purpose, c.host, c.request.members.map((m) => m.vm)]),
    [
      ['target', 'a', ['vm3']],
      ['target', 'b', ['vm1', 'vm2']],
      ['former', 'a', ['vm1', 'vm2']],
      ['former', 'b', ['vm3']],
    ],
  )
  t.equal(checks[0]?.request.epoch, 10, 'above all that was ever used')
  t.same(
    checks[0]?.request.channels.map((c) => c.path),
    ['/state/b/channel.pcapng'],
    'channel files follow the machines',
  )
  bench.reach('transferring')
  t.match(bench.of('transfer'), [{ from: 'a', to: 'b', file: missingFile }])
  t.same(bench.of('pause'), [], 'what runs runs on while files travel')
  bench.reach('loading')
  t.same(
    bench.of('load').map((l) => [l.host, l.request.members.map((m) => m.vm)]),
    [
      ['a', ['vm3']],
      ['b', ['vm1', 'vm2']],
    ],
  )
  bench.feed({ kind: 'loaded', host: 'a', loaded: { loaded: ['vm3'], channelFrames: 1 } })
  t.same(bench.of('pause'), [], 'and until all have loaded')
  bench.reach('pausing')
  t.same(
    bench.of('pause').map((p) => [p.host, p.order.machines]),
    ['a', 'b', 'c'].map((host) => [host, ['vm1', 'vm2', 'vm3']]),
    'every host, wherever a machine may be',
  )
  bench.feed({ kind: 'paused', host: 'a', paused: { paused: ['vm1'] } })
  bench.feed({ kind: 'paused', host: 'b', paused: { paused: ['vm3'] } })
  t.same(bench.of('switch'), [], 'the barrier: nothing is ended before all is ready, and all stand still')
  bench.feed({ kind: 'paused', host: 'c', paused: { paused: [] } })
  t.same(
    bench.of('switch').map((p) => p.host),
    ['a', 'b', 'c'],
    'a host that gets no machines is fenced all the same',
  )
  bench.feed({ kind: 'switched', host: 'a', switched: { ended: ['vm1'], warnings: ['no bridge br0'] } })
  bench.feed({ kind: 'switched', host: 'b', switched: { ended: ['vm3'], warnings: [] } })
  t.same(bench.of('resume'), [], 'none resumes before all have changed over')
  bench.feed({ kind: 'switched', host: 'c', switched: { ended: [], warnings: [] } })
  t.same(
    bench.of('resume').map((r) => r.host),
    ['a', 'b'],
  )
  bench.reach('done')
  const outcome = bench.of('finish')[0]?.outcome
  t.match(outcome, {
    kind: 'done',
    report: {
      epoch: 10,
      placement: swapped,
      channelFrames: 3,
      transferredBytes: 1000,
      resumedSkewMs: 2.5,
      warnings: ['host a: no bridge br0'],
    },
  })
  t.same(bench.of('abort'), [])
})

t.test('transfers are bounded, and each file goes once', async (t) => {
  const all = manifest.parts[0]!.members.flatMap((m) => [m.memory, m.disks[0]!.layers[0]!.file])
  const bench = new Bench().reach('transferring', { ...clean, missing: [...all, all[0]!] })
  t.equal(bench.of('transfer').length, transfersAtOnce)
  for (let done = 0; done < all.length; done++) {
    t.equal(bench.at.state, 'transferring')
    bench.feed({ kind: 'transferred', host: 'b', content: contentOf(all[done]!) })
    t.ok(bench.at.data.runningTransfers.length <= transfersAtOnce)
  }
  t.equal(bench.at.state, 'loading')
  t.equal(bench.of('transfer').length, all.length)
})

t.test('refusals touch nothing', async (t) => {
  const refusal = (check: RestoreCheck, input = inputOf(), lacking: Readonly<Record<string, FileReference[]>> = {}) => {
    const bench = new Bench(input).reach('transferring', check, lacking)
    t.notOk(bench.effects.some((e) => ['transfer', 'load', 'pause', 'abort'].includes(e.do)))
    t.equal(bench.at.state, 'refused')
    return bench.error
  }
  t.match(refusal({ ...clean, running: ['vm1'] }), { code: 'MACHINE_RUNNING', message: /vm1 on host b/ })
  t.match(refusal({ ...clean, problems: [{ ...broken, code: 'PORT_EXISTS' }] }), {
    code: 'PORT_EXISTS',
    message: /host b/,
  })
  const strange = { ...missingFile, digest: 'f'.repeat(64) }
  t.match(refusal({ ...clean, missing: [strange] }, inputOf(), { a: [strange], b: [strange], c: [strange] }), {
    code: 'STORE_DAMAGED',
    message: /^host b lacks .*memory\.img .* host a and host c have no copy$/,
  })
  const hung: RestoreCheck = { ...clean, running: ['vm1'], silent: [{ ...broken, code: 'HYPERVISOR_UNREACHABLE' }] }
  t.match(refusal(hung), { code: 'MACHINE_RUNNING' }, 'the first thing to say')
  t.match(refusal(hung, inputOf({ replace: true })), { code: 'HYPERVISOR_UNREACHABLE', message: /host b/ })
  const replaced = new Bench(inputOf({ replace: true, endFirst: true })).reach('pausing', {
    ...clean,
    running: ['vm1'],
  })
  for (const { order, timeoutMs } of replaced.of('pause'))
    t.ok(order.replace && order.pauseMs < timeoutMs, 'a host names who does not stop before it counts as silent itself')
  t.ok(replaced.of('load').every(({ request }) => request.endFirst))
})

t.test('a host that takes no part may be away; one that does may not', async (t) => {
  const bench = new Bench()
  bench.feed({ kind: 'agentFailed', host: 'c', call: { do: 'preflight' }, error: broken })
  bench.feed({ kind: 'preflighted', host: 'a', preflight: preflightOf('a', []), holds: [] })
  bench.feed({ kind: 'preflighted', host: 'b', preflight: preflightOf('b', []), holds: [] })
  t.equal(bench.at.state, 'checking')
  const unfenced = new Bench().reach('pausing')
  unfenced.feed({ kind: 'agentFailed', host: 'c', call: { do: 'pause' }, error: broken })
  t.equal(unfenced.reach('resuming').at.state, 'resuming', 'its frames are stopped by the fence of the others')
  const late = new Bench().reach('switching')
  for (let attempt = 1; attempt <= switchAttempts; attempt++)
    late.feed({ kind: 'agentFailed', host: 'c', call: { do: 'switch' }, error: broken })
  t.equal(late.reach('resuming').at.state, 'resuming')
  const other = new Bench()
  other.feed({ kind: 'agentFailed', host: 'b', call: { do: 'preflight' }, error: broken })
  t.match(other.error, { code: 'SOCKET_UNREACHABLE', message: 'host b: gone' })
})

/** All to b, with host a gone: b misses a file. */
function withoutA(): Bench {
  const bench = new Bench(inputOf({}, { vm1: 'b', vm2: 'b', vm3: 'b' }))
  bench.feed({ kind: 'agentFailed', host: 'a', call: { do: 'preflight' }, error: broken })
  bench.feed({ kind: 'preflighted', host: 'b', preflight: preflightOf('b', []), holds: [] })
  bench.feed({ kind: 'preflighted', host: 'c', preflight: preflightOf('c', []), holds: [] })
  bench.feed({ kind: 'checked', host: 'b', purpose: 'target', check: { ...clean, missing: [missingFile] } })
  return bench
}

t.test('a host that is gone is no obstacle where another has its files', async (t) => {
  const bench = withoutA()
  t.equal(bench.at.state, 'locating')
  t.same(
    bench
      .of('check')
      .filter((c) => c.purpose === 'holder')
      .map((c) => c.host),
    ['b', 'c'],
  )
  bench.feed({ kind: 'checked', host: 'b', purpose: 'holder', check: { ...clean, missing: [missingFile] } })
  bench.feed({ kind: 'checked', host: 'c', purpose: 'holder', check: clean })
  t.match(bench.of('transfer'), [{ from: 'c', to: 'b', file: missingFile }])
  bench.feed({ kind: 'transferred', host: 'b', content: contentOf(missingFile) })
  bench.feed({ kind: 'loaded', host: 'b', loaded: { loaded: ['vm1', 'vm2', 'vm3'], channelFrames: 1 } })
  for (const host of ['b', 'c']) bench.feed({ kind: 'paused', host, paused: { paused: [] } })
  for (const host of ['b', 'c']) bench.feed({ kind: 'switched', host, switched: { ended: [], warnings: [] } })
  bench.feed({ kind: 'resumed', host: 'b', resumed: { resumed: [] } })
  const outcome = bench.of('finish')[0]?.outcome
  if (outcome?.kind !== 'done') throw new Error('not done')
  t.match(outcome.report.warnings, [/^host a did not answer: if vm1 and vm2 of before run there/])
})

t.test('files that are nowhere: who lacks them, and who ought to have them', async (t) => {
  const bench = withoutA()
  bench.feed({ kind: 'checked', host: 'b', purpose: 'holder', check: { ...clean, missing: [missingFile] } })
  bench.feed({ kind: 'agentFailed', host: 'c', call: { do: 'check', purpose: 'holder' }, error: broken })
  t.match(bench.error, {
    code: 'STORE_DAMAGED',
    message: /^host b lacks .* host a, which ought to have it, cannot be asked/,
  })
  const damaged = new Bench().reach('transferring', undefined, { a: [missingFile], b: [missingFile], c: [missingFile] })
  t.match(damaged.error?.message, /^host b lacks .* missing or changed on host a, which ought to have it/)
})

t.test('equal content under several paths goes once, from any host that has it', async (t) => {
  const twin = { ...missingFile, path: '/elsewhere/blank.img' }
  const longer = { ...missingFile, bytes: missingFile.bytes + 1 }
  const bench = new Bench().reach('locating', { ...clean, missing: [missingFile, twin, longer] })
  const files = bench.of('check').find((c) => c.purpose === 'holder')?.request.files
  t.same(files?.map(contentOf), [contentOf(missingFile), contentOf(longer)])
})

t.test('a transfer that fails is asked of another host; of the last one it ends the restore', async (t) => {
  const bench = new Bench().reach('transferring', undefined, { b: [missingFile] })
  const call: RestoreCall = { do: 'transfer', content: contentOf(missingFile) }
  bench.feed({ kind: 'agentFailed', host: 'b', call, error: { ...broken, message: 'host a sends nothing more' } })
  t.same(
    bench.of('transfer').map((e) => e.from),
    ['a', 'c'],
  )
  bench.feed({ kind: 'agentFailed', host: 'b', call, error: { ...broken, message: 'host c sends nothing more' } })
  t.match(bench.at.data.failure, { message: 'host c sends nothing more' })
})

t.test('every failure at every step ends it; once begun, every target that does not run is told', async (t) => {
  const callOf: Partial<Record<RestoreState, RestoreCall>> = {
    preflight: { do: 'preflight' },
    checking: { do: 'check', purpose: 'target' },
    locating: { do: 'check', purpose: 'holder' },
    transferring: { do: 'transfer', content: contentOf(missingFile) },
    loading: { do: 'load' },
    pausing: { do: 'pause' },
    switching: { do: 'switch' },
    resuming: { do: 'resume' },
  }
  for (const [state, call] of Object.entries(callOf) as [RestoreState, RestoreCall][]) {
    const failures: RestoreEvent[] = [
      { kind: 'agentFailed', host: 'b', call, error: { ...broken, code: 'SNAPSHOT_UNKNOWN' } },
      { kind: 'deadline', timer: -1 },
      { kind: 'cancel', error: broken },
    ]
    for (const failure of failures) {
      const bench = new Bench().reach(state)
      t.equal(bench.at.state, state)
      bench.feed(failure.kind === 'deadline' ? { ...failure, timer: bench.at.data.timer } : failure)
      if (['switching', 'resuming'].includes(state) && failure.kind === 'cancel') {
        t.equal(bench.at.state, state, 'beyond the barrier nothing is called off')
        continue
      }
      // A host that cannot look for files has none to give; another may.
      if (state === 'locating' && failure.kind === 'agentFailed') {
        t.equal(bench.at.state, 'locating')
        continue
      }
      const begun = !['preflight', 'checking', 'locating'].includes(state)
      t.equal(bench.at.state, begun ? 'aborting' : 'refused', `${failure.kind} in ${state}`)
      t.same(
        bench.of('abort').map((a) => a.host),
        begun ? (['pausing', 'switching'].includes(state) ? ['a', 'b', 'c'] : ['a', 'b']) : [],
      )
      bench.feed({ kind: 'aborted', host: 'c', running: [], standing: [] })
      bench.feed({ kind: 'aborted', host: 'a', running: [], standing: [] })
      bench.feed({ kind: 'aborted', host: 'b', running: [], standing: [] })
      t.ok(restoreEnded(bench.at.state))
      t.ok(bench.error !== undefined)
    }
  }
})

t.test('a load that leaves a machine out is a failure', async (t) => {
  const bench = new Bench().reach('loading')
  bench.feed({ kind: 'loaded', host: 'b', loaded: { loaded: ['vm1'], channelFrames: 0 } })
  t.match(bench.at.data.failure, { code: 'RESTORE_FAILED', message: /host b did not load vm2/ })
})

t.test('machines that ran before their host was told to abort are named', async (t) => {
  const bench = new Bench().reach('resuming')
  bench.feed({ kind: 'agentFailed', host: 'a', call: { do: 'resume' }, error: { ...broken, code: 'SNAPSHOT_UNKNOWN' } })
  bench.feed({ kind: 'aborted', host: 'b', running: ['vm2'], standing: [] })
  bench.feed({ kind: 'aborted', host: 'a', running: [], standing: [] })
  t.match(bench.error, { code: 'RESTORE_FAILED', message: /only in part: vm2 run, but host a: gone/ })
})

t.test('machines that were paused and do not go on are named', async (t) => {
  const bench = new Bench().reach('pausing')
  bench.feed({
    kind: 'agentFailed',
    host: 'a',
    call: { do: 'pause' },
    error: { ...broken, code: 'HYPERVISOR_REFUSED' },
  })
  for (const [host, standing] of [
    ['a', ['vm3']],
    ['b', ['vm1', 'vm3']],
    ['c', []],
  ] as const)
    bench.feed({ kind: 'aborted', host, running: [], standing })
  t.match(bench.error, {
    message: /was undone; .* vm1 and vm3 stand still: they were paused, and do not go on$/,
    action: /^The switch there tries again and again; `snapswitch status` says how .* Start it\.$/,
  })
})

t.test('ends are ends', async (t) => {
  t.same(Object.keys(restoreTable).sort(), [...restoreStates].sort())
  const bench = new Bench().reach('done')
  for (const state of ['done', 'failed', 'refused'] as const) {
    const event: RestoreEvent = { kind: 'agentFailed', host: 'a', call: { do: 'resume' }, error: broken }
    const next = stepRestore({ ...bench.at, state }, event, now0)
    t.same([next.state, next.effects], [state, []])
  }
})

// --- random schedules ------------------------------------------------------------------------------------------------

function goodAnswer(effect: RestoreEffect, bench: Bench, missing: boolean): RestoreEvent | null {
  switch (effect.do) {
    case 'preflight':
      return { kind: 'preflighted', host: effect.host, preflight: preflightOf(effect.host, []), holds: ['vm1', 'vm3'] }
    case 'check': {
      const files = missing && effect.purpose !== 'former' && effect.host === 'b' ? [missingFile] : []
      return { kind: 'checked', host: effect.host, purpose: effect.purpose, check: { ...clean, missing: files } }
    }
    case 'transfer':
      return { kind: 'transferred', host: effect.to, content: contentOf(effect.file) }
    case 'pause':
      return { kind: 'paused', host: effect.host, paused: { paused: [] } }
    case 'switch':
      return { kind: 'switched', host: effect.host, switched: { ended: [], warnings: [] } }
    case 'load':
      return {
        kind: 'loaded',
        host: effect.host,
        loaded: { loaded: [...(vmsOf[effect.host] ?? [])], channelFrames: 1 },
      }
    case 'resume':
      return { kind: 'resumed', host: effect.host, resumed: { resumed: [] } }
    case 'abort':
      return { kind: 'aborted', host: effect.host, running: [], standing: [] }
    case 'timer':
      bench.ms += effect.afterMs
      return { kind: 'deadline', timer: effect.timer }
    default:
      return null
  }
}

function badAnswer(effect: RestoreEffect): RestoreEvent | null {
  const failed = (host: string, call: RestoreCall): RestoreEvent => ({ kind: 'agentFailed', host, call, error: broken })
  switch (effect.do) {
    case 'preflight':
    case 'load':
    case 'pause':
    case 'switch':
    case 'resume':
    case 'abort':
      return failed(effect.host, { do: effect.do })
    case 'check':
      return failed(effect.host, { do: 'check', purpose: effect.purpose })
    case 'transfer':
      return failed(effect.to, { do: 'transfer', content: contentOf(effect.file) })
    default:
      return null
  }
}

t.test(
  'random schedules: each ends done, refused with nothing touched, or failed with every target told',
  async (t) => {
    const ends: Record<string, number> = {}
    fc.assert(
      fc.property(fc.noBias(fc.integer()), (seed) => {
        const choose = chooser(seed)
        const bench = new Bench()
        const missing = choose(2) === 0
        const told = new Set<string>()
        const confirmed = new Set<string>()
        let pending: RestoreEffect[] = []
        const past: RestoreEvent[] = []
        let seen = 0
        for (let steps = 0; !restoreEnded(bench.at.state); steps++) {
          if (steps > 400) throw new Error(`not ended, in ${bench.at.state}`)
          for (; seen < bench.effects.length; seen++) {
            const effect = bench.effects[seen] as RestoreEffect
            const allLoaded = ['a', 'b'].every((host) => bench.at.data.loaded[host] !== undefined)
            if (effect.do === 'pause' && !allLoaded) throw new Error('paused before all had loaded')
            const all = (answers: object) =>
              ['a', 'b', 'c'].every((host) => host in answers || bench.at.data.absent.includes(host))
            if (effect.do === 'switch' && !all(bench.at.data.paused)) throw new Error('ended before all stood still')
            if (effect.do === 'resume' && !all(bench.at.data.switched))
              throw new Error('resumed before all were fenced')
            if (effect.do === 'abort') told.add(effect.host)
            if (effect.do !== 'progress' && effect.do !== 'finish') pending.push(effect)
          }
          if (past.length > 0 && steps < 200 && choose(15) === 0) {
            bench.feed(past[choose(past.length)] as RestoreEvent)
            continue
          }
          if (steps < 200 && choose(60) === 0) {
            bench.feed({ kind: 'cancel', error: broken })
            continue
          }
          if (pending.length === 0) throw new Error(`stuck in ${bench.at.state}`)
          const effect = pending[choose(pending.length)] as RestoreEffect
          // Timers ring rarely while there is something else to happen, or hardly any run would get far.
          if (effect.do === 'timer' && pending.length > 1 && steps < 200 && choose(30) !== 0) continue
          pending = pending.filter((e) => e !== effect)
          const fate = effect.do === 'timer' ? 39 : choose(40)
          const event =
            fate === 0
              ? badAnswer(effect)
              : fate === 1 && effect.do !== 'timer'
                ? null
                : goodAnswer(effect, bench, missing)
          if (event === null) continue
          if (event.kind === 'aborted') confirmed.add(event.host)
          if (event.kind !== 'deadline') past.push(event)
          bench.feed(event)
        }
        const { state, data } = bench.at
        ends[state] = (ends[state] ?? 0) + 1
        if (bench.of('finish').length !== 1) throw new Error('not exactly one outcome')
        const touched = bench.effects.some((e) => ['transfer', 'load', 'pause'].includes(e.do))
        if (state === 'refused' && touched) throw new Error('refused, yet something was touched')
        if (state === 'done' && (Object.keys(data.resumed).length !== 2 || told.size > 0))
          throw new Error('done, yet not all run')
        if (state === 'failed') {
          for (const host of [...data.input.plan.targets, ...data.begun]) {
            const isDone = data.resumed[host] !== undefined || (host === 'c' && data.switched[host] !== undefined)
            if (!isDone && !told.has(host)) throw new Error(`${host} was never told`)
          }
          for (const host of told) {
            if (!confirmed.has(host) && !data.unaborted.includes(host))
              throw new Error(`${host}: neither confirmed nor named`)
          }
        }
      }),
      { numRuns: 1500 },
    )
    t.comment(JSON.stringify(ends))
    for (const end of ['done', 'failed', 'refused']) t.ok((ends[end] ?? 0) > 20, `${end} was reached often`)
  },
)
