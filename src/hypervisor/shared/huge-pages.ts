// Puts a guest's memory into huge pages again before its cut. What a background snapshot costs the paused guest is
// almost only the write protection of its memory, and that is paid per page table entry: a guest whose memory lies in
// huge pages (QEMU asks for them, MADV_HUGEPAGE) stands still for under a millisecond whatever its size, one in 4 KiB
// pages for 4 to 5 ms per 256 MiB. And each background snapshot leaves small pages behind: QEMU takes the protection
// off page by page, which splits every huge one, and the kernel is slow to make them whole again (khugepaged). So we
// ask it to: MADV_COLLAPSE, by process_madvise(2), Linux 6.1 or later, while the guest runs. Where that fails, the
// pause is longer and nothing else.

import { open, readFile } from 'node:fs/promises'
import koffi from 'koffi'
import { libc } from '../../linux/libc.js'
import { availableBytes } from '../../linux/memory.js'
import type { Deadline } from '../hypervisor.js'
import { remaining, within } from './deadline.js'

const SYS_PIDFD_OPEN = 434
const SYS_PROCESS_MADVISE = 440
const MADV_COLLAPSE = 25

export const page = 4096
export const hugePage = 2 << 20
/** Of /proc/PID/pagemap. */
export const entriesPerHugePage = hugePage / page
export const entryBytes = 8
/** Huge pages per call: the kernel makes one after the other, and between calls we look at the clock. */
const piecesPerCall = 32
/** However much memory there is. */
const longestMs = 5000

export interface MemoryRange {
  readonly start: number
  readonly end: number
}

/** Private anonymous memory for which huge pages were asked: flag `hg` in proc_pid_smaps(5). Whole huge pages of it. */
export function hugePageRanges(smaps: string): MemoryRange[] {
  const ranges: MemoryRange[] = []
  let current: MemoryRange | null = null
  for (const line of smaps.split('\n')) {
    // address perms offset dev inode path; anonymous memory has no inode, and no path or a label in brackets.
    const head = /^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+)/.exec(line)
    if (head !== null) {
      const start = Math.ceil(Number.parseInt(head[1]!, 16) / hugePage) * hugePage
      const end = Math.floor(Number.parseInt(head[2]!, 16) / hugePage) * hugePage
      current = head[3] === 'rw-p' && head[4] === '0' && end > start ? { start, end } : null
    } else if (current !== null && /^VmFlags:.* hg( |$)/.test(line)) ranges.push(current)
  }
  return ranges
}

/** A huge page's worth of address space, and how many of its small pages hold memory of their own. */
export interface Piece {
  readonly start: number
  readonly own: number
}

/**
 * Pieces that have page table entries, by /proc/PID/pagemap. A page that was only ever read is the kernel's one page of
 * zeroes: present, yet nobody's own; QEMU reads all of memory before it is protected, so there are many.
 */
export function mappedPieces(start: number, pagemap: Buffer): Piece[] {
  const pieces: Piece[] = []
  for (let at = 0; at + entriesPerHugePage * entryBytes <= pagemap.length; at += entriesPerHugePage * entryBytes) {
    let mapped = false
    let own = 0
    for (let entry = at; entry < at + entriesPerHugePage * entryBytes; entry += entryBytes) {
      // Bits 56 to 63: exclusively mapped, …, swapped (62), present (63).
      const flags = pagemap[entry + 7]!
      if ((flags & 0xc0) !== 0) mapped = true
      if ((flags & 0x41) !== 0) own++
    }
    if (mapped) pieces.push({ start: start + (at / entryBytes) * page, own })
  }
  return pieces
}

/**
 * Which pieces to ask for, in runs that lie side by side. Memory grows by the pages that were nobody's own: `spare`
 * bytes of it may be used, and of each piece no more small pages than `mostEmpty`.
 */
export function choosePieces(pieces: readonly Piece[], spare: number, mostEmpty: number): MemoryRange[] {
  const chosen: Piece[] = []
  // Those that hold most already, first: they cost the host least.
  for (const piece of [...pieces].sort((a, b) => b.own - a.own)) {
    const empty = entriesPerHugePage - piece.own
    spare -= empty * page
    if (spare < 0 || empty > mostEmpty) break
    chosen.push(piece)
  }
  const runs: { start: number; end: number }[] = []
  for (const { start } of chosen.sort((a, b) => a.start - b.start)) {
    const last = runs.at(-1)
    if (last?.end === start && start - last.start < piecesPerCall * hugePage) last.end += hugePage
    else runs.push({ start, end: start + hugePage })
  }
  return runs
}

/** One machine at a time: each looks at what memory the others have left. */
let turn: Promise<unknown> = Promise.resolve()

/**
 * Asks for huge pages wherever `pid` has had them. Memory that was never written (QEMU has only read it) becomes real
 * by that: up to half of what the host has to spare, and none where the administrator does not want khugepaged to do it
 * (max_ptes_none). Takes 5 seconds and a quarter of the time to the deadline at most. Never fails.
 */
export function restoreHugePages(pid: number, ranges: readonly MemoryRange[], deadline: Deadline): Promise<void> {
  const done = turn.then(() => collapse(pid, ranges, deadline)).catch(() => {})
  turn = done
  return done
}

async function collapse(pid: number, ranges: readonly MemoryRange[], deadline: Deadline): Promise<void> {
  const limit = within(Math.min(longestMs, remaining(deadline) / 4))
  const pieces: Piece[] = []
  for (const range of ranges) pieces.push(...(await piecesOf(pid, range)))
  const runs = choosePieces(pieces, (availableBytes() ?? 0) / 2, await mostEmptyPages())
  if (runs.length === 0) return
  const library = koffi.load('libc.so.6')
  const pidfd = library.func('long syscall(long, long, long)')(SYS_PIDFD_OPEN, pid, 0) as number
  if (pidfd < 0) return
  const advise = library.func('long syscall(long, long, void *, long, long, long)')
  try {
    for (const { start, end } of runs) {
      if (remaining(limit) === 0) return
      // struct iovec { void *base; size_t length; }
      const vector = new Uint8Array(new BigUint64Array([BigInt(start), BigInt(end - start)]).buffer)
      // Off this thread: a page that has to be made can take milliseconds. What cannot be done stays as it is.
      await new Promise((resolve) => advise.async(SYS_PROCESS_MADVISE, pidfd, vector, 1, MADV_COLLAPSE, 0, resolve))
    }
  } finally {
    libc().close(pidfd)
  }
}

async function piecesOf(pid: number, { start, end }: MemoryRange): Promise<Piece[]> {
  const pieces: Piece[] = []
  const handle = await open(`/proc/${pid}/pagemap`, 'r')
  try {
    const part = Buffer.alloc(piecesPerCall * entriesPerHugePage * entryBytes)
    for (let at = start; at < end; at += piecesPerCall * hugePage) {
      const wanted = (Math.min(end - at, piecesPerCall * hugePage) / page) * entryBytes
      const { bytesRead } = await handle.read(part, 0, wanted, (at / page) * entryBytes)
      pieces.push(...mappedPieces(at, part.subarray(0, bytesRead)))
    }
  } finally {
    await handle.close()
  }
  return pieces
}

/** 511, the kernel's default, is its word for any number (Documentation/admin-guide/mm/transhuge.rst). */
async function mostEmptyPages(): Promise<number> {
  const text = await readFile('/sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none', 'latin1')
  const most = Number(text)
  return most === entriesPerHugePage - 1 ? entriesPerHugePage : most
}
