// A QEMU that does not run as root, and has not given root's rights up by itself: a restored one is that user's, too.

import { chown } from 'node:fs/promises'
import type { ProcessUser } from '../hypervisor.js'
import { optionValue, splitArguments } from '../shared/qemu-options.js'

/** Null for root's, and for one whose command line says whose it becomes. */
export function ownUser(argv: readonly string[], user: ProcessUser): ProcessUser | null {
  const becomes = splitArguments(argv).some(
    (argument) =>
      argument.option === 'runas' || (argument.option === 'run-with' && optionValue(argument).get('user') !== null),
  )
  return user.uid === 0 || becomes ? null : user
}

/** What starts a command as that user (util-linux); nothing where this process could not. */
export function asUser(user: ProcessUser | undefined): string[] {
  if (user === undefined || !isRoot()) return []
  const groups = user.groups.length === 0 ? ['--clear-groups'] : ['--groups', user.groups.join(',')]
  return ['setpriv', '--reuid', String(user.uid), '--regid', String(user.gid), ...groups, '--']
}

/** Files and directories that were made for a machine. */
export async function giveTo(user: ProcessUser | undefined, files: readonly string[]): Promise<void> {
  if (user === undefined || !isRoot()) return
  for (const file of files) await chown(file, user.uid, user.gid)
}

const isRoot = () => process.geteuid?.() === 0
