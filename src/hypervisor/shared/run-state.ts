// A guest's run state (qapi/run-state.json), asked of its QEMU.

import type { Deadline } from '../hypervisor.js'
import { pauseFor } from './deadline.js'
import type { Qmp } from './qmp.js'
import { isObject } from './qmp-messages.js'

/** Empty: QEMU did not say. */
export async function runState(qmp: Pick<Qmp, 'execute'>, deadline: Deadline): Promise<string> {
  const answer = await qmp.execute('query-status', {}, deadline)
  return isObject(answer) ? String(answer.status) : ''
}

/**
 * Once a migration that has come to its end has let go of the guest: QEMU says that it has completed a moment before,
 * and refuses to let the guest run in between.
 */
export async function stateAfterMigration(
  state: (deadline: Deadline) => Promise<string>,
  deadline: Deadline,
): Promise<string> {
  for (;;) {
    const found = await state(deadline)
    if (found !== 'finish-migrate') return found
    await pauseFor(1, deadline)
  }
}
