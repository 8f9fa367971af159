// One host's part of a restore as a table: no dead states, an abort in any state ends it, and however requests, ends of
// work and deadlines come, one piece of work is under way at a time.

import t from 'tap'
import type { Clock } from '../../src/runtime/clock.js'
import {
  type RestoreEvent,
  type RestoreState,
  type RestoreWork,
  restoreTable,
} from '../../switch/agent/restore/local-restore.js'
import { StepRunner } from '../../switch/agent/restore/step-runner.js'
import fc from '../property.js'

const states = Object.keys(restoreTable) as RestoreState[]
const ENDS: readonly RestoreState[] = ['done', 'undone']
const WORKS = ['load', 'pause', 'switch', 'register', 'resume', 'finish', 'undo', 'undoRest'] as const

function reachable(from: RestoreState, events?: readonly RestoreEvent[]): Set<RestoreState> {
  const seen = new Set<RestoreState>([from])
  for (const state of seen)
    for (const [event, [next]] of Object.entries(restoreTable[state]))
      if (events === undefined || events.includes(event as RestoreEvent)) seen.add(next)
  return seen
}

t.test('every state can be reached, and an abort ends it', async (t) => {
  t.equal(reachable('begun').size, states.length)
  for (const state of states) {
    const ways = [...reachable(state, ['abort', 'ok']), ...reachable(state, ['abort', 'failed'])]
    t.ok(
      ways.some((end) => ENDS.includes(end)),
      `${state} comes to an end`,
    )
  }
})

t.test('what has ended stays so, and nothing begins while a piece of work is under way', async (t) => {
  for (const state of states) {
    const begins = Object.entries(restoreTable[state]).filter(([, [, effect]]) => WORKS.includes(effect as RestoreWork))
    const isBusy = restoreTable[state].ok[0] !== state
    for (const [event] of begins) {
      t.notOk(ENDS.includes(state), `${event} in ${state}`)
      if (isBusy) t.ok(event === 'ok' || event === 'failed', `${event} in ${state}`)
    }
    // At rest there is a deadline: every way there sets it.
    for (const [event, [next, effect]] of Object.entries(restoreTable[state])) {
      const ends = (event === 'ok' || event === 'failed') && isBusy
      const isAtRest = restoreTable[next].ok[0] === next && !ENDS.includes(next)
      if (ends && isAtRest) t.equal(effect, 'rest', `${state} --${event}--> ${next}`)
    }
  }
})

/** Work that ends when and as it is told. */
class Works {
  readonly ends: ((ok: boolean) => void)[] = []
  readonly begun: RestoreWork[] = []
  most = 0

  readonly table = Object.fromEntries(
    WORKS.map((work) => [
      work,
      () => {
        this.begun.push(work)
        return new Promise<string>((resolve, reject) => {
          const fail = () => reject(new Error(work))
          this.ends.push((ok) => (ok || work.startsWith('undo') ? resolve(work) : fail()))
          this.most = Math.max(this.most, this.ends.length)
        })
      },
    ]),
  ) as Record<RestoreWork, () => Promise<unknown>>
}

const settled = () => new Promise((resolve) => setImmediate(resolve))
const requests = ['load', 'pause', 'switch', 'resume', 'finish', 'abort'] as const

t.test('any order of requests, ends and deadlines', async (t) => {
  const input = fc.array(fc.constantFrom(...requests, 'ok', 'ok', 'failed', 'late' as const), { maxLength: 24 })
  await fc.assert(
    fc.asyncProperty(input, async (inputs) => {
      const works = new Works()
      const late: { act: (() => void) | null } = { act: null }
      const clock: Clock = {
        now: () => ({ ms: 0, wallUs: 0 }),
        after: (_ms, act) => {
          late.act = act
          return () => {
            late.act = null
          }
        },
      }
      const steps = new StepRunner(clock, works.table, 1000, () => void steps.ask('abort'))
      let open = 0
      const ask = (request: (typeof requests)[number]) => {
        open++
        const done = () => {
          open--
        }
        steps.ask(request).then(done, done)
      }
      for (const input of inputs) {
        if (input === 'ok' || input === 'failed') works.ends.shift()?.(input === 'ok')
        else if (input === 'late') late.act?.()
        else ask(input)
        await settled()
        if (works.most > 1) return false
      }
      ask('abort')
      for (let round = 0; round < 10; round++) {
        works.ends.shift()?.(true)
        await settled()
      }
      const undone = works.begun.filter((work) => work.startsWith('undo'))
      return open === 0 && works.most <= 1 && undone.length <= 1
    }),
    { numRuns: 1000 },
  )
  t.pass()
})

t.test('asked again: the same answer; called off under way: undone at its end, and the request is told', async (t) => {
  const works = new Works()
  const clock: Clock = { now: () => ({ ms: 0, wallUs: 0 }), after: () => () => undefined }
  const steps = new StepRunner(clock, works.table, 1000, () => undefined)
  const [first, second] = [steps.ask('load'), steps.ask('load')]
  works.ends.shift()?.(true)
  t.same(await Promise.all([first, second, steps.ask('load')]), ['load', 'load', 'load'])
  const pausing = steps.ask('pause')
  const aborted = steps.ask('abort')
  const refused = t.rejects(pausing, { code: 'SNAPSHOT_DISCARDED' })
  works.ends.shift()?.(true)
  await settled()
  t.same(works.begun, ['load', 'pause', 'undo'])
  works.ends.shift()?.(true)
  await Promise.all([refused, aborted])
  await t.rejects(steps.ask('switch'), { code: 'SNAPSHOT_DISCARDED' })
})
