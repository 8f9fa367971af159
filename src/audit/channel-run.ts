// The channel state of one host against what its recording says was in transit: the same frames, each once, no other.

import type { LocalPart } from '../api/schemas.js'
import { FrameDigest } from '../frame/digest.js'
import { Frame } from '../frame/frame.js'
import { type ChannelFrame, readChannel } from '../trace/channel.js'
import { identityOf } from '../trace/event-reader.js'
import { type Book, hex } from './book.js'
import type { HostRun } from './host-run.js'

/** A frame of a channel-state file, as the audit sees it. */
export interface ChannelEntry {
  readonly port: string
  readonly vm: string
  readonly color: number
  readonly verdict: ChannelFrame['verdict']
  readonly identity: number
}

/** @throws SnapswitchError TRACE_INVALID */
export function channelEntries(file: Uint8Array): ChannelEntry[] {
  const digest = new FrameDigest()
  const frame = new Frame()
  return readChannel(file).map(({ port, vm, color, verdict, bytes }) => {
    frame.bytes = bytes
    frame.length = bytes.length
    digest.of(frame)
    return { port, vm, color, verdict, identity: identityOf(digest.high, digest.low) }
  })
}

export function checkChannel(run: HostRun, entries: readonly ChannelEntry[], part: LocalPart, book: Book): void {
  const { table } = run
  const file = `hosts/${part.host}/channel.pcapng`
  const closuresLost = part.closures.reduce((sum, closure) => sum + closure.lost, 0)
  book.examined('channel state', entries.length)
  let stragglers = 0
  for (const member of part.members) {
    const ports = table.ports.flatMap((port, number) => (port.vm === member.vm ? [number] : []))
    let missing = 0
    let unread = 0
    for (const port of ports) {
      const { residue, inTransit } = run.ports[port]
      const name = table.ports[port].name
      unread += residue.length
      const waiting = new Map<string, number[]>()
      const want = (at: number, verdict: ChannelEntry['verdict']) => {
        const key = keyOf(verdict, table.color[at], table.identity[at])
        waiting.set(key, [...(waiting.get(key) ?? []), at])
      }
      for (const at of residue) want(at, 'residue')
      for (const at of inTransit) want(at, 'in-transit')
      entries.forEach((entry, number) => {
        if (entry.port !== name) return
        const found = waiting.get(keyOf(entry.verdict, entry.color, entry.identity))?.shift()
        if (found !== undefined) return
        book.violated('channel state', {
          what: `frame ${number} (${entry.verdict}, color ${entry.color}) was not under way at the cut, or is there twice`,
          host: part.host,
          port: name,
          file,
          frame: hex(entry.identity),
        })
      })
      const left = [...waiting.values()].flat()
      // Stragglers are lost to the channel: they came after it was closed.
      const { recorded, stragglers: late, overflow } = run.ports[port]
      if (recorded + late + overflow !== inTransit.length) {
        book.violated('channel state', {
          what: `${inTransit.length} frames were in transit, ${recorded + late + overflow} were taken for that`,
          host: part.host,
          port: name,
        })
      }
      const allowed = late + overflow
      stragglers += late
      missing += left.length - late
      if (left.length > allowed) {
        for (const at of left) book.violatedBy('channel state', table, at, `in transit at the cut, and not in ${file}`)
      }
    }
    const recorded = entries.filter((entry) => entry.vm === member.vm).length
    if (recorded !== member.recorded || missing > member.lost) {
      book.violated('channel state', {
        what: `${member.vm}: the manifest counts ${member.recorded} recorded and ${member.lost} lost, found are ${recorded} and ${missing}`,
        host: part.host,
        file,
      })
    } else if (unread !== member.residue) {
      const what = `${member.vm}: the manifest counts ${member.residue} frames that lay unread at the cut, found are ${unread}`
      book.violated('channel state', { what, host: part.host, file })
    } else if (member.lost > 0) {
      book.note('channel state', `${member.vm}: ${member.lost} in-transit frames are lost to the snapshot, as counted`)
    }
  }
  if (stragglers > closuresLost) {
    const what = `${stragglers} frames came after the closure, which counts ${closuresLost} lost`
    book.violated('channel state', { what, host: part.host })
  }
  const known = new Set(table.ports.map((port) => port.name))
  for (const entry of entries) {
    if (!known.has(entry.port)) {
      book.violated('channel state', {
        what: `a frame for ${entry.port}, which is no port here`,
        host: part.host,
        file,
      })
    }
  }
}

function keyOf(verdict: string, color: number, identity: number): string {
  return `${verdict} ${color} ${identity}`
}
