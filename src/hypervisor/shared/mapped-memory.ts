// Has the kernel map all of a guest's memory before its cut. QEMU reads each page of it before it protects memory
// (migration/ram.c, ram_write_tracking_prepare): from 8.2 on in the pause, and before that while others wait for it to
// stand at the gate. A page that was never used, or lies in swap, takes the kernel microseconds to milliseconds, and a
// large guest has millions. So they are read here first, while the guest runs. Where that fails, the pause is longer
// and nothing else.

import { type FileHandle, open, readFile } from 'node:fs/promises'
import type { Deadline } from '../hypervisor.js'
import { remaining, within } from './deadline.js'
import {
  entriesPerHugePage,
  entryBytes,
  hugePage,
  hugePageRanges,
  type MemoryRange,
  page,
  restoreHugePages,
} from './huge-pages.js'

/** Of the time that is left, what may go into it. */
const share = 1 / 4
/** Of a page table's entries in /proc/PID/pagemap: bit 63, present. */
const PRESENT = 0x80

/** Whether none of the pages is missing. */
export function isMapped(pagemap: Buffer): boolean {
  for (let at = entryBytes - 1; at < pagemap.length; at += entryBytes) if ((pagemap[at]! & PRESENT) === 0) return false
  return true
}

/** In huge pages where it had them, and all of it mapped. Never fails. */
export async function readyMemory(pid: number, deadline: Deadline): Promise<void> {
  // The kernel walks all page tables for it: once.
  const smaps = await readFile(`/proc/${pid}/smaps`, 'latin1').catch(() => '')
  const ranges = hugePageRanges(smaps)
  await restoreHugePages(pid, ranges, deadline)
  await mapMemory(pid, ranges, deadline)
}

/** Takes a quarter of the time to the deadline at most. */
async function mapMemory(pid: number, ranges: readonly MemoryRange[], deadline: Deadline): Promise<void> {
  const limit = within(remaining(deadline) * share)
  try {
    const [pagemap, memory] = [await open(`/proc/${pid}/pagemap`), await open(`/proc/${pid}/mem`)]
    try {
      const reader = new Reader(pagemap, memory)
      for (const { start, end } of ranges)
        for (let at = start; at < end && remaining(limit) > 0; at += hugePage) await reader.map(at)
    } finally {
      await pagemap.close()
      await memory.close()
    }
  } catch {
    // It has ended, or is not ours to read.
  }
}

/** What is read there is looked at by nobody. Memory of its own for each machine would cost more than the reading. */
const unread = Buffer.allocUnsafeSlow(hugePage)

class Reader {
  readonly #pagemap: FileHandle
  readonly #memory: FileHandle
  readonly #entries = Buffer.alloc(entriesPerHugePage * entryBytes)

  constructor(pagemap: FileHandle, memory: FileHandle) {
    this.#pagemap = pagemap
    this.#memory = memory
  }

  /** As much address space as a huge page has. Where the kernel has those, the first page brings the others. */
  async map(start: number): Promise<void> {
    if (await this.#isMapped(start)) return
    await this.#memory.read(unread, 0, page, start)
    if (await this.#isMapped(start)) return
    await this.#memory.read(unread, 0, hugePage, start)
  }

  async #isMapped(start: number): Promise<boolean> {
    const { bytesRead } = await this.#pagemap.read(this.#entries, 0, this.#entries.length, (start / page) * entryBytes)
    return isMapped(this.#entries.subarray(0, bytesRead))
  }
}
