// The hot path allocates nothing per frame: a million frames leave the heap as it was, and the garbage collector idle.

import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { patience } from '../patience.js'

interface Cost {
  readonly frames: number
  readonly sent: number
  /** Bytes of heap, before and after a collection. */
  readonly grown: number
  readonly kept: number
  readonly collections: number
}

// Trunk: of four, three go to one port each (one of them from the trunk); one, to an unknown address, floods to three.
// Uplink: of four, one comes and one goes by the DSCP bit, one comes from the outside and one goes there.
const programs = { trunk: ['allocation-run.js', 1 + 1 + 1 + 3], uplink: ['allocation-uplink.js', 4] } as const

for (const [name, [file, sent]] of Object.entries(programs)) {
  t.test(`a million frames: ${name}`, async (t) => {
    const program = join(import.meta.dirname, file)
    const { stdout } = await promisify(execFile)(process.execPath, ['--expose-gc', program], {
      timeout: patience(60_000),
    })
    const cost = JSON.parse(stdout) as Cost
    t.comment(stdout.trim())
    t.equal(cost.sent, (cost.frames / 4) * sent, 'forwarded as they should be')
    // One byte per frame would be a megabyte. What is left is the timers and the messages of the test itself.
    t.ok(cost.grown < 500_000, `the heap grew by ${cost.grown} bytes`)
    t.ok(cost.kept < 100_000, `${cost.kept} bytes were kept`)
    t.ok(cost.collections <= 1, `${cost.collections} collections`)
  })
}
