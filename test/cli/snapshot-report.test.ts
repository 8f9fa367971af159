// What the reports of snapshots and restores say of times that several hosts have told.

import t from 'tap'
import { describeCreated, describePruning, describeRestore, isAllPruned } from '../../src/cli/snapshot-report.js'
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

t.test('a merge or a record that could not go is left of pruning', async (t) => {
  const pruned = { freedBytes: 0, merged: [], removed: [], kept: [], failures: [] }
  const failure = { code: 'STORE_FULL', message: 'no room', action: 'Make room.' } as const
  const report = (failures: readonly (typeof failure)[]) => ({
    failed: [],
    hosts: [
      { host: 'a', pruned, error: null },
      { host: 'b', pruned: { ...pruned, failures: [...failures] }, error: null },
    ],
  })
  t.ok(isAllPruned(report([])))
  t.notOk(isAllPruned(report([failure])))
  t.match(describePruning(report([failure]), false), /^ {2}not merged: no room$/m)
  const kept = { ...pruned, kept: [{ file: '/x', reason: 'it only looks like ours' }] }
  t.ok(isAllPruned({ failed: [], hosts: [{ host: 'a', pruned: kept, error: null }] }), 'nobody has asked for that')
  const record = (error: typeof failure | null) => ({ failed: [{ network: 'lab0', name: 'half', error }], hosts: [] })
  t.ok(isAllPruned(record(null)))
  t.notOk(isAllPruned(record(failure)))
})
