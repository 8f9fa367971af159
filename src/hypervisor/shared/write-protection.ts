// Frees a guest that a failed background snapshot left frozen. QEMU write-protects guest memory through a userfaultfd
// (userfaultfd(2)) and forgets to take that back when the stream fails (7.2, migration.c: only a completed one does).
// We borrow the descriptor (pidfd_getfd(2)) and take the protection back for it; sleeping vCPUs wake up.

import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { borrowDescriptors } from '../../linux/borrowed-descriptor.js'
import { libc } from '../../linux/libc.js'

// linux/userfaultfd.h
const UFFDIO_UNREGISTER = 0x8010aa01
const UFFDIO_WRITEPROTECT = 0xc018aa06

interface Range {
  readonly start: bigint
  readonly length: bigint
}

/** Memory that is under userfaultfd write protection: flag `uw` in proc_pid_smaps(5). */
export function protectedRanges(smaps: string): Range[] {
  const ranges: Range[] = []
  let current: Range | null = null
  for (const line of smaps.split('\n')) {
    const head = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line)
    if (head !== null) {
      const start = BigInt(`0x${head[1]}`)
      current = { start, length: BigInt(`0x${head[2]}`) - start }
    } else if (current !== null && /^VmFlags:.* uw( |$)/.test(line)) ranges.push(current)
  }
  return ranges
}

/**
 * Whether some thread has slept in a write fault for `milliseconds` on end, with no thread that writes a stream: a save
 * under way answers a fault at once, or waits for its reader.
 */
export async function isFrozen(pid: number, milliseconds = 500): Promise<boolean> {
  let stuck: Set<string> | null = null
  for (const limit = performance.now() + milliseconds; performance.now() < limit; ) {
    const faulting = new Set<string>()
    try {
      for (const thread of readdirSync(`/proc/${pid}/task`)) {
        const where = readFileSync(`/proc/${pid}/task/${thread}/wchan`, 'latin1')
        if (where.includes('pipe_w')) return false
        if (where === 'handle_userfault' && stuck?.has(thread) !== false) faulting.add(thread)
      }
    } catch {
      return false
    }
    if (faulting.size === 0) return false
    stuck = faulting
    await new Promise((resolve) => setTimeout(resolve, 25))
  }
  return true
}

/**
 * Takes write protection off all of a process's memory. Returns how many ranges were freed. Only for a process whose
 * background snapshot has ended: one under way would lose track of what the guest writes.
 */
export function liftWriteProtection(pid: number): number {
  const ranges = protectedRanges(readFileSync(`/proc/${pid}/smaps`, 'latin1'))
  if (ranges.length === 0) return 0
  const descriptors = readdirSync(`/proc/${pid}/fd`).filter((fd) => {
    try {
      return readlinkSync(`/proc/${pid}/fd/${fd}`) === 'anon_inode:[userfaultfd]'
    } catch {
      return false
    }
  })
  let freed = 0
  borrowDescriptors(pid, descriptors.map(Number), (fd) => {
    for (const { start, length } of ranges) {
      // struct uffdio_writeprotect { range, mode }, of which struct uffdio_range is the first part. Mode 0: unprotect,
      // wake.
      const argument = Buffer.alloc(24)
      argument.writeBigUInt64LE(start, 0)
      argument.writeBigUInt64LE(length, 8)
      if (libc().ioctl(fd, UFFDIO_WRITEPROTECT, argument) === 0) freed++
      libc().ioctl(fd, UFFDIO_UNREGISTER, argument)
    }
  })
  return freed
}
