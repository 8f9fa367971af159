// Brings a machine to run that a snapshot has paused or a restore has loaded, however often that has to be asked for: a
// hypervisor may be busy for a while, or away.

import { asSnapswitchError, SnapswitchError } from '../../src/errors/errors.js'
import { resumeByHand } from '../../src/hypervisor/drivers.js'
import type { MachineControl, ResumeInfo } from '../../src/hypervisor/hypervisor.js'
import { sleep } from '../../src/runtime/clock.js'
import type { Host } from './host.js'

/** How long a hypervisor may be away: a restart of libvirtd fits in. */
export const AWAY_MS = 20_000
const ATTEMPT_MS = 3000
const FIRST_WAIT_MS = 50
const LONGEST_WAIT_MS = 1000

/** Throws MACHINE_PAUSED when it stands still at the deadline; at once when it has ended. */
export async function resumeMachine(
  host: Pick<Host, 'clock' | 'log' | 'machines'>,
  vm: string,
  control: MachineControl,
  deadline: number,
): Promise<ResumeInfo> {
  for (let attempt = 1, wait = FIRST_WAIT_MS; ; attempt++, wait = Math.min(2 * wait, LONGEST_WAIT_MS)) {
    try {
      return await resumeOnce(host, vm, control, attempt, Math.min(deadline, host.clock.now().ms + ATTEMPT_MS))
    } catch (thrown) {
      const error = asSnapswitchError(thrown)
      if (hasEnded(error)) throw error
      if (error.code === 'HYPERVISOR_UNREACHABLE' && !(await host.machines.isThere(vm))) throw ended(vm, error)
      if (host.clock.now().ms + wait >= deadline) {
        const spec = host.machines.spec(vm)
        const byHand = spec === undefined ? '' : ` (${resumeByHand(spec)})`
        throw new SnapswitchError(
          'MACHINE_PAUSED',
          `${vm} stands still: its hypervisor did not resume it in ${attempt} attempts: ${error.message}`,
          `Resume it by hand${byHand}; the daemon tries again, too. ${error.action}`,
          error,
        )
      }
      host.log.warn({ err: error, vm, attempt }, 'cannot resume a machine, trying again')
      await sleep(host.clock, wait)
    }
  }
}

/** Whether it needs no resuming any more. */
export const hasEnded = ({ code }: SnapswitchError): boolean =>
  code === 'MACHINE_NOT_RUNNING' || code === 'MACHINE_UNKNOWN'

const ended = (vm: string, cause: SnapswitchError) =>
  new SnapswitchError('MACHINE_NOT_RUNNING', `${vm} has ended: ${cause.message}`, cause.action, cause)

/** A connection that is lost stays so: after the first attempt a new one is made where it could be that. */
async function resumeOnce(
  host: Pick<Host, 'clock' | 'log' | 'machines'>,
  vm: string,
  control: MachineControl,
  attempt: number,
  deadline: number,
) {
  const ask = async (on: MachineControl): Promise<ResumeInfo> => {
    // An answer that did not come does not mean that the guest stands still.
    if (attempt > 1 && (await on.inspect(deadline)).state === 'running') return { resumedAtUs: host.clock.now().wallUs }
    return on.resume(deadline)
  }
  try {
    return await ask(control)
  } catch (thrown) {
    if (asSnapswitchError(thrown).code !== 'HYPERVISOR_UNREACHABLE' || host.machines.spec(vm) === undefined)
      throw thrown
    return await host.machines.using(vm, deadline, ask)
  }
}
