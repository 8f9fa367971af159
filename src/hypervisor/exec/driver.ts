// The `exec` driver: machines of any hypervisor, by a program of the user's that is called for each thing that is
// wanted of them (docs/reference/exec-driver.md).

import { Type } from '@sinclair/typebox'
import { AbsolutePath } from '../../api/schemas/basic.js'
import { asSnapswitchError, SnapswitchError } from '../../errors/errors.js'
import type { Driver } from '../driver.js'
import type { Deadline, Hypervisor } from '../hypervisor.js'
import { within } from '../shared/deadline.js'
import { whyNotRun } from '../shared/safe-path.js'
import { inspect, limitsMs } from './calls.js'
import type { Target } from './command.js'
import { endLoad, loadMachine, targetOf } from './load.js'
import { ExecMachine } from './machine.js'
import { endStrays } from './strays.js'
import type { ExecAddress, ExecDefinition, ExecLoad, ExecSpec } from './types.js'

/** Needs root. Starts nothing until it is used. */
export function createExecHypervisor(): Hypervisor {
  /** Machines whose strays were looked for: our own calls leave none. */
  const cleared = new Set<string>()
  const clear = async <T extends Omit<Target, 'name'>>(target: T, deadline: Deadline): Promise<T> => {
    const key = JSON.stringify([target.command, target.machine])
    if (!cleared.has(key)) await endStrays(target, deadline)
    cleared.add(key)
    return target
  }
  return {
    attach: async (name, { exec: address }, deadline) =>
      ExecMachine.attach(await clear(reachedAt(name, address), deadline), address.directory ?? null, deadline),
    async isThere(name, { exec: address }) {
      const deadline = within(limitsMs.inspect)
      try {
        return (await inspect(await clear(reachedAt(name, address), deadline), deadline)).state !== 'off'
      } catch {
        return true
      }
    },
    load: async (request, deadline) => {
      await clear(targetOf(request.definition), deadline)
      return loadMachine(request, deadline)
    },
    async examine(definition, deadline) {
      const { command, machine, name } = definition
      const fault = whyNotRun(command)
      if (fault !== null) {
        const action = `Put the command there: it is ${name}’s on every host that ${name} is restored on.`
        return [new SnapswitchError('HYPERVISOR_UNREACHABLE', `${name} cannot be loaded: ${fault}`, action).report()]
      }
      try {
        await inspect(await clear({ command, machine, name }, deadline), deadline)
        return []
      } catch (thrown) {
        return [asSnapswitchError(thrown).report()]
      }
    },
    endLoad: async (load, deadline) => {
      await clear(load, deadline)
      return endLoad(load, deadline)
    },
  } satisfies Hypervisor<ExecSpec, ExecDefinition, ExecLoad>
}

const reachedAt = (name: string, { command, machine }: ExecAddress): Target => ({
  command,
  machine: machine ?? name,
  name,
})

/** As an argument it must not be taken for an option. */
const MachineName = Type.String({
  pattern: '^[^\\u0000-\\u001f-][^\\u0000-\\u001f]{0,199}$',
  description: 'its name for the command, which does not begin with -; default: its name here',
})

const inWords = ({ command, machine }: ExecAddress) => `exec ${command}${machine === undefined ? '' : ` ${machine}`}`

export const exec = {
  kind: 'exec',
  key: 'exec',
  /** By a command of yours: docs/reference/exec-driver.md. */
  address: Type.Object(
    {
      command: Type.String({ ...AbsolutePath, description: 'an absolute path to the program that is called' }),
      machine: Type.Optional(MachineName),
      directory: Type.Optional(Type.String({ ...AbsolutePath, description: 'an absolute path; set by restores' })),
    },
    { additionalProperties: false },
  ),
  example: '{ command: /path/of/your/program }',
  options: null,
  create: createExecHypervisor,
  // The directory, too: a machine that was loaded in another is reached by what is in there.
  isSame: (one, other) =>
    one.command === other.command && one.machine === other.machine && one.directory === other.directory,
  inWords,
  whatToLookAt: ({ command, machine }) =>
    `See what \`${command} inspect ${machine ?? 'NAME'}\` waits for; it was killed. Then try again.`,
  resumeByHand: ({ command, machine }) => `\`${command} resume ${machine ?? 'NAME'}\``,
  beside: { impossible: 'machines that a command drives cannot be loaded beside themselves' },
  marks: { command: Type.String(), machine: Type.String() },
  marksOf: ({ command, machine }) => ({ command, machine }),
  directoryOf: ({ directory }) => directory ?? null,
  whyNotMergedOff: (machine) => `the disks of ${machine} are its command’s`,
} as const satisfies Driver<ExecAddress, ExecDefinition, { readonly command: string; readonly machine: string }>
