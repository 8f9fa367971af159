// What the machines of this host say of themselves, asked side by side. One libvirtd may serve many of them, so only
// some are asked at once; and one that does not answer costs nobody else's answer.

import type { ErrorReport } from '../../src/errors/errors.js'
import { asSnapswitchError, SnapswitchError } from '../../src/errors/errors.js'
import { whatToLookAt } from '../../src/hypervisor/drivers.js'
import type { Deadline, MachineControl, MachineInfo, MachineSpec } from '../../src/hypervisor/hypervisor.js'
import { type Clock, systemClock } from '../../src/runtime/clock.js'
import type { Machines } from './machines.js'
import { Semaphore } from './semaphore.js'

/**
 * Machines that are asked at the same time. libvirtd works on 5 requests of a connection and 20 of all (libvirtd.conf).
 */
const AT_ONCE = 8

export interface Inspected {
  readonly vm: string
  /** Null when it gave no answer; `error` says why. */
  readonly info: MachineInfo | null
  /** Also why a machine that answers cannot be snapshot. */
  readonly error: ErrorReport | null
}

/** What is asked of a machine. */
export type Inspectable = Pick<MachineControl, 'inspect' | 'definition'>

/** How machines are asked. */
export interface Asked extends Pick<Machines, 'spec'> {
  using<T>(vm: string, deadline: Deadline, use: (control: Inspectable) => Promise<T>): Promise<T>
}

/** In the order of `vms`. Never throws, and is done by the deadline. */
export function inspectMachines(
  machines: Asked,
  vms: readonly string[],
  deadline: Deadline,
  clock: Clock = systemClock,
): Promise<Inspected[]> {
  const semaphore = new Semaphore(AT_ONCE)
  const began = clock.now().ms
  return Promise.all(
    vms.map(async (vm): Promise<Inspected> => {
      await semaphore.acquire()
      const spec = machines.spec(vm)
      const seconds = (Math.max(0, deadline - began) / 1000).toFixed(1)
      try {
        if (clock.now().ms >= deadline) throw notAsked(vm, seconds)
        const { info, refusal } = await machines.using(vm, deadline, async (control) => {
          const info = await control.inspect(deadline)
          return { info, refusal: await refusalOf(control, deadline) }
        })
        return { vm, info, error: refusal === null ? null : explained(vm, spec, seconds, refusal).report() }
      } catch (thrown) {
        const error = asSnapswitchError(thrown)
        return { vm, info: null, error: explained(vm, spec, seconds, error).report() }
      } finally {
        semaphore.release()
      }
    }),
  )
}

/** Why it could not be started again from a snapshot; null when nothing speaks against it. */
const refusalOf = (control: Inspectable, deadline: Deadline): Promise<SnapswitchError | null> =>
  control.definition(deadline).then(
    () => null,
    (thrown) => asSnapswitchError(thrown),
  )

const notAsked = (vm: string, seconds: string) =>
  new SnapswitchError(
    'DEADLINE',
    `machine ${vm} could not be asked within ${seconds} s: the host was busy with the machines before it`,
    'Look at those that are named beside it first; then try again when the host has less to do.',
  )

/** A time that ran out here is not the user's `--deadline`: what helps is a look at the machine. */
function explained(vm: string, spec: MachineSpec | undefined, seconds: string, error: SnapswitchError) {
  if (error.code !== 'DEADLINE') return error
  return new SnapswitchError(
    'DEADLINE',
    `machine ${vm} did not answer within ${seconds} s (${error.message.replace(/\.$/, '')})`,
    spec === undefined ? 'Try again.' : whatToLookAt(spec),
    error,
  )
}
