// The installed package: where it lies, what it needs, and its version, which daemons compare before a snapshot. Found
// from the file that runs: a module, or the bundle.

import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

interface Package {
  readonly folder: string
  readonly version: string
  readonly leastNode: string
}

interface PackageJson {
  readonly name?: string
  readonly version?: string
  readonly engines?: { readonly node?: string }
}

function find(): Package | null {
  for (let folder = dirname(fileURLToPath(import.meta.url)); ; folder = dirname(folder)) {
    try {
      const { name, version, engines } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as PackageJson
      if (name === 'snapswitch' && version !== undefined)
        return { folder, version, leastNode: engines?.node?.replace('>=', '') ?? '0' }
    } catch {
      // no package.json here, or not ours: further up
    }
    if (folder === dirname(folder)) return null
  }
}

const found = find()

export const version = found?.version ?? 'unknown'

/** The oldest Node.js that will do. */
export const leastNode = found?.leastNode ?? '0'

/** Of a file of the package, by its path in there. */
export const packageFile = (...path: string[]): string => join(found?.folder ?? '/', ...path)
