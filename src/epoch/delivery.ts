// The delivery rule: what happens to a frame of color c at a member port of epoch e. This is the whole of the snapshot
// algorithm that runs per frame (Chandy-Lamport 1985, Lai-Yang 1987, Mattern 1993); everything else decides when `e`
// grows and when gates close.

import { NO_COLOR } from '../frame/frame.js'

export const Verdict = {
  /** Same side of the cut, or from outside. */
  DELIVER: 0,
  /** Sent before its sender's cut, received after ours: part of the channel state. */
  DELIVER_AND_RECORD: 1,
  /** Gate closed: wait, then judge again. */
  HOLD: 2,
  /** From after the sender's cut, ours is to come: receiving it now would make an orphan. */
  HOLD_EARLY: 3,
  /** From a previous incarnation of the network: restored ports never take those. */
  DROP_FENCED: 4,
} as const
export type Verdict = (typeof Verdict)[keyof typeof Verdict]

/**
 * @param color    the frame's, or NO_COLOR
 * @param epoch    the destination port's
 * @param closed   whether the destination's gate is closed
 * @param fence    colors below it are of a former incarnation (0: no fence)
 */
export function judge(color: number, epoch: number, closed: boolean, fence: number): Verdict {
  if (color !== NO_COLOR && color < fence) return Verdict.DROP_FENCED
  if (closed) return Verdict.HOLD
  if (color === epoch || color === NO_COLOR) return Verdict.DELIVER
  return color > epoch ? Verdict.HOLD_EARLY : Verdict.DELIVER_AND_RECORD
}
