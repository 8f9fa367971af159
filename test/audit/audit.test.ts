// The audit on made-up runs of the production forwarders: each is consistent, and none stays so when an event, a frame
// of the channel state or a word of the manifest is changed, whichever it is.

import t from 'tap'
import { Event, type TraceEvent } from '../../src/trace/events.js'
import { fileLimit } from '../patience.js'
import { judge, type SyntheticHost, type SyntheticRun, seeded, syntheticRun } from './synthetic.js'
import { without } from './tamper.js'

t.setTimeout(fileLimit(120_000))

const SEEDS = 25

const said = (run: SyntheticRun) => {
  const { verdict, checks } = judge(run)
  return `${verdict} ${JSON.stringify(checks.flatMap((check) => check.findings.slice(0, 2)))}`
}

t.test('runs of every kind are consistent', async (t) => {
  const seen = { recorded: 0, residue: 0, held: 0, early: 0 }
  for (let seed = 1; seed <= SEEDS; seed++) {
    const run = syntheticRun(seed)
    const { verdict, checks } = judge(run)
    if (verdict !== 'consistent') t.fail(`seed ${seed}: ${said(run)}`)
    if (checks.some((check) => check.examined === 0 && check.check !== 'files' && check.check !== 'channel state')) {
      t.fail(`seed ${seed}: a check examined nothing`)
    }
    for (const { recording, channel } of run.hosts) {
      seen.recorded += channel.filter((frame) => frame.verdict === 'in-transit').length
      seen.residue += channel.filter((frame) => frame.verdict === 'residue').length
      const held = recording.events.filter((event) => event.kind === Event.held)
      seen.held += held.length
      seen.early += held.filter((event) => event.color > event.epoch).length
    }
  }
  for (const [what, count] of Object.entries(seen)) t.ok(count > SEEDS, `${what}: ${count}`)
})

t.test('hosts on one LAN, too', async (t) => {
  for (let seed = 1; seed <= 8; seed++) {
    const run = syntheticRun(seed, { by: 'uplink' })
    const sent = run.hosts[0].recording.events.filter((event) => event.kind === Event['to-trunk'])
    t.ok(
      sent.length > 20 && run.hosts.every((host) => host.part.closures.length === 1),
      `${sent.length} sent to the peer`,
    )
    t.equal(judge(run).verdict, 'consistent', said(run))
  }
})

t.test('ports to the outside that no frame reaches', async (t) => {
  for (const plain of ['room', 'vlan'] as const) {
    for (let seed = 1; seed <= 5; seed++) {
      for (const by of ['trunk', 'uplink'] as const) {
        const run = syntheticRun(seed, { plain, by })
        t.ok(run.hosts.every(({ recording }) => recording.events.some(({ kind }) => kind === Event.delivered)))
        t.equal(judge(run).verdict, 'consistent', `${plain}, ${by}, seed ${seed}: ${said(run)}`)
      }
    }
  }
})

t.test('a trunk whose devices cut frames up: incomplete, with the reason', async (t) => {
  for (let seed = 1; seed <= 5; seed++) {
    const run = syntheticRun(seed)
    const { recording } = run.hosts[0]
    const { events } = recording
    // On this side a frame was long; on the other, something else came.
    const begin = events.findIndex(({ kind }) => kind === Event.begin)
    // One that is nowhere held: what came of it came at once.
    const isWhole = (cause: number, digest: bigint) =>
      events.every((event, at) => event.digest !== digest || at === cause || event.cause === cause)
    const out = events.findIndex(
      ({ kind, cause, digest }) => kind === Event['to-trunk'] && cause > begin && isWhole(cause, digest),
    )
    const { cause, digest } = events[out]
    const long = events.map((event, at) =>
      at === cause || (event.cause === cause && event.digest === digest)
        ? { ...event, length: 4000, digest: digest ^ 0x40n }
        : event,
    )
    const hosts = [{ ...run.hosts[0], recording: { ...recording, events: long } }, ...run.hosts.slice(1)]
    const { verdict, checks } = judge({ ...run, hosts })
    t.equal(verdict, 'incomplete', JSON.stringify(checks))
    t.match(checks.find(({ check }) => check === 'no orphan')?.notes.join(), /cut up or put together/)
  }
})

t.test('a port that was not drained before its cut', async (t) => {
  for (let seed = 1; seed <= 5; seed++) {
    const { verdict, checks } = judge(syntheticRun(seed, { undrained: true }))
    t.equal(verdict, 'violated')
    t.match(checks.find((check) => check.check === 'no orphan')?.findings, [{ host: 'a', port: 'vm0' }])
  }
})

/** Changes one thing at `at`; null when that cannot be done there. */
type Change = (events: readonly TraceEvent[], at: number) => TraceEvent[] | null
const isFrame = (event: TraceEvent) => event.kind < Event.state
const put = (events: readonly TraceEvent[], at: number, change: Partial<TraceEvent>) =>
  events.map((event, i) => (i === at ? { ...event, ...change } : event))

const changes: Readonly<Record<string, Change>> = {
  'an event is taken out': (events, at) => without(events, new Set([at])),
  'an event is there twice': (events, at) => {
    // A frame that came in twice and went nowhere is a frame of its own; its outcomes are of the second.
    const numbers = (number: number) => (number < 0 ? -1 : number > at ? number + 1 : number)
    return events.flatMap((event, i) => {
      const moved = { ...event, cause: numbers(event.cause) }
      return i === at ? [moved, moved] : [moved]
    })
  },
  'another digest': (events, at) =>
    isFrame(events[at]) && events[at].kind !== Event.recorded
      ? put(events, at, { digest: events[at].digest ^ 0x40n })
      : null,
  'another color': (events, at) => {
    const { kind, color } = events[at]
    return isFrame(events[at]) && kind !== Event.recorded ? put(events, at, { color: color === 5 ? 6 : 5 }) : null
  },
  'another epoch': (events, at) => {
    const { kind, epoch } = events[at]
    const tells = [Event.sent, Event.delivered, Event.flip, Event.begin]
    return tells.includes(kind) ? put(events, at, { epoch: epoch === 5 ? 6 : 5 }) : null
  },
  'another port': (events, at) => {
    const { kind, port } = events[at]
    const tells = [Event.delivered, Event.held, Event.flip]
    return tells.includes(kind) ? put(events, at, { port: 1 - port }) : null
  },
  'two deliveries change places': (events, at) => {
    const next = events.findIndex(
      (event, i) => i > at && event.kind === Event.delivered && event.port === events[at].port,
    )
    if (events[at].kind !== Event.delivered || next < 0 || events[next].digest === events[at].digest) return null
    const swapped = [...events]
    swapped[at] = { ...events[next], cause: events[at].cause }
    swapped[next] = { ...events[at], cause: events[next].cause }
    return swapped
  },
  'a frame is taken out with all that came of it': (events, at) => {
    // Where the recordings end nobody can tell; of frames from before the cut everybody must have come.
    const begin = events.findIndex((event) => event.kind === Event.begin)
    const { kind, color } = events[at]
    const isHeld = events.some((event) => event.kind === Event.held && event.cause === at)
    if (kind !== Event['from-trunk'] || at < begin || color !== 5 || isHeld) return null
    return without(events, new Set(events.flatMap((event, i) => (i === at || event.cause === at ? [i] : []))))
  },
}

/** What is said of a host or port twice says nothing new. */
const repeatable = [Event.state, Event['gate-closed'], Event['gate-opened'], Event.begin, Event.closed]

/**
 * The run with one of the events of host `which` changed, the first from `from` on where it can be done; null when
 * there is none.
 */
function changedRun(run: SyntheticRun, which: number, from: number, what: string): SyntheticRun | null {
  const { events } = run.hosts[which].recording
  for (let i = 0; i < events.length; i++) {
    const at = (from + i) % events.length
    if (what === 'an event is there twice' && repeatable.includes(events[at].kind)) continue
    const changed = changes[what](events, at)
    if (changed !== null) return withHost(run, which, { recording: { ...run.hosts[which].recording, events: changed } })
  }
  return null
}

function withHost(run: SyntheticRun, which: number, change: Partial<SyntheticHost>): SyntheticRun {
  return { ...run, hosts: run.hosts.map((host, number) => (number === which ? { ...host, ...change } : host)) }
}

t.test('one event changed, and the verdict is another', async (t) => {
  for (const what of Object.keys(changes)) {
    let tried = 0
    for (let seed = 1; seed <= 8; seed++) {
      const run = syntheticRun(seed)
      const random = seeded(seed * 7919)
      for (let i = 0; i < 4; i++) {
        const which = i % 2
        const from = Math.floor(random() * run.hosts[which].recording.events.length)
        const changed = changedRun(run, which, from, what)
        if (changed === null) continue
        tried++
        const { verdict } = judge(changed)
        if (verdict !== 'violated') t.fail(`${what}: seed ${seed}, host ${which}, from event ${from}: ${verdict}`)
      }
    }
    t.ok(tried > 15, `${what}: ${tried} tried`)
  }
})

t.test('the channel state changed, and the verdict is another', async (t) => {
  const run = syntheticRun(3)
  const which = run.hosts[0].channel.length > 2 ? 0 : 1
  const { channel, part } = run.hosts[which]
  const [first, second] = channel
  const other = { ...first, bytes: Uint8Array.from(first.bytes, (byte, at) => (at === 50 ? byte ^ 1 : byte)) }
  const variants = {
    'a frame is missing': channel.slice(1),
    'a frame is there twice': [...channel, second],
    'a byte is another': [other, ...channel.slice(1)],
    'a color is another': [{ ...first, color: first.color + 1 }, ...channel.slice(1)],
    'a verdict is another': [
      { ...first, verdict: first.verdict === 'residue' ? ('in-transit' as const) : ('residue' as const) },
      ...channel.slice(1),
    ],
    'a receiver is another': [
      { ...first, port: part.members.find((one) => one.vm !== first.vm)!.vm },
      ...channel.slice(1),
    ],
  }
  for (const [what, frames] of Object.entries(variants)) {
    const { verdict, checks } = judge(withHost(run, which, { channel: frames }))
    t.equal(verdict, 'violated', what)
    t.equal(checks.find((check) => check.check === 'channel state')?.verdict, 'violated', what)
  }
})

t.test('a manifest that says otherwise is found out', async (t) => {
  const run = syntheticRun(3)
  const { part } = run.hosts[0]
  const [member, ...others] = part.members
  const parts = {
    'another count of recorded frames': { ...part, members: [{ ...member, recorded: member.recorded + 1 }, ...others] },
    'a machine that was never released': { ...part, members: [{ ...member, releasedAtUs: 0 }, ...others] },
    'a machine that is resumed before it is paused': { ...part, members: [{ ...member, resumedAtUs: 1 }, ...others] },
    'another host': { ...part, host: 'c' },
  }
  for (const [what, changed] of Object.entries(parts)) {
    const hosts = withHost(run, 0, { part: changed })
    const { verdict } = judge({ ...hosts, manifest: { ...run.manifest, parts: [changed, run.manifest.parts[1]] } })
    t.equal(verdict, 'violated', what)
  }
  t.equal(
    judge({ ...run, manifest: { ...run.manifest, epoch: run.manifest.epoch + 1 } }).verdict,
    'violated',
    'another epoch',
  )
  t.equal(judge({ ...run, manifest: { ...run.manifest, name: 'other' } }).verdict, 'violated', 'another snapshot')
})

t.test('a recording without room is incomplete, and what it shows still counts', async (t) => {
  for (let seed = 1; seed <= 5; seed++) {
    const run = syntheticRun(seed, { events: 300 })
    t.ok(run.hosts.every((host) => host.recording.overflow > 0))
    t.equal(judge(run).verdict, 'incomplete', said(run))
    const changed = changedRun(run, 0, 20, 'another color') as SyntheticRun
    t.equal(judge(changed).verdict, 'violated', said(changed))
  }
})
