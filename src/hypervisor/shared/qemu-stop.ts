// Stopping a QEMU as fast as it goes: the guest stands still from the STOP event on, and what comes after it in QEMU's
// answer to `stop` (draining and flushing its disks) need not be waited for.

import { nowUs } from '../../runtime/clock.js'
import type { Deadline, PauseInfo } from '../hypervisor.js'
import type { JsonObject, Qmp } from './qmp.js'
import { isObject } from './qmp-messages.js'

/**
 * Sends `stop` and further commands in one write. `stopped` resolves at the STOP event, which QEMU sends when its vCPUs
 * and its devices have stopped (softmmu/cpus.c, do_vm_stop), or at the answer of a machine that was paused already.
 * `doneAtUs`: when the further commands were done, as answered; null when there were none. `state`: QEMU's run state
 * behind all of them. `stop` does nothing to a machine that has stopped by itself, and succeeds. Who does not look at
 * these two is not told of their failure.
 */
export function stopMachine(
  qmp: Qmp,
  commands: readonly (readonly [string, JsonObject])[],
  deadline: Deadline,
): {
  readonly stopped: Promise<PauseInfo>
  readonly doneAtUs: Promise<number | null>
  readonly state: Promise<string>
} {
  let resolve!: (info: PauseInfo) => void
  let reject!: (error: unknown) => void
  const stopped = new Promise<PauseInfo>((yes, no) => {
    resolve = yes
    reject = no
  })
  const listening = qmp.onEvent(({ name, atUs }) => {
    if (name === 'STOP') resolve({ pausedAtUs: atUs })
  })
  const behind = qmp.executeAll([['stop', {}], ...commands, ['query-status', {}]], deadline)
  const stop = behind.shift()
  const status = behind.pop()
  stop!.then(() => resolve({ pausedAtUs: nowUs() }), reject).finally(listening)
  const doneAtUs = Promise.all(behind).then(() => (behind.length > 0 ? nowUs() : null))
  doneAtUs.catch(() => {})
  const state = status!.then((answer) => (isObject(answer) ? String(answer.status) : ''))
  state.catch(() => {})
  return { stopped, doneAtUs, state }
}
