// A machine's disks through random histories of snapshots, restores, deletions and kills. New ones:
// SNAPSWITCH_TEST_SEED=N; for long: npm run soak:disks.

import t from 'tap'
import { fileLimit } from '../patience.js'
import { runHistory } from './disks-history.js'
import { root, World } from './world.js'

t.setTimeout(fileLimit(300_000))

t.test('whatever happens, no disk loses anything, and nothing stays that nobody needs', root, async (t) => {
  const seed = Number(process.env.SNAPSWITCH_TEST_SEED ?? 1)
  const done = await runHistory(World.for(t), seed, 25)
  t.equal(done, 25)
})
