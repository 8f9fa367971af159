// Huge pages for a guest's memory: what is read from /proc, what is chosen, and the kernel doing it.

import { closeSync, openSync, readFileSync, readSync } from 'node:fs'
import koffi from 'koffi'
import t from 'tap'
import { choosePieces, hugePageRanges, mappedPieces } from '../../src/hypervisor/shared/huge-pages.js'
import { isMapped, readyMemory } from '../../src/hypervisor/shared/mapped-memory.js'
import { libc } from '../../src/linux/libc.js'

const MiB = 1 << 20

t.test('ranges: anonymous memory with the flag, whole huge pages of it', async (t) => {
  const smaps = [
    '7f0000100000-7f0000900000 rw-p 00000000 00:00 0 ',
    'Size:               8192 kB',
    'VmFlags: rd wr mr mw me ac sd hg ',
    '7f0001000000-7f0001400000 rw-p 00000000 00:00 0 [heap]',
    'VmFlags: rd wr mr mw me ac sd ',
    '7f0002000000-7f0002400000 rw-s 00000000 00:01 77 /memfd:ram (deleted)',
    'VmFlags: rd wr sh mr mw me ms sd hg ',
    '7f0003000000-7f0003100000 rw-p 00000000 00:00 0 ',
    'VmFlags: rd wr mr mw me ac sd hg ',
  ].join('\n')
  t.same(hugePageRanges(smaps), [{ start: 0x7f0000200000, end: 0x7f0000800000 }])
})

t.test('pieces: present, swapped, nobody’s own, absent', async (t) => {
  const pagemap = Buffer.alloc(4 * 512 * 8)
  const set = (piece: number, page: number, flags: number) => {
    pagemap[(piece * 512 + page) * 8 + 7] = flags
  }
  set(0, 3, 0x81)
  set(0, 4, 0x80)
  set(1, 511, 0x40)
  set(3, 0, 0x80)
  t.same(mappedPieces(16 * MiB, pagemap), [
    { start: 16 * MiB, own: 1 },
    { start: 18 * MiB, own: 1 },
    { start: 22 * MiB, own: 0 },
  ])
})

t.test('choice: the fullest first, within what is spare and what the administrator wants; in runs', async (t) => {
  const pieces = [0, 512, 100, 512].map((own, index) => ({ start: index * 2 * MiB, own }))
  t.same(choosePieces(pieces, 100 * MiB, 512), [{ start: 0, end: 8 * MiB }])
  t.same(choosePieces(pieces, 2 * MiB, 512), [{ start: 2 * MiB, end: 8 * MiB }], 'no room for the empty one')
  const full = [
    { start: 2 * MiB, end: 4 * MiB },
    { start: 6 * MiB, end: 8 * MiB },
  ]
  t.same(choosePieces(pieces, 100 * MiB, 0), full, 'full ones only')
  const long = Array.from({ length: 40 }, (_, index) => ({ start: index * 2 * MiB, own: 512 }))
  t.same(
    choosePieces(long, 0, 512).map(({ start, end }) => (end - start) / MiB),
    [64, 16],
    'no run is longer than a call should take',
  )
})

t.test('the kernel makes small pages huge again', async (t) => {
  const bytes = 8 * MiB
  const [PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, MADV_HUGEPAGE, MADV_NOHUGEPAGE] = [3, 0x22, 14, 15]
  const madvise = koffi.load('libc.so.6').func('int madvise(uintptr_t, size_t, int)') as (
    ...numbers: number[]
  ) => number
  const start = libc().mmap(0, bytes, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0)
  t.teardown(() => libc().munmap(start, bytes))
  t.equal(madvise(start, bytes, MADV_NOHUGEPAGE), 0)
  const memory = new Uint8Array(koffi.view(start, bytes))
  for (let at = 0; at < bytes; at += 4096) memory[at] = at / 4096
  const hugeKiB = () => {
    const smaps = readFileSync('/proc/self/smaps', 'latin1')
    const from = smaps.indexOf(`\n${start.toString(16).padStart(8, '0')}-`)
    return Number(/AnonHugePages: +(\d+) kB/.exec(smaps.slice(from))?.[1])
  }
  t.equal(hugeKiB(), 0)
  t.equal(madvise(start, bytes, MADV_HUGEPAGE), 0)
  // MADV_COLLAPSE came with 6.1.
  const [major = 0, minor = 0] = readFileSync('/proc/sys/kernel/osrelease', 'latin1').split('.').map(Number)
  const able = major > 6 || (major === 6 && minor >= 1)
  await readyMemory(process.pid, performance.now() + 60_000)
  t.equal(hugeKiB() >= 6 * 1024, able, `${hugeKiB()} kB in huge pages`)
  t.ok(memory.every((value, at) => value === (at % 4096 === 0 ? (at / 4096) & 255 : 0)))
})

t.test('memory that was never used is mapped, in huge pages and in small ones', async (t) => {
  const bytes = 8 * MiB
  const [PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, MADV_HUGEPAGE, PR_SET_THP_DISABLE] = [3, 0x22, 14, 41]
  const library = koffi.load('libc.so.6')
  const madvise = library.func('int madvise(uintptr_t, size_t, int)') as (...numbers: number[]) => number
  const prctl = library.func('int prctl(int, long, long, long, long)') as (...numbers: number[]) => number
  t.teardown(() => prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0))
  for (const small of [0, 1]) {
    t.equal(prctl(PR_SET_THP_DISABLE, small, 0, 0, 0), 0)
    const start = libc().mmap(0, bytes, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0)
    t.equal(madvise(start, bytes, MADV_HUGEPAGE), 0)
    const pagemap = () => {
      const file = openSync('/proc/self/pagemap', 'r')
      const entries = Buffer.alloc((bytes / 4096) * 8)
      readSync(file, entries, 0, entries.length, (start / 4096) * 8)
      closeSync(file)
      // What does not fill a huge page is left out.
      const skipped = (Math.ceil(start / (2 * MiB)) * 2 * MiB - start) / 4096
      return entries.subarray(skipped * 8, (skipped + 3 * 512) * 8)
    }
    t.notOk(isMapped(pagemap()))
    const memory = new Uint8Array(koffi.view(start, bytes))
    memory[bytes / 2] = 7
    await readyMemory(process.pid, performance.now() + 60_000)
    t.ok(isMapped(pagemap()), small ? 'small ones' : 'huge ones')
    t.equal(memory[bytes / 2], 7)
    libc().munmap(start, bytes)
  }
})

t.test('a process that is gone is no error', async (t) => {
  await t.resolves(readyMemory(2 ** 22 + 1, performance.now() + 1000))
})
