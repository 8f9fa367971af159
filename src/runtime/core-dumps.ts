// Core dumps would hold guests' frames and memory, and the keys of networks. The kernel is told to put no memory of
// this process in one (core(5), coredump_filter): unlike a limit that also holds where a program takes the dump.

import { readFileSync, writeFileSync } from 'node:fs'

const FILTER = '/proc/self/coredump_filter'
const NOTHING = '0'

/** As this process was started, in hexadecimal; null: it withholds nothing. */
let former: string | null = null

/** Children inherit it. */
export function withholdMemory(): void {
  try {
    former ??= readFileSync(FILTER, 'latin1').trim()
    writeFileSync(FILTER, NOTHING)
  } catch {
    // A kernel without core dumps has no such file.
    former = null
  }
}

/** Starts a process whose dumps are its owner's business. It takes the setting at its start. */
export function withMemoryInDumps<T>(start: () => T): T {
  if (former === null) return start()
  writeFileSync(FILTER, `0x${former}`)
  try {
    return start()
  } finally {
    writeFileSync(FILTER, NOTHING)
  }
}
