// Writes a trace of frame events (events.ts).

import { createHash } from 'node:crypto'
import { Event, eventKinds, RECORD, TITLE, type TraceEvent, type TraceHead, type TracePort } from './events.js'
import { PcapngWriter } from './pcapng-writer.js'
import { encodeRecord } from './records.js'

/** Bound of what an event takes in the file, its share of the running digests included. */
export const MAX_EVENT_BYTES = 208

/** Events between two running digests. */
const CHUNK = 8192

/** Writes a trace piece by piece; `take` after every few thousand events. */
export class EventTraceWriter {
  readonly #writer = new PcapngWriter({ application: 'snapswitch', comment: TITLE })
  readonly #running = createHash('sha256')
  readonly #ports: readonly TracePort[]
  #events = 0
  #pieces: Uint8Array[] = []

  constructor(head: TraceHead, ports: readonly TracePort[]) {
    this.#ports = ports
    this.#writer.interface({ name: head.host, description: 'the switch' })
    for (const port of ports) this.#writer.interface({ name: port.name, description: describe(port) })
    this.#record(RECORD.head, { ...head, ports })
  }

  add(event: TraceEvent): void {
    const kind = eventKinds[event.kind]
    const words = [`snapswitch #${this.#events} ${kind}`]
    if (event.kind < Event.state) words.push(`color=${event.color}`)
    if (event.port >= 0 && this.#ports[event.port].kind === 'member') words.push(`epoch=${event.epoch}`)
    if (event.port < 0) words.push(`epoch=${event.epoch}`)
    if (event.cause >= 0) words.push(`of=#${event.cause}`)
    if (event.reason !== null) words.push(`reason=${event.reason}`)
    const comment = words.join(' ')
    if (event.kind < Event.state) {
      const direction = event.kind === Event.sent || event.kind === Event['from-trunk'] ? 'inbound' : 'outbound'
      const originalLength = Math.max(event.length, event.head.length)
      const options = { direction, comment, originalLength, packetId: event.digest } as const
      this.#writer.packet(event.port + 1, event.timeNs, event.head, options)
    } else this.#writer.packet(event.port + 1, event.timeNs, new Uint8Array(0), { comment })
    this.#events++
    if (this.#events % CHUNK === 0) this.#chunk()
  }

  /** `overflow`: events that the recording had no room for. */
  end(overflow: number): void {
    this.#chunk()
    this.#record(RECORD.end, { events: this.#events, overflow })
  }

  /** The bytes since the last take. */
  take(): Uint8Array {
    this.#settle()
    const taken = Buffer.concat(this.#pieces)
    this.#pieces = []
    return taken
  }

  #settle(): void {
    const bytes = this.#writer.take()
    this.#running.update(bytes)
    this.#pieces.push(bytes)
  }

  #chunk(): void {
    this.#settle()
    this.#writer.local(encodeRecord({ kind: RECORD.chunk, payload: this.#running.copy().digest() }))
  }

  #record(kind: number, content: unknown): void {
    this.#writer.local(encodeRecord({ kind, payload: new TextEncoder().encode(JSON.stringify(content)) }))
  }
}

function describe(port: TracePort): string {
  return port.kind === 'member' ? `vm=${port.vm}` : `trunk to ${port.peer}`
}
