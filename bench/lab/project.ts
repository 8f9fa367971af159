// Where the project lies, found from the compiled file upward: measurements need its gear sources, program and results.

import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

function find(from: string): string {
  // The output directory has no package.json of its own, so the first one met going up is the project's.
  if (existsSync(join(from, 'package.json'))) return from
  const parent = dirname(from)
  if (parent === from) throw new Error('package.json not found above the bench: run it from the project')
  return find(parent)
}

export const projectRoot = find(dirname(fileURLToPath(import.meta.url)))
