// What the reports of snapshots and restores say of times that several hosts have told.

import t from 'tap'
import { describeCreated, describeRestore } from '../../src/cli/snapshot-report.js'
import { manifestOf } from '../coordinator/fixtures.js'

const dayMs = 86_400_000

t.test('clocks that differ by a day are no cut that took a day', async (t) => {
  const manifest = manifestOf({ a: ['vm1'], b: ['vm2'] })
  const cuts = (skewMs: number) => describeCreated({ ...manifest, figures: { ...manifest.figures!, skewMs } })
  t.match(cuts(1), /first to last cut 1\.0 ms$/m)
  t.match(cuts(manifest.figures!.globalMs), /first to last cut 900\.0 ms$/m)
  t.match(cuts(dayMs), /first to last cut unknown, for the clocks of the hosts differ by 86400\.00 s or so$/m)
  const report = {
    ...{ network: 'lab0', name: 'demo', epoch: 5, placement: {}, disks: {}, transferredBytes: 0, channelFrames: 0 },
    ...{ restoreMs: 2000, warnings: [] },
  }
  const restore = (resumedSkewMs: number) => describeRestore({ ...report, resumedSkewMs }, new Date())
  t.match(restore(3), /first to last machine to run 3\.0 ms$/m)
  t.match(restore(dayMs), /first to last machine to run unknown, for the clocks/)
})
