// Where the repository lies, seen from compiled code, and the programs in it.

import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'

function isRoot(directory: string): boolean {
  const file = join(directory, 'package.json')
  return existsSync(file) && (JSON.parse(readFileSync(file, 'utf8')) as { name?: string }).name === 'snapswitch'
}

/** The repository's root: above this file, or else above the working directory. */
export function repositoryRoot(): string {
  for (const start of [import.meta.dirname, process.cwd()]) {
    for (let at = start; ; at = dirname(at)) {
      if (isRoot(at) && existsSync(join(at, 'guest', 'build'))) return at
      if (dirname(at) === at) break
    }
  }
  throw new Error('the snapswitch repository is neither above this program nor above the working directory')
}
