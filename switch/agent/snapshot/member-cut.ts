// The cut of one VM, as a table: docs/internals/snapshots.md. Pure; the agent performs the effects and reports
// events.
//
//   ready -> gating -> settling -> pausing -> flipping -> capturing -> releasing -> sealing -> done
//
// Gate before pause (or frames would be dropped by a TAP that nobody reads), drain and flip after it (or a frame could
// be of the wrong color), capture after that, release when the guest runs again. Sealing may end before the guest is
// released (a driver that keeps the VM stopped while it saves): hence the `…Sealed` states.

export type MemberState =
  | 'ready'
  | 'gating'
  | 'settling'
  | 'pausing'
  | 'flipping'
  | 'capturing'
  | 'capturingSealed'
  | 'releasing'
  | 'releasingSealed'
  | 'sealing'
  | 'done'
  | 'recovering'
  | 'failed'

export type MemberEvent =
  | 'begin'
  | 'gated'
  | 'settled'
  | 'paused'
  | 'flipped'
  | 'resumed'
  | 'released'
  | 'sealed'
  /** A step failed, the deadline passed, or the snapshot was called off. */
  | 'abort'
  | 'recovered'

/** What the agent has to do for the machine next. */
export type MemberEffect =
  | 'gate'
  | 'settle'
  | 'pause'
  | 'flip'
  | 'capture'
  | 'release'
  /** Make sure that the guest runs and its gates are open, and undo what was prepared. */
  | 'recover'

type Step = readonly [MemberState, MemberEffect | null]

const recover: Step = ['recovering', 'recover']

export const memberTable = {
  ready: { begin: ['gating', 'gate'], abort: recover },
  gating: { gated: ['settling', 'settle'], abort: recover },
  settling: { settled: ['pausing', 'pause'], abort: recover },
  pausing: { paused: ['flipping', 'flip'], abort: recover },
  flipping: { flipped: ['capturing', 'capture'], abort: recover },
  capturing: { resumed: ['releasing', 'release'], sealed: ['capturingSealed', null], abort: recover },
  capturingSealed: { resumed: ['releasingSealed', 'release'], abort: recover },
  releasing: { released: ['sealing', null], sealed: ['releasingSealed', null], abort: recover },
  releasingSealed: { released: ['done', null], abort: recover },
  sealing: { sealed: ['done', null], abort: recover },
  // Done here, yet another machine or host may fail: what was saved is then removed.
  done: { abort: recover },
  recovering: { recovered: ['failed', null] },
  failed: {},
} as const satisfies Record<MemberState, Partial<Record<MemberEvent, Step>>>

/** Its ports belong to the new epoch, gates open: what becomes of them is no part of the snapshot. */
export const hasCut = (state: MemberState): boolean => state === 'sealing' || state === 'done'

/** The next state and what to do on the way; null when the event means nothing in this state (a late answer). */
export function memberStep(state: MemberState, event: MemberEvent): Step | null {
  const row: Partial<Record<MemberEvent, Step>> = memberTable[state]
  return row[event] ?? null
}
