// A trunk from one host to another, as both have recorded it: what was sent came once, in order, in its color; what
// came was sent. Where the recordings begin and end, frames of one side have no counterpart on the other: those are
// open, no fault.

import { type Alignment, align } from './align.js'
import type { Book } from './book.js'
import type { HostRun } from './host-run.js'

/** With all tags of a guest. What is longer is several frames in one, or of a network with long frames. */
const LONGEST_ORDINARY = 1522

export interface TrunkEnds {
  readonly from: HostRun
  readonly fromPort: number
  readonly to: HostRun
  readonly toPort: number
  /** Frames from before the cut that the receiver's closure counts as lost. */
  readonly countedLost: number
}

export function checkTrunk(ends: TrunkEnds, book: Book): void {
  const { from, fromPort, to, toPort, countedLost } = ends
  const sent = from.toTrunk[fromPort]
  const received = to.fromTrunk[toPort]
  const { cut } = from
  const name = `${from.table.head.host} -> ${to.table.head.host}`
  const identities = (of: HostRun, events: readonly number[]) =>
    Float64Array.from(events, (at) => of.table.identity[at])
  const found = align(identities(from, sent), identities(to, received))
  book.examined('undisturbed run', sent.length)
  book.examined('no orphan', received.length)
  const isRecut = recutFlows(ends, sent, received, found)
  let open = 0
  let recut = 0

  received.forEach((at, r) => {
    const s = found.sentOf[r]
    const color = to.table.color[at]
    if (s < 0 && isRecut(to, at)) {
      recut++
      return
    }
    if (s >= 0) {
      if (from.table.color[sent[s]] === color) return
      const what = `came with color ${color}, was sent by ${from.table.head.host} with ${from.table.color[sent[s]]}`
      book.violatedBy('no orphan', to.table, at, what)
    } else if ((r < found.firstReceived && color < cut) || (r > found.lastReceived && color >= cut)) open++
    else book.violatedBy('no orphan', to.table, at, `came from ${from.table.head.host}, which never sent it`)
  })
  for (const r of found.reordered) {
    book.violatedBy('undisturbed run', to.table, received[r], `overtook others on the way from ${from.table.head.host}`)
  }

  const lostBefore: number[] = []
  const lostAfter: number[] = []
  sent.forEach((at, s) => {
    if (found.isReceived[s] === 1) return
    if (isRecut(from, at)) {
      recut++
      return
    }
    const color = from.table.color[at]
    // All hosts record when a snapshot begins anywhere, and each until all that was sent before the cut has come.
    const early = s < found.firstSent && at < from.begin
    const late = s > found.lastSent && color >= cut
    if (early || late) open++
    else if (color < cut) lostBefore.push(at)
    else lostAfter.push(at)
  })
  const atDevices = from.table.ports[fromPort].lostAtDevice + to.table.ports[toPort].lostAtDevice
  const note = (text: string) => book.note('undisturbed run', `trunk ${name}: ${text}`)
  if (recut > 0) {
    const why = `trunk ${name}: ${recut} frames, seen on one side only, were cut up or put together on the way (TSO, GRO)`
    for (const check of ['no orphan', 'channel state', 'undisturbed run'] as const) book.incomplete(check, why)
  }
  if (open > 0) note(`${open} frames at the edges of the recordings, seen on one side only`)
  if (lostBefore.length > countedLost + atDevices) {
    for (const at of lostBefore) {
      const what = `sent to ${to.table.head.host} before the cut and never received; the manifest counts ${countedLost} lost`
      book.violatedBy('channel state', from.table, at, what)
    }
  } else if (lostBefore.length > 0) note(`${lostBefore.length} frames lost before the cut, as counted`)
  if (lostAfter.length > atDevices) {
    for (const at of lostAfter) {
      book.violatedBy('undisturbed run', from.table, at, `sent to ${to.table.head.host}, and never received there`)
    }
  } else if (lostAfter.length > 0) note(`${lostAfter.length} frames lost by its devices, as their counters say`)
}

/**
 * A device on the way may cut up what left as one long frame, or put frames together: then the digests of both sides
 * tell nothing of one another. That is so for the frames between two addresses of which both sides have some without a
 * counterpart, long ones on one side, and none as long on the other.
 */
function recutFlows(
  { from, to }: TrunkEnds,
  sent: readonly number[],
  received: readonly number[],
  { sentOf, isReceived }: Alignment,
): (run: HostRun, at: number) => boolean {
  const flowOf = ({ table }: HostRun, at: number) => `${table.source[at]} ${table.destination[at]}`
  const longestOf = (run: HostRun, events: readonly number[]) => {
    const longest = new Map<string, number>()
    for (const at of events) {
      const flow = flowOf(run, at)
      longest.set(flow, Math.max(run.table.frameLength[at], longest.get(flow) ?? 0))
    }
    return longest
  }
  const longestSent = longestOf(
    from,
    sent.filter((_, s) => isReceived[s] === 0),
  )
  const longestReceived = longestOf(
    to,
    received.filter((_, r) => sentOf[r] < 0),
  )
  return (run, at) => {
    const flow = flowOf(run, at)
    const [there, here] = [longestSent.get(flow), longestReceived.get(flow)]
    return there !== undefined && here !== undefined && there !== here && Math.max(there, here) > LONGEST_ORDINARY
  }
}
