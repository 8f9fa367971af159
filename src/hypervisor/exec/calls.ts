// The calls of a command that a machine's whole life is made of, each with a limit of its own.

import { nowUs } from '../../runtime/clock.js'
import type { Deadline, PauseInfo } from '../hypervisor.js'
import { within } from '../shared/deadline.js'
import { type Inspected, inspected } from './answers.js'
import { call, type Target } from './command.js'

/** Each is called with less where its caller has less time. */
export const limitsMs = { inspect: 5000, pause: 5000, resume: 10_000, destroy: 20_000 } as const

export async function inspect(target: Target, deadline: Deadline): Promise<Inspected> {
  const limit = within(limitsMs.inspect, deadline)
  return inspected(target, await call(target, { action: 'inspect', input: {}, deadline: limit }))
}

/** Pause, resume or destroy: on return it is done. */
export async function tell(target: Target, action: 'pause' | 'resume' | 'destroy', deadline: Deadline): Promise<void> {
  await call(target, { action, input: {}, deadline: within(limitsMs[action], deadline) })
}

/** The time of a command's end is the latest at which the guest has stopped. */
export async function stop(target: Target, deadline: Deadline): Promise<PauseInfo> {
  await tell(target, 'pause', deadline)
  return { pausedAtUs: nowUs() }
}
