// A trunk from one host to another, as both have recorded it: what was sent came once, in order, in its color; what came was
// sent. Where the recordings begin and end, frames of one side have no counterpart on the other: those are open, no fault.

import { align } from './align.js'
import type { Book } from './book.js'
import type { HostRun } from './host-run.js'

export interface TrunkEnds {
  readonly from: HostRun
  readonly fromPort: number
  readonly to: HostRun
  readonly toPort: number
  /** Frames from before the cut that the receiver's closure counts as lost. */
  readonly countedLost: number
}

export function checkTrunk({ from, fromPort, to, toPort, countedLost }: TrunkEnds, book: Book): void {
  const sent = from.toTrunk[fromPort]
  const received = to.fromTrunk[toPort]
  const { cut } = from
  const name = `${from.table.head.host} -> ${to.table.head.host}`
  const identities = (of: HostRun, events: readonly number[]) =>
    Float64Array.from(events, (at) => of.table.identity[at])
  const found = align(identities(from, sent), identities(to, received))
  book.examined('undisturbed run', sent.length)
  book.examined('no orphan', received.length)
  let open = 0

  received.forEach((at, r) => {
    const s = found.sentOf[r]
    const color = to.table.color[at]
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
