// Stacks that people read name the sources, not files of the bundle. Node's own way reads every source map when the
// program starts (--enable-source-maps), and then looks up all stacks, also those that nobody reads. Here a map is read
// when a stack is shown that needs it.

import { readFileSync } from 'node:fs'
import { SourceMap } from 'node:module'
import { fileURLToPath } from 'node:url'

/** The bundle's main file has a name without its folder (scripts/lib/start.js). */
const MAIN = 'program.cjs'
const PLACE = /(file:\/\/[^\s()]+\.js|\bprogram\.cjs):(\d+):(\d+)/g
const maps = new Map<string, SourceMap | null>()

/** `text` with places in compiled files as those in their sources, as far as there are maps. */
export function nameSources(text: string): string {
  return text.replace(PLACE, (place, name: string, line: string, column: string) => {
    const file = name === MAIN ? new URL(name, import.meta.url).href : name
    const found = mapOf(file)?.findEntry(Number(line) - 1, Number(column) - 1)
    if (found === undefined || !('originalSource' in found)) return place
    const { originalSource, originalLine, originalColumn } = found
    // Of these the bundle's maps have the file only.
    if (originalSource.includes('/node_modules/')) return place
    return `${fileURLToPath(new URL(originalSource, file))}:${originalLine + 1}:${originalColumn + 1}`
  })
}

function mapOf(file: string): SourceMap | null {
  let map = maps.get(file)
  if (map === undefined) {
    map = readMap(file)
    maps.set(file, map)
  }
  return map
}

function readMap(file: string): SourceMap | null {
  try {
    return new SourceMap(JSON.parse(readFileSync(`${fileURLToPath(file)}.map`, 'utf8')))
  } catch {
    // The place in the compiled file is better than none.
    return null
  }
}
