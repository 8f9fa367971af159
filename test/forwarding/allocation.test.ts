// The hot path allocates nothing per frame: a million frames leave the heap as it was, and the garbage collector idle.

import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'

interface Cost {
  readonly frames: number
  readonly sent: number
  /** Bytes of heap, before and after a collection. */
  readonly grown: number
  readonly kept: number
  readonly collections: number
}

t.test('a million frames', async (t) => {
  const program = join(import.meta.dirname, 'allocation-run.js')
  const { stdout } = await promisify(execFile)(process.execPath, ['--expose-gc', program], { timeout: 60_000 })
  const cost = JSON.parse(stdout) as Cost
  t.comment(stdout.trim())
  // Of four, three go to one port each (one of them from the trunk); one, to an unknown address, floods to three.
  t.equal(cost.sent, (cost.frames / 4) * (1 + 1 + 1 + 3), 'forwarded as they should be')
  // One byte per frame would be a megabyte. What is left is the timers and the messages of the test itself.
  t.ok(cost.grown < 500_000, `the heap grew by ${cost.grown} bytes`)
  t.ok(cost.kept < 100_000, `${cost.kept} bytes were kept`)
  t.ok(cost.collections <= 1, `${cost.collections} collections`)
})
