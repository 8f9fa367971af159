// The global sequence of `snapshot create` as a table (docs/internals/snapshots.md):
//
//   preflight -> recording -> preparing -> taking -> committing -> complete
//       |            |            |          |           |
//    refused         +------------+----------+-----------+--> discarding -> failing -> failed
//
// Invariant: from the moment PREPARE may have reached a host, the only ways out are `complete`, with all parts in a
// durable manifest, or through `discarding`, where every host is told (bounded retries; hosts that could not be told
// are named in the manifest and told when the coordinator next starts or the snapshot is deleted).

import { type Instant, onHost, step, type Table } from '../table.js'
import {
  committed,
  concluded,
  discarded,
  discardFailed,
  discardsLate,
  fail,
  late,
  local,
  preflighted,
  prepared,
  recorded,
  refuse,
  stay,
  waiting,
} from './steps.js'
import type { SnapshotAt, SnapshotData, SnapshotEffect, SnapshotEvent, SnapshotState, SnapshotStep } from './types.js'

export { beginSnapshot } from './steps.js'
export * from './types.js'

export function stepSnapshot(at: SnapshotAt, event: SnapshotEvent, now: Instant): SnapshotStep {
  return step(snapshotTable, at, event, now)
}

export function snapshotEnded(state: SnapshotState): boolean {
  return state === 'complete' || state === 'failed' || state === 'refused'
}

/** For a state with a timer: only the timer in force counts. */
const onTimer =
  (state: SnapshotState, act: (data: SnapshotData, now: Instant) => SnapshotStep) =>
  (data: SnapshotData, event: { readonly timer: number }, now: Instant): SnapshotStep =>
    event.timer === data.timer ? act(data, now) : { state, data, effects: [] }

const inert = (state: SnapshotState) => {
  const ignore = stay(state)
  return {
    preflighted: ignore,
    stored: ignore,
    storeFailed: ignore,
    prepared: ignore,
    local: ignore,
    discarded: ignore,
    agentFailed: ignore,
    deadline: ignore,
    cancel: ignore,
  }
}

export const snapshotTable = {
  preflight: {
    ...inert('preflight'),
    preflighted: (data, event, now) => preflighted(data, event.host, event.preflight, now),
    agentFailed: (data, event) => refuse(data, onHost(event.host, event.error)),
    deadline: onTimer('preflight', (data) =>
      refuse(data, late(data, 'answered', waiting(data.input.hosts, data.preflights))),
    ),
    cancel: (data, event) => refuse(data, event.error),
  },
  // The store is writing. It cannot be called back, so a cancel waits for its answer; no host knows anything yet.
  recording: {
    ...inert('recording'),
    stored: (data, _event, now) => recorded(data, now),
    storeFailed: (data, event) => refuse(data, event.error),
    cancel: (data, event) => ({ state: 'recording', data: { ...data, failure: event.error }, effects: [] }),
  },
  preparing: {
    ...inert('preparing'),
    prepared: (data, event, now) => prepared(data, event.host, now),
    agentFailed: (data, event, now) => fail(data, onHost(event.host, event.error), now),
    deadline: onTimer('preparing', (data, now) =>
      fail(
        data,
        late(
          data,
          'prepared',
          data.input.hosts.filter((h) => !data.prepared.includes(h)),
        ),
        now,
      ),
    ),
    cancel: (data, event, now) => fail(data, event.error, now),
  },
  taking: {
    ...inert('taking'),
    local: (data, event, now) => local(data, event.host, event.event, now),
    // A host that is done is done: its stream may end as it likes.
    agentFailed: (data, event, now) =>
      data.parts[event.host] === undefined
        ? fail(data, onHost(event.host, event.error), now)
        : { state: 'taking', data, effects: [] },
    deadline: onTimer('taking', (data, now) =>
      fail(data, late(data, 'finished its part', waiting(data.input.hosts, data.parts)), now),
    ),
    cancel: (data, event, now) => fail(data, event.error, now),
  },
  // All parts are sealed. While the store writes, the manifest may be complete on disk already: a discard now could
  // leave a `complete` manifest without its parts. So neither deadline nor cancel counts; only the store's answer does.
  committing: {
    ...inert('committing'),
    stored: committed,
    storeFailed: (data, event, now) => fail(data, event.error, now),
  },
  discarding: {
    ...inert('discarding'),
    discarded: (data, event, now) => discarded(data, event.host, now),
    agentFailed: (data, event, now) =>
      event.call === 'discard'
        ? discardFailed(data, event.host, event.error, now)
        : { state: 'discarding', data, effects: [] },
    deadline: onTimer('discarding', discardsLate),
  },
  // If even this cannot be written, the pending manifest stays, and becomes failed when the coordinator next starts.
  failing: { ...inert('failing'), stored: concluded, storeFailed: concluded },
  complete: inert('complete'),
  failed: inert('failed'),
  refused: inert('refused'),
} satisfies Table<SnapshotState, SnapshotData, SnapshotEvent, SnapshotEffect>
