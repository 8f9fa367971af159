// Which program is installed, for the units to name: `0.1.0 (5f0c27d1a9b3)`. A checkout, or a package made of one, is
// of the same version for long, hence the digest of what runs.

import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { packageFile, version } from '../../runtime/package.js'

export const releaseInstalled = (): string => releaseOf(packageFile('dist', 'bundle'), version)

/** Of the programs in a folder. One that cannot be read, as of a checkout without a bundle, tells the version alone. */
export function releaseOf(folder: string, version: string): string {
  const hash = createHash('sha256')
  try {
    const programs = readdirSync(folder).filter((name) => /\.c?js$/.test(name))
    for (const name of programs.sort()) hash.update(`${name}\n`).update(readFileSync(join(folder, name)))
  } catch {
    return version
  }
  return `${version} (${hash.digest('hex').slice(0, 12)})`
}
