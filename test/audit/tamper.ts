// Takes a recording apart into its events and puts it together again, changed, with every digest in it right: what
// somebody does who knows the format.

import { EventTraceWriter } from '../../src/trace/event-writer.js'
import { Event, type EventKind, type TraceEvent, type TraceHead, type TracePort } from '../../src/trace/events.js'
import { readPcapng } from '../../src/trace/pcapng-reader.js'
import { decodeRecord } from '../../src/trace/records.js'

export interface Recording {
  readonly head: TraceHead
  readonly ports: readonly TracePort[]
  readonly overflow: number
  readonly events: readonly TraceEvent[]
}

const COMMENT = /^snapswitch #\d+ ([a-z-]+)(?: color=(\d+))?(?: epoch=(\d+))?(?: of=#(\d+))?(?: reason=([a-z-]+))?$/

export function takeApart(file: Uint8Array): Recording {
  const events: TraceEvent[] = []
  const records: unknown[] = []
  for (const block of readPcapng(file)) {
    if (block.kind === 'packet') {
      const [, kind, color, epoch, cause, reason] = COMMENT.exec(block.comments[0]) as RegExpExecArray
      events.push({
        kind: Event[kind as EventKind],
        port: block.interface.id - 1,
        color: Number(color ?? 0),
        epoch: Number(epoch ?? 0),
        length: block.originalLength,
        cause: Number(cause ?? -1),
        digest: block.packetId ?? 0n,
        reason: reason ?? null,
        timeNs: block.timeNs as bigint,
        head: block.bytes,
      })
    } else if (block.kind === 'other') {
      const payload = Buffer.from(decodeRecord(block)!.payload)
      if (payload[0] === 0x7b && payload.at(-1) === 0x7d) records.push(JSON.parse(payload.toString()))
    }
  }
  const { ports, ...head } = records[0] as TraceHead & { ports: TracePort[] }
  return { head, ports, overflow: (records[1] as { overflow: number }).overflow, events }
}

export function putTogether({ head, ports, events, overflow }: Recording): Uint8Array {
  const writer = new EventTraceWriter(head, ports)
  for (const event of events) writer.add(event)
  writer.end(overflow)
  return writer.take()
}

/** The events without those at `gone`; the numbers that others refer to follow. */
export function without(events: readonly TraceEvent[], gone: ReadonlySet<number>): TraceEvent[] {
  const numbers = new Map<number, number>()
  let next = 0
  events.forEach((_, at) => {
    if (!gone.has(at)) numbers.set(at, next++)
  })
  return events.flatMap((event, at) => {
    if (gone.has(at)) return []
    return [{ ...event, cause: event.cause < 0 ? -1 : (numbers.get(event.cause) ?? -1) }]
  })
}
