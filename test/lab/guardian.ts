// Whoever makes namespaces and a directory has a guardian for them (the script beside this file): when this process
// ends without having taken them down, killed or crashed, the guardian does.

import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { repositoryRoot } from './repository.js'

/**
 * `prefix`: of the names of the namespaces. Returns how to let the guardian go, when all is taken down or is to stay.
 */
export function guard(prefix: string, directory: string): () => void {
  const script = join(repositoryRoot(), 'test', 'lab', 'guardian')
  // A session of its own: what kills our process group does not reach it.
  const guardian = spawn(script, [prefix, directory], { stdio: ['pipe', 'ignore', 'ignore'], detached: true })
  guardian.on('error', () => undefined)
  guardian.unref()
  const end = guardian.stdin as typeof guardian.stdin & { unref(): void }
  end.on('error', () => undefined)
  end.unref()
  return () => guardian.kill('SIGKILL')
}
