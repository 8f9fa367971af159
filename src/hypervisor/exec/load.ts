// Starts a machine from a snapshot by its command, and ends what a killed daemon has begun to start.

import { readdir, rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { asSnapswitchError, SnapswitchError } from '../../errors/errors.js'
import { storeError } from '../../files/durable.js'
import type { Deadline, LoadedMachine, LoadRequest } from '../hypervisor.js'
import { within } from '../shared/deadline.js'
import { wholeMark } from '../shared/whole.js'
import { inspect, limitsMs, tell } from './calls.js'
import { call, contract, type Target } from './command.js'
import { ExecMachine } from './machine.js'
import type { ExecDefinition, ExecLoad, ExecSpec } from './types.js'

const loadFailed = (name: string, reason: string, cause?: unknown) =>
  new SnapswitchError('RESTORE_FAILED', `${name} could not be loaded: ${reason}`, contract, cause)

export const targetOf = ({ command, machine, name }: ExecDefinition): Target => ({ command, machine, name })

export async function loadMachine(
  request: LoadRequest<ExecDefinition>,
  deadline: Deadline,
): Promise<LoadedMachine<ExecSpec>> {
  const { definition, directory, memoryFile, taps, files } = request
  const target = targetOf(definition)
  const { command, machine, name } = target
  if ((await inspect(target, deadline)).state !== 'off') {
    throw new SnapswitchError(
      'MACHINE_RUNNING',
      `${command} says that ${machine} is there already`,
      `End it first: ${command} destroy ${machine}`,
    )
  }
  try {
    await mark(directory)
    const placed = (definition.files ?? []).map(({ role, path: was }) => ({ role, path: files?.get(was) ?? was }))
    const { details } = definition
    const input = { directory, memory: memoryFile, taps, files: placed, details }
    await call(target, { action: 'load', input, deadline })
    const control = await ExecMachine.attach(target, directory, deadline)
    const { state } = await control.inspect(deadline)
    if (state !== 'paused') throw loadFailed(name, `it came up ${state}, not paused`)
    return { control, spec: { exec: { command, machine, directory } } }
  } catch (error) {
    // Nobody else's: it was off before.
    await tell(target, 'destroy', within(limitsMs.destroy)).catch(() => {})
    for (const entry of await readdir(directory).catch(() => []))
      await rm(path.join(directory, entry), { recursive: true, force: true }).catch(() => {})
    const known = asSnapswitchError(error)
    const isTheirs = known.code.startsWith('HYPERVISOR_') || known.code === 'MACHINE_NOT_RUNNING'
    throw isTheirs ? loadFailed(name, known.message, known) : known
  }
}

async function mark(directory: string): Promise<void> {
  const file = path.join(directory, wholeMark)
  await writeFile(file, '').catch((thrown) => {
    throw storeError(`cannot write ${file}`, thrown)
  })
}

/** The directory tells a machine that was started by this load from one that its owner has started since. */
export async function endLoad({ command, machine, directory, mayRun }: ExecLoad, deadline: Deadline): Promise<boolean> {
  const target = { command, machine, name: machine }
  const found = await inspect(target, deadline)
  if (found.state === 'off' || found.directory !== directory) return true
  if (mayRun && found.state !== 'paused') return false
  await tell(target, 'destroy', deadline)
  return true
}
