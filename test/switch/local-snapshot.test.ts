// One host's part of a snapshot as a table: no dead states, and every order of events ends done or failed with every
// machine released.

import t from 'tap'
import { type LocalEffect, type LocalInput, LocalSnapshot } from '../../switch/agent/snapshot/local-snapshot.js'
import {
  type MemberEffect,
  type MemberEvent,
  type MemberState,
  memberStep,
  memberTable,
} from '../../switch/agent/snapshot/member-cut.js'
import fc from '../property.js'

const ENDS: readonly MemberState[] = ['done', 'failed']
const error = { code: 'DEADLINE', message: 'too late', action: 'Again.' } as const

/** What the agent reports when it has done what it was asked to. */
const answers: Record<MemberEffect, MemberEvent> = {
  gate: 'gated',
  settle: 'settled',
  pause: 'paused',
  flip: 'flipped',
  capture: 'resumed',
  release: 'released',
  recover: 'recovered',
}

type Row = Partial<Record<MemberEvent, readonly [MemberState, MemberEffect | null]>>
const rows = Object.entries(memberTable) as [MemberState, Row][]
const nextOf = (state: MemberState): MemberState[] => Object.values(memberTable[state] as Row).map(([next]) => next)

function reachable(from: MemberState): Set<MemberState> {
  const seen = new Set<MemberState>([from])
  for (const state of seen) for (const next of nextOf(state)) seen.add(next)
  return seen
}

t.test('every state of a machine can be reached, and leads to an end', async (t) => {
  t.equal(reachable('ready').size, rows.length)
  for (const [state] of rows) {
    t.ok(
      ENDS.some((end) => reachable(state).has(end)),
      `${state} leads to an end`,
    )
    if (state !== 'failed' && state !== 'recovering') t.ok(reachable(state).has('failed'), `${state} can fail`)
  }
  t.same(nextOf('failed'), [])
})

t.test('whatever state asks for an effect, takes its answer', async (t) => {
  for (const [state, row] of rows) {
    for (const [event, [next, effect]] of Object.entries(row)) {
      if (effect === null) continue
      t.not(memberStep(next, answers[effect]), null, `${state} --${event}--> ${next} waits for ${answers[effect]}`)
    }
  }
  t.not(memberStep('capturing', 'sealed'), null)
  t.not(memberStep('releasing', 'sealed'), null)
  t.not(memberStep('sealing', 'sealed'), null)
})

t.test('an abort recovers a machine from every state but those that are over it', async (t) => {
  for (const [state] of rows) {
    const over = state === 'recovering' || state === 'failed'
    t.same(memberStep(state, 'abort'), over ? null : ['recovering', 'recover'], state)
  }
})

t.test('the straight way, one effect after another', async (t) => {
  const effects: (MemberEffect | null)[] = []
  let state: MemberState = 'ready'
  for (const event of ['begin', 'gated', 'settled', 'paused', 'flipped', 'resumed', 'released', 'sealed'] as const) {
    const step: readonly [MemberState, MemberEffect | null] = memberStep(state, event)!
    state = step[0]
    effects.push(step[1])
  }
  t.equal(state, 'done')
  t.same(effects, ['gate', 'settle', 'pause', 'flip', 'capture', 'release', null, null])
})

t.test('a driver that keeps the machine stopped while it saves', async (t) => {
  t.same(memberStep('capturing', 'sealed'), ['capturingSealed', null])
  t.same(memberStep('capturingSealed', 'resumed'), ['releasingSealed', 'release'])
  t.same(memberStep('releasingSealed', 'released'), ['done', null])
})

/** Plays the agent: performs effects in any order, fails some, and watches what the machines are left with. */
class Agent {
  readonly snapshot: LocalSnapshot
  /** What is under way and will answer. */
  readonly pending: LocalInput[] = [{ kind: 'closed' }]
  readonly gated = new Map<string, boolean>()
  readonly paused = new Map<string, boolean>()
  readonly cuts = new Map<string, number>()
  finished: LocalEffect[] = []
  written = 0
  advanced = 0
  began = 0

  constructor(machines: readonly string[]) {
    this.snapshot = new LocalSnapshot(machines)
    for (const vm of machines) {
      this.gated.set(vm, false)
      this.paused.set(vm, false)
      this.cuts.set(vm, 0)
    }
  }

  input(input: LocalInput): void {
    const before = this.snapshot.state
    const effects = this.snapshot.step(input)
    if (before === 'done' || before === 'failed') {
      if (effects.length > 0) throw new Error(`${before}, and yet ${JSON.stringify(effects)}`)
    }
    for (const effect of effects) this.#perform(effect)
  }

  #perform(effect: LocalEffect): void {
    if (effect.kind === 'begin') this.began++
    else if (effect.kind === 'advance') this.advanced++
    else if (effect.kind === 'finish') this.finished.push(effect)
    else if (effect.kind === 'write') {
      this.written++
      for (const [vm, state] of this.snapshot.members) {
        if (state.state !== 'done') throw new Error(`written while ${vm} is ${state.state}`)
      }
      this.pending.push({ kind: 'written' })
    } else this.#performFor(effect.vm, effect.effect)
  }

  #performFor(vm: string, effect: MemberEffect): void {
    this.pending.push({ kind: 'member', vm, event: answers[effect] })
    if (effect === 'gate') this.gated.set(vm, true)
    if (effect === 'pause') {
      if (!this.gated.get(vm)) throw new Error(`${vm} is paused with its gate open`)
      this.paused.set(vm, true)
    }
    if (effect === 'flip') {
      if (!this.paused.get(vm)) throw new Error(`${vm} is flipped while it runs`)
      this.cuts.set(vm, this.cuts.get(vm)! + 1)
    }
    if (effect === 'capture') {
      this.paused.set(vm, false)
      this.pending.push({ kind: 'member', vm, event: 'sealed' })
    }
    if (effect === 'release') {
      if (this.paused.get(vm)) throw new Error(`${vm} is released while it is paused`)
      this.gated.set(vm, false)
    }
    if (effect === 'recover') {
      this.gated.set(vm, false)
      this.paused.set(vm, false)
    }
  }
}

t.test(
  'any order of answers, triggers, failures and late events: done or failed, every machine released',
  async (t) => {
    const count = { done: 0, failed: 0 }
    const spurious = fc.record({
      vm: fc.constantFrom('a', 'b', 'c', 'stranger'),
      event: fc.constantFrom<MemberEvent>('begin', 'sealed', 'recovered', 'resumed', 'released', 'gated'),
    })
    const choice = fc.oneof(
      { weight: 20, arbitrary: fc.record({ kind: fc.constant('answer' as const), at: fc.nat() }) },
      { weight: 1, arbitrary: fc.record({ kind: fc.constant('early' as const) }) },
      { weight: 1, arbitrary: fc.record({ kind: fc.constant('take' as const) }) },
      { weight: 1, arbitrary: fc.record({ kind: fc.constant('late' as const), input: spurious }) },
      { weight: 1, arbitrary: fc.record({ kind: fc.constant('abort' as const) }) },
    )
    const machines = fc.constantFrom<string[][]>([], ['a'], ['a', 'b'], ['a', 'b', 'c'])
    fc.assert(
      fc.property(machines, fc.array(choice, { maxLength: 80, size: 'max' }), fc.boolean(), (vms, choices, aborts) => {
        const agent = new Agent(vms)
        const answer = (at: number) => {
          const [input] = agent.pending.splice(at % agent.pending.length, 1)
          agent.input(input)
        }
        for (const one of choices) {
          if (one.kind === 'answer') {
            if (agent.pending.length > 0 && agent.snapshot.state !== 'prepared') answer(one.at)
          } else if (one.kind === 'abort') {
            if (aborts) agent.input({ kind: 'abort', error })
          } else if (one.kind === 'late') {
            // An answer that nobody waits for any more must not move a machine; one that is waited for is not late.
            const state = agent.snapshot.members.get(one.input.vm)?.state
            if (state === 'done' || state === 'failed' || state === undefined) {
              agent.input({ kind: 'member', ...one.input })
            }
          } else agent.input({ kind: one.kind })
        }
        agent.input({ kind: 'take' })
        while (agent.pending.length > 0) answer(0)
        const { state } = agent.snapshot
        if (state !== 'done' && state !== 'failed') throw new Error(`hangs in ${state}`)
        count[state]++
        if (agent.finished.length !== 1) throw new Error(`finished ${agent.finished.length} times`)
        for (const vm of vms) {
          if (agent.gated.get(vm)) throw new Error(`the gate of ${vm} is closed`)
          if (agent.paused.get(vm)) throw new Error(`${vm} is paused`)
          if (agent.cuts.get(vm)! > 1) throw new Error(`${vm} has cut twice`)
        }
        const [finish] = agent.finished
        if (state === 'done') {
          if (agent.written !== 1 || agent.advanced !== 0 || agent.began !== 1)
            throw new Error('done without its steps')
          t.same(finish, { kind: 'finish', error: null })
        } else {
          if (!aborts) throw new Error('failed, though nobody called it off')
          if (agent.advanced !== 1) throw new Error('the network was not moved on')
          t.same(finish, { kind: 'finish', error })
        }
      }),
      { numRuns: 1000 },
    )
    t.ok(count.done > 200 && count.failed > 200, `${count.done} done, ${count.failed} failed`)
  },
)

t.test('an abort once it is done changes nothing: a finished part is deleted like any snapshot', async (t) => {
  const agent = new Agent(['a'])
  agent.input({ kind: 'take' })
  while (agent.pending.length > 0) agent.input(agent.pending.shift()!)
  t.equal(agent.snapshot.state, 'done')
  t.equal(agent.snapshot.ended, true)
  t.same(agent.snapshot.step({ kind: 'abort', error }), [])
  t.equal(agent.snapshot.state, 'done')
})

t.test('called off before it was taken: recovered, never begun', async (t) => {
  const agent = new Agent(['a', 'b'])
  agent.input({ kind: 'abort', error })
  agent.input({ kind: 'take' })
  while (agent.pending.length > 0) agent.input(agent.pending.shift()!)
  t.equal(agent.snapshot.state, 'failed')
  t.equal(agent.began, 0)
  t.equal(agent.cuts.get('a'), 0)
})

t.test('a port that moves calls it off until its machine is released', async (t) => {
  const moved = { kind: 'moved', vm: 'a', error } as const
  const steps: LocalInput[] = [
    { kind: 'take' },
    ...(['gated', 'settled', 'paused', 'flipped', 'resumed'] as const).map((event) => ({
      kind: 'member' as const,
      vm: 'a',
      event,
    })),
  ]
  for (let count = 0; count <= steps.length; count++) {
    const { snapshot } = new Agent(['a', 'b'])
    for (const step of steps.slice(0, count)) snapshot.step(step)
    const { state } = snapshot.members.get('a')!
    snapshot.step({ ...moved, vm: 'stranger' })
    t.not(snapshot.state, 'undoing', 'of a machine that is none of the snapshot’s')
    t.match(snapshot.step(moved), [{ kind: 'member', vm: 'a', effect: 'recover' }, {}, { kind: 'advance' }], state)
  }
  for (const last of ['released', 'sealed'] as const) {
    const { snapshot } = new Agent(['a', 'b'])
    for (const step of steps) snapshot.step(step)
    snapshot.step({ kind: 'member', vm: 'a', event: 'released' })
    if (last === 'sealed') snapshot.step({ kind: 'member', vm: 'a', event: last })
    t.same(snapshot.step(moved), [], `${last}: it has cut`)
    t.equal(snapshot.state, 'cutting')
  }
})

t.test('a host without machines writes its part as soon as its channels are closed', async (t) => {
  const agent = new Agent([])
  agent.input({ kind: 'take' })
  t.equal(agent.snapshot.state, 'cutting')
  agent.input({ kind: 'closed' })
  t.equal(agent.snapshot.state, 'writing')
  agent.input({ kind: 'written' })
  t.equal(agent.snapshot.state, 'done')
})
