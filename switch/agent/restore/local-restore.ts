// One host's part of a restore, as a table: docs/internals/restore.md. Pure; session.ts does the work and
// reports how it ended.
//
//   begun -> loading -> loaded -> pausing -> paused -> switching -> switched -> registering -> resuming -> done
//
// One piece of work at a time. What is asked for meanwhile waits for its end; what was asked for before is answered
// again. While nothing is under way the session's deadline runs: it ends in an abort. An abort undoes everything, but
// for what was told to run.

export type RestoreState =
  | 'begun'
  | 'loading'
  | 'loaded'
  | 'pausing'
  | 'paused'
  | 'switching'
  /** The barrier may be passed: it can be switched again, or undone. */
  | 'halfSwitched'
  | 'switched'
  /** The machines are made known to the daemon that comes after this one. */
  | 'registering'
  | 'resuming'
  | 'halfResumed'
  | 'done'
  /** Called off; undone when the work under way has ended. */
  | 'retreating'
  /** The same, and machines have been told to run: those that do stay. */
  | 'retreatingPartly'
  | 'undoing'
  | 'undone'

/** What is asked for. */
export type RestoreRequested = 'load' | 'pause' | 'switch' | 'resume' | 'finish' | 'abort'

export type RestoreEvent =
  | RestoreRequested
  /** How the work under way has ended. */
  | 'ok'
  | 'failed'

export type RestoreWork =
  | 'load'
  | 'pause'
  | 'switch'
  | 'register'
  | 'resume'
  /** This host gets no machines: it has done its part. */
  | 'finish'
  | 'undo'
  /** Of machines that have been told to run, those that do run on. */
  | 'undoRest'

export type RestoreEffect =
  | RestoreWork
  /** Nothing is under way: the deadline runs. */
  | 'rest'
  /** Ask again when the work under way has ended. */
  | 'wait'
  /** Say what was said to it before, or will be. */
  | 'repeat'
  | 'refuse'

type Step = readonly [RestoreState, RestoreEffect | null]
type Row = Readonly<Record<RestoreEvent, Step>>

const undo: Step = ['undoing', 'undo']
const undoRest: Step = ['undoing', 'undoRest']

/** Answers all requests in one way; nothing ends, for nothing is under way. */
function allOf(state: RestoreState, effect: RestoreEffect): Row {
  const step: Step = [state, effect]
  const never: Step = [state, null]
  return { load: step, pause: step, switch: step, resume: step, finish: step, abort: step, ok: never, failed: never }
}

export const restoreTable: Readonly<Record<RestoreState, Row>> = {
  begun: { ...allOf('begun', 'refuse'), load: ['loading', 'load'], pause: ['pausing', 'pause'], abort: undo },
  loading: {
    ...allOf('loading', 'wait'),
    load: ['loading', 'repeat'],
    abort: ['retreating', 'wait'],
    ok: ['loaded', 'rest'],
    failed: undo,
  },
  loaded: {
    ...allOf('loaded', 'refuse'),
    load: ['loaded', 'repeat'],
    pause: ['pausing', 'pause'],
    switch: ['switching', 'switch'],
    abort: undo,
  },
  pausing: {
    ...allOf('pausing', 'wait'),
    abort: ['retreating', 'wait'],
    ok: ['paused', 'rest'],
    failed: ['loaded', 'rest'],
  },
  paused: {
    ...allOf('paused', 'refuse'),
    load: ['paused', 'repeat'],
    pause: ['pausing', 'pause'],
    switch: ['switching', 'switch'],
    abort: undo,
  },
  switching: {
    ...allOf('switching', 'wait'),
    switch: ['switching', 'repeat'],
    abort: ['retreating', 'wait'],
    ok: ['switched', 'rest'],
    failed: ['halfSwitched', 'rest'],
  },
  halfSwitched: {
    ...allOf('halfSwitched', 'repeat'),
    switch: ['switching', 'switch'],
    resume: ['halfSwitched', 'refuse'],
    finish: ['halfSwitched', 'refuse'],
    abort: undo,
  },
  switched: {
    ...allOf('switched', 'repeat'),
    resume: ['registering', 'register'],
    finish: ['done', 'finish'],
    abort: undo,
  },
  registering: {
    ...allOf('registering', 'repeat'),
    abort: ['retreating', 'wait'],
    ok: ['resuming', 'resume'],
    failed: ['switched', 'rest'],
  },
  // Past this an undoing could end what others have heard of already.
  resuming: {
    ...allOf('resuming', 'repeat'),
    abort: ['retreatingPartly', 'wait'],
    ok: ['done', null],
    failed: ['halfResumed', 'rest'],
  },
  halfResumed: { ...allOf('halfResumed', 'repeat'), resume: ['resuming', 'resume'], abort: undoRest },
  done: { ...allOf('done', 'repeat'), abort: ['done', null] },
  retreating: { ...allOf('retreating', 'refuse'), abort: ['retreating', 'wait'], ok: undo, failed: undo },
  retreatingPartly: {
    ...allOf('retreatingPartly', 'refuse'),
    abort: ['retreatingPartly', 'wait'],
    ok: ['done', null],
    failed: undoRest,
  },
  undoing: {
    ...allOf('undoing', 'refuse'),
    abort: ['undoing', 'repeat'],
    ok: ['undone', null],
    failed: ['undone', null],
  },
  undone: { ...allOf('undone', 'refuse'), abort: ['undone', 'repeat'] },
}

export function restoreStep(state: RestoreState, event: RestoreEvent): Step {
  return restoreTable[state][event]
}
