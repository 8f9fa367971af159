// The global sequence of `snapshot restore` as a table (docs/internals/restore.md):
//
//   preflight -> checking -> locating -> transferring -> loading -> pausing -> switching -> resuming -> done
//       |            |           |             |            |          |           |           |
//       +------------+-refused---+             +------------+----------+-----------+-----------+--> aborting -> failed
//
// Everything that can fail comes before anything is ended: files travel, and the new machines are loaded beside those
// that run. Then what runs is paused on all hosts, and the barrier is passed: it lies between `pausing` and
// `switching`. Until then an abort leaves the former machines running. Beyond it they are ended, every host is fenced,
// and no machine runs before all hosts have changed over. Invariant: once `transferring` has begun, the only ways out
// are `done`, with every machine running, or through `aborting`, where every host that has begun is told. Beyond the
// barrier a switch and a resume are repeated, bounded. A host that still does not resume is told to abort: it ends what
// never ran. Machines that run, run on (for them it is as if the others had crashed just after the cut), and the error
// names them.

import type { ErrorReport } from '../../../src/errors/errors.js'
import { type Instant, onHost, step, type Table } from '../table.js'
import { afterPreflight, checked, located, refuse, transferFailed, transferred } from './steps.js'
import { loaded, paused, pauseFailed, resumed, resumeFailed, switched, switchFailed } from './switch.js'
import {
  at,
  type RestoreAt,
  type RestoreData,
  type RestoreEffect,
  type RestoreEvent,
  type RestoreState,
  type RestoreStep,
} from './types.js'
import { aborted, abortFailed, conclude, fail, late } from './undo.js'

export { beginRestore } from './steps.js'
export * from './types.js'

export function stepRestore(at: RestoreAt, event: RestoreEvent, now: Instant): RestoreStep {
  return step(restoreTable, at, event, now)
}

export function restoreEnded(state: RestoreState): boolean {
  return state === 'done' || state === 'failed' || state === 'refused'
}

type Act = (data: RestoreData, now: Instant) => RestoreStep

const onTimer =
  (state: RestoreState, act: Act) =>
  (data: RestoreData, event: { readonly timer: number }, now: Instant): RestoreStep =>
    event.timer === data.timer ? act(data, now) : at(state, data)

const failOnHost = (data: RestoreData, event: { host: string; error: ErrorReport }) =>
  fail(data, onHost(event.host, event.error))

/** Hosts that have not answered yet. */
const without = (hosts: readonly string[], answers: Readonly<Record<string, unknown>>) =>
  hosts.filter((host) => answers[host] === undefined)

const inert = (state: RestoreState) => {
  const ignore = (data: RestoreData): RestoreStep => at(state, data)
  return {
    preflighted: ignore,
    checked: ignore,
    transferred: ignore,
    loaded: ignore,
    paused: ignore,
    switched: ignore,
    resumed: ignore,
    aborted: ignore,
    agentFailed: ignore,
    deadline: ignore,
    cancel: ignore,
  }
}

export const restoreTable = {
  preflight: {
    ...inert('preflight'),
    preflighted: (data, event, now) =>
      afterPreflight(
        {
          ...data,
          preflights: { ...data.preflights, [event.host]: event.preflight },
          holds: { ...data.holds, [event.host]: event.holds },
        },
        now,
      ),
    agentFailed: (data, event, now) =>
      data.input.plan.targets.includes(event.host)
        ? refuse(data, onHost(event.host, event.error))
        : afterPreflight({ ...data, absent: [...data.absent, event.host] }, now),
    deadline: onTimer('preflight', (data) =>
      refuse(
        data,
        late(
          data,
          'asking',
          data.input.plan.hosts.filter((h) => data.preflights[h] === undefined),
        ),
      ),
    ),
    cancel: (data, event) => refuse(data, event.error),
  },
  checking: {
    ...inert('checking'),
    checked: (data, event, now) => checked(data, event.host, event.purpose, event.check, now),
    agentFailed: (data, event, now) =>
      // A former host that no longer knows the machine has nothing that could run.
      event.call.do === 'check' && event.call.purpose === 'former' && event.error.code === 'MACHINE_UNKNOWN'
        ? checked(data, event.host, 'former', { missing: [], running: [], problems: [] }, now)
        : refuse(data, onHost(event.host, event.error)),
    deadline: onTimer('checking', (data) =>
      refuse(data, late(data, 'checking', [...new Set(data.checking.map((c) => c.split(' ')[1] as string))])),
    ),
    cancel: (data, event) => refuse(data, event.error),
  },
  locating: {
    ...inert('locating'),
    checked: (data, event, now) =>
      event.purpose === 'holder' ? located(data, event.host, event.check.missing, now) : at('locating', data),
    agentFailed: (data, event, now) =>
      event.call.do === 'check' && event.call.purpose === 'holder'
        ? located(data, event.host, null, now)
        : at('locating', data),
    deadline: onTimer('locating', (data) =>
      refuse(data, late(data, 'looking for files', [...new Set(data.checking.map((c) => c.split(' ')[1] as string))])),
    ),
    cancel: (data, event) => refuse(data, event.error),
  },
  transferring: {
    ...inert('transferring'),
    transferred: (data, event, now) => transferred(data, event.host, event.content, now),
    agentFailed: (data, event, now) =>
      event.call.do === 'transfer'
        ? transferFailed(data, event.host, event.call.content, event.error, now)
        : at('transferring', data),
    deadline: onTimer('transferring', (data) =>
      fail(data, late(data, 'copying files', [...new Set(data.runningTransfers.map((t) => t.to))])),
    ),
    cancel: (data, event) => fail(data, event.error),
  },
  loading: {
    ...inert('loading'),
    loaded: (data, event, now) => loaded(data, event.host, event.loaded, now),
    agentFailed: (data, event) => (event.call.do === 'load' ? failOnHost(data, event) : at('loading', data)),
    deadline: onTimer('loading', (data) =>
      fail(data, late(data, 'loading', without(data.input.plan.targets, data.loaded))),
    ),
    cancel: (data, event) => fail(data, event.error),
  },
  pausing: {
    ...inert('pausing'),
    paused: (data, event, now) => paused(data, event.host, event.paused, now),
    agentFailed: (data, event, now) =>
      event.call.do === 'pause' ? pauseFailed(data, event.host, event.error, now) : at('pausing', data),
    deadline: onTimer('pausing', (data) =>
      fail(data, late(data, 'pausing machines', without(data.begun, data.paused))),
    ),
    cancel: (data, event) => fail(data, event.error),
  },
  switching: {
    ...inert('switching'),
    switched: (data, event, now) => switched(data, event.host, event.switched, now),
    agentFailed: (data, event, now) =>
      event.call.do === 'switch' ? switchFailed(data, event.host, event.error, now) : at('switching', data),
    deadline: onTimer('switching', (data) =>
      fail(data, late(data, 'changing over', without(Object.keys(data.switchAttempts), data.switched))),
    ),
    // Beyond the barrier there is nothing left to call off: former machines are ended.
    cancel: (data) => at('switching', data),
  },
  resuming: {
    ...inert('resuming'),
    resumed: (data, event, now) => resumed(data, event.host, event.resumed, now),
    agentFailed: (data, event, now) =>
      event.call.do === 'resume' ? resumeFailed(data, event.host, event.error, now) : at('resuming', data),
    deadline: onTimer('resuming', (data) =>
      fail(data, late(data, 'resuming', without(data.input.plan.targets, data.resumed))),
    ),
    cancel: (data) => at('resuming', data),
  },
  aborting: {
    ...inert('aborting'),
    aborted: (data, event) => aborted(data, event.host, event.running, event.standing),
    agentFailed: (data, event) =>
      event.call.do === 'abort' ? abortFailed(data, event.host, event.error) : at('aborting', data),
    deadline: onTimer('aborting', (data) =>
      conclude({ ...data, unaborted: [...data.unaborted, ...Object.keys(data.aborting)], aborting: {} }),
    ),
  },
  done: inert('done'),
  failed: inert('failed'),
  refused: inert('refused'),
} satisfies Table<RestoreState, RestoreData, RestoreEvent, RestoreEffect>
