// The version that daemons compare before a snapshot: package.json's, found from the compiled file or the source alike.

import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

function readVersion(): string {
  for (let folder = dirname(fileURLToPath(import.meta.url)); ; folder = dirname(folder)) {
    try {
      const { name, version } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as Record<string, string>
      if (name === 'snapswitch' && version !== undefined) return version
    } catch {
      // no package.json here, or not ours: further up
    }
    if (folder === dirname(folder)) return 'unknown'
  }
}

export const version = readVersion()
