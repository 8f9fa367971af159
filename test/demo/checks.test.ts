// Each check of the demo must fail on the very damage that it is there for.

import t from 'tap'
import type { AuditReport, Manifest } from '../../src/api/schemas.js'
import { manifestOf } from '../coordinator/fixtures.js'
import type { StateLine } from '../lab/console.js'
import { type Check, checkAudit, checkOutcome, checkResumption, checkSnapshot, type MachineOutcome } from './checks.js'

const ring = { hop: 10, hops: 10, value: 'aa', tokens: 5, resets: 0, duplicated: 0, skipped: 0, corrupt: 0 }
const ringEnd = { ...ring, retransmits: 0, longestGapMs: 1, finished: true, failed: false }
const disk = { sequence: 2, verified: 3, mismatches: 0, errors: 0 }
const sent = { stream: 1, sent: 100, errors: 0, refused: 0, acknowledged: true, peerReceived: 100 }
const counts = { lost: 0, doubled: 0, reordered: 0, stale: 0, corrupt: 0, overruns: 0 }
const received = { stream: 1, received: 100, ...counts, longestGapMs: 1, ended: true }

type Change = {
  readonly ring?: Partial<typeof ringEnd>
  readonly disk?: Partial<typeof disk>
  readonly received?: Partial<typeof received>
  readonly error?: string
}

function outcome(change: Change): MachineOutcome[] {
  const done: StateLine = {
    type: 'done',
    node: 0,
    ms: 1,
    ring: { ...ringEnd, ...change.ring },
    disk: { ...disk, ...change.disk },
    send: [sent],
    receive: [{ ...received, ...change.received }],
  }
  return [{ name: 'vm1', done, errors: change.error === undefined ? [] : [{ type: 'error', what: change.error }] }]
}

const failed = (checks: readonly Check[]) => checks.filter((check) => !check.ok).map((check) => check.what)
const judge = (change: Change) => failed(checkOutcome('run', outcome(change), 'aa', { 1: 'stream' }))

t.test('what the guests report', async (t) => {
  t.same(judge({}), [])
  const result = 'ring result is the computed one on every node'
  t.same(judge({ ring: { value: 'ab' } }), [result])
  t.same(judge({ ring: { finished: false } }), [result])
  t.same(judge({ ring: { resets: 1 } }), ['no TCP connection reset'])
  for (const what of ['duplicated', 'skipped', 'corrupt'] as const) {
    t.same(judge({ ring: { [what]: 1 } }), ['no token doubled, skipped or damaged'])
  }
  const stream = 'stream: nothing lost, doubled or reordered'
  for (const what of ['lost', 'doubled', 'reordered', 'stale', 'corrupt'] as const) {
    t.same(judge({ received: { [what]: 1 } }), [stream], what)
  }
  t.same(judge({ received: { received: 99 } }), [stream], 'the sender knows better')
  t.same(judge({ received: { ended: false } }), [stream])
  t.same(judge({ received: { stream: 2 } }), [stream], 'nobody received it')
  t.same(judge({ disk: { mismatches: 1 } }), ['every disk agrees with its machine’s memory'])
  t.same(judge({ disk: { verified: 0 } }), ['every disk agrees with its machine’s memory'], 'never looked')
  t.same(judge({ error: 'ring_reset' }), ['no guest reported an error'])
})

t.test('what the manifest says', async (t) => {
  const manifest = (state: Manifest['state'], lost: number, resumedAtUs: number, skewMs: number): Manifest => {
    const made = manifestOf({ a: ['vm1'] }, { state })
    const [part] = made.parts
    const members = part!.members.map((member) => ({ ...member, pausedAtUs: 1_000, resumedAtUs }))
    return { ...made, parts: [{ ...part!, members }], figures: { ...made.figures!, skewMs, lost } }
  }
  t.same(failed(checkSnapshot(manifest('complete', 0, 6_000, 5), ['vm1'])), [])
  t.same(failed(checkSnapshot(manifest('failed', 0, 6_000, 5), ['vm1'])), ['complete, with every machine in it'])
  t.same(failed(checkSnapshot(manifest('complete', 0, 6_000, 5), ['vm1', 'vm2'])).length, 1)
  t.same(failed(checkSnapshot(manifest('complete', 1, 6_000, 5), ['vm1'])), ['no frame lost at the cut'])
  t.same(failed(checkSnapshot(manifest('complete', 0, 26_000, 5), ['vm1'])), ['downtime under 20 ms'])
  t.same(failed(checkSnapshot(manifest('complete', 0, 6_000, 51), ['vm1'])), ['cut skew under 50 ms'])
})

t.test('where and from where restored guests go on', async (t) => {
  const report = { placement: { vm1: 'b' } }
  const line = (hop: number) => ({ ...outcome({ ring: { hop } })[0]!.done, type: 'progress' }) as const
  const start = { type: 'start', node: 0, ms: 1 } as const
  const judge = (lines: (StateLine | typeof start)[], host = 'b') => {
    const resumption = { name: 'vm1', lines, before: 400, after: 450 }
    return failed(checkResumption(report, [{ name: 'vm1', host }], { vm1: 'b' }, [resumption], 50))
  }
  const goesOn = 'guests go on from the cut, none booted anew'
  t.same(judge([line(420), line(900)]), [])
  t.same(judge([line(399)]), [goesOn], 'from before the snapshot')
  t.same(judge([line(900)]), [goesOn], 'from long after it')
  t.same(judge([start, line(420)]), [goesOn], 'booted')
  t.same(judge([]), [goesOn], 'silent')
  t.same(judge([line(420)], 'a'), ['every machine runs where it was placed, hosts swapped'])
})

t.test('the audit', async (t) => {
  const hosts = [{ host: 'a', events: 100, overflow: 0, recordedMs: 10 }]
  const report = (verdict: AuditReport['verdict'], what: string): AuditReport => {
    const where = { host: null, port: null, file: null, offset: null, frame: null, atUs: null }
    const findings = verdict === 'violated' ? [{ what, ...where }] : []
    const notes = verdict === 'incomplete' ? [what] : []
    const check = { check: 'events' as const, verdict, examined: 1, violations: findings.length, findings, notes }
    return { network: 'lab0', name: 'demo', epoch: 1, verdict, checks: [check], hosts, auditMs: 1 }
  }
  t.match(checkAudit(report('consistent', '')), { kind: 'must', ok: true, seen: 'consistent: 100 events of 1 hosts' })
  t.match(checkAudit(report('violated', 'an orphan')), { ok: false, seen: 'violated: an orphan' })
  t.match(checkAudit(report('incomplete', 'no room')), { ok: false, seen: 'incomplete: no room' })
})
