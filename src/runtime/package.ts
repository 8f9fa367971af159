// The installed package: where it lies, and its version, which daemons compare before a snapshot. Found from the file
// that runs: a module, or the bundle.

import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

interface Package {
  readonly folder: string
  readonly version: string
}

function find(): Package | null {
  for (let folder = dirname(fileURLToPath(import.meta.url)); ; folder = dirname(folder)) {
    try {
      const { name, version } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as Record<string, string>
      if (name === 'snapswitch' && version !== undefined) return { folder, version }
    } catch {
      // no package.json here, or not ours: further up
    }
    if (folder === dirname(folder)) return null
  }
}

const found = find()

export const version = found?.version ?? 'unknown'

/** Of a file of the package, by its path in there. */
export const packageFile = (...path: string[]): string => join(found?.folder ?? '/', ...path)
