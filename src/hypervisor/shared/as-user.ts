// With the rights of a machine's user, where the daemon is root's.

import { execFile } from 'node:child_process'
import type { FileHandle } from 'node:fs/promises'
import { promisify } from 'node:util'
import { SnapswitchError } from '../../errors/errors.js'
import { openPlain } from '../../files/plain.js'
import type { ProcessUser } from '../hypervisor.js'

const run = promisify(execFile)
const limitMs = 10_000
/** Says which file it has opened. */
const opening = 'exec 3<"$1" && exec stat -L -c %d:%i /proc/self/fd/3'

export const isRoot = () => process.geteuid?.() === 0

/** What starts a command as that user (util-linux); nothing where this process could not. */
export function asUser(user: ProcessUser | undefined): string[] {
  if (user === undefined || !isRoot()) return []
  const groups = user.groups.length === 0 ? ['--clear-groups'] : ['--groups', user.groups.join(',')]
  return ['setpriv', '--reuid', String(user.uid), '--regid', String(user.gid), ...groups, '--']
}

/** Opens a file that the user can read, and no other. Throws PERMISSION, and what `openPlain` throws. */
export async function openAsUser(user: ProcessUser, file: string): Promise<FileHandle> {
  const handle = await openPlain(file)
  try {
    const { dev, ino } = await handle.stat({ bigint: true })
    const [program, ...words] = [...asUser(user), 'sh', '-c', opening, 'sh', file]
    const options = { cwd: '/', timeout: limitMs, killSignal: 'SIGKILL' } as const
    const opened = await run(program!, words, options).catch(() => null)
    if (opened?.stdout.trim() === `${dev}:${ino}`) return handle
  } catch (error) {
    await handle.close()
    throw error
  }
  await handle.close()
  throw new SnapswitchError(
    'PERMISSION',
    `${file} cannot be read by user ${user.uid}, whose machine needs it`,
    'Let the user read the file, or restart the machine without it.',
  )
}
