// A machine that was loaded beside its former self gets that one's sockets' names, once it has ended. A socket that has
// another name is the same socket.

import { execFile } from 'node:child_process'
import { existsSync, statSync } from 'node:fs'
import { rename, rm, symlink } from 'node:fs/promises'
import path from 'node:path'
import { promisify } from 'node:util'
import { SnapswitchError } from '../../errors/errors.js'
import type { ProcessUser } from '../hypervisor.js'
import { asUser } from '../shared/as-user.js'
import { besidePath, listeningPaths } from './beside.js'
import type { QemuDefinition } from './types.js'

const run = promisify(execFile)
const limitMs = 10_000

/** `user`: whose machine it is. Its names are its own: nothing is done to them that it could not do by itself. */
export async function takePlace(
  definition: QemuDefinition,
  directory: string,
  user: ProcessUser | undefined,
): Promise<void> {
  for (const { given, file } of listeningPaths(definition)) {
    const own = besidePath(given, directory)
    if (!existsSync(own) || !existsSync(path.dirname(file))) continue
    try {
      await (user === undefined ? move(own, file) : moveAs(user, own, file))
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException
      const reason = typeof code === 'string' ? code : message
      throw new SnapswitchError('STORE_IO', `${file} cannot be made: ${reason}`, 'Check its directory.', error)
    }
  }
}

/** On another file system the name can lead there. */
async function move(own: string, file: string): Promise<void> {
  try {
    await rename(own, file)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EXDEV') throw error
    await rm(file, { force: true })
    await symlink(own, file)
  }
}

async function moveAs(user: ProcessUser, own: string, file: string): Promise<void> {
  const isNear = statSync(own).dev === statSync(path.dirname(file)).dev
  const words = [...asUser(user), ...(isNear ? ['mv', '-fT'] : ['ln', '-sfT']), '--', own, file]
  await run(words[0]!, words.slice(1), { cwd: '/', timeout: limitMs, killSignal: 'SIGKILL' })
}
