// A QEMU that does not run as root: a restored one is that user's, too.

import { chown } from 'node:fs/promises'
import { SnapswitchError } from '../../errors/errors.js'
import type { ProcessUser } from '../hypervisor.js'
import { isRoot } from '../shared/as-user.js'
import { type Argument, optionValue, splitArguments } from '../shared/qemu-options.js'
import { whyNotRun } from '../shared/safe-path.js'
import type { QemuDefinition } from './types.js'

/**
 * Null for root's. What the command line says of a user is not looked at: it is the process's to write, and so is its
 * program. `listener`: who made its control socket. Throws MACHINE_UNSUPPORTED where that was somebody else, who let
 * another process take his place.
 */
export function ownUser(name: string, user: ProcessUser, listener: number): ProcessUser | null {
  // Root's gives its rights up after that (-runas).
  if (listener !== 0 && listener !== user.uid) {
    throw new SnapswitchError(
      'MACHINE_UNSUPPORTED',
      `${name}’s control socket was made by user ${listener}, but its process is user ${user.uid}’s`,
      'Start QEMU as the user that it is to run as.',
    )
  }
  return user.uid === 0 ? null : user
}

/** It is that user's from its start on, and could not become another's. */
export function withoutUser(split: readonly Argument[]): Argument[] {
  return split.flatMap((argument) => {
    if (argument.option === 'runas') return []
    if (argument.option !== 'run-with') return [argument]
    const value = optionValue(argument)
    value.remove('user')
    const left = value.toString()
    return left === '' ? [] : [{ ...argument, value: left }]
  })
}

/**
 * Records of former versions name no user where the command line did, or for a program of anybody's. Root must not run
 * what others have written. Throws PERMISSION.
 */
export function checkRunsAsRoot({ name, argv, binary, user, ofRoot }: QemuDefinition): void {
  if (user !== undefined || ofRoot === true || !isRoot()) return
  const becomes = splitArguments(argv).some(
    (argument) =>
      argument.option === 'runas' || (argument.option === 'run-with' && optionValue(argument).get('user') !== null),
  )
  const program = binary ?? argv[0]!
  // A bare name is looked for in the daemon's own PATH.
  const fault = becomes
    ? 'its snapshot, of a former version, does not say whose it was'
    : program.includes('/')
      ? whyNotRun(program)
      : null
  if (fault === null) return
  throw new SnapswitchError(
    'PERMISSION',
    `${name} is not started as root: ${fault}`,
    'Take a new snapshot of the machine. Or start QEMU from a program that only root can change.',
  )
}

export const triedAsRoot = (name: string) =>
  new SnapswitchError(
    'PERMISSION',
    `${name} runs as a user of its own, and is not tried as root`,
    'Restore the snapshot on another network, to see whether it loads.',
  )

/** Files and directories that were made for a machine. */
export async function giveTo(user: ProcessUser | undefined, files: readonly string[]): Promise<void> {
  if (user === undefined || !isRoot()) return
  for (const file of files) await chown(file, user.uid, user.gid)
}
