// Reads a trace of frame events (events.ts) into columns, for an audit. It believes nothing: what is not as the writer
// writes it makes the trace invalid, with the place.

import { createHash } from 'node:crypto'
import { SnapswitchError } from '../errors/errors.js'
import { Event, type EventKind, RECORD, TITLE, type TraceHead, type TracePort } from './events.js'
import type { PacketBlock } from './pcapng.js'
import { readPcapng } from './pcapng-reader.js'
import { decodeRecord } from './records.js'

const COMMENT =
  /^snapswitch #(\d{1,9}) ([a-z-]+)(?: color=(\d{1,10}))?(?: epoch=(\d{1,10}))?(?: of=#(\d{1,9}))?(?: reason=([a-z-]+))?$/
/** Events of the whole host go to an interface of its own. */
const HOST_INTERFACE = 0

/** The events of a trace in columns: a trace has hundreds of thousands. */
export class EventTable {
  head!: TraceHead
  ports: readonly TracePort[] = []
  /** Events that the recording had no room for. */
  overflow = 0
  length = 0
  kind: Uint8Array = new Uint8Array(1024)
  /** Index into `ports`; -1: of the whole host. */
  port: Int32Array = new Int32Array(1024)
  color: Float64Array = new Float64Array(1024)
  epoch: Float64Array = new Float64Array(1024)
  cause: Int32Array = new Int32Array(1024)
  /**
   * The digest's lower 53 bits: a number, so that maps need no BigInt; that two frames of one channel share them is
   * unlikely enough.
   */
  identity: Float64Array = new Float64Array(1024)
  frameLength: Int32Array = new Int32Array(1024)
  /** Addresses as 48-bit numbers. */
  destination: Float64Array = new Float64Array(1024)
  source: Float64Array = new Float64Array(1024)
  timeUs: Float64Array = new Float64Array(1024)
  /** Where in the file. */
  offset: Float64Array = new Float64Array(1024)
  readonly reasons = new Map<number, string>()

  /** Makes room for one more event; returns its number. */
  grow(): number {
    if (this.length === this.kind.length) {
      this.kind = doubled(this.kind)
      this.port = doubled(this.port)
      this.color = doubled(this.color)
      this.epoch = doubled(this.epoch)
      this.cause = doubled(this.cause)
      this.identity = doubled(this.identity)
      this.frameLength = doubled(this.frameLength)
      this.destination = doubled(this.destination)
      this.source = doubled(this.source)
      this.timeUs = doubled(this.timeUs)
      this.offset = doubled(this.offset)
    }
    return this.length++
  }
}

function doubled<T extends Uint8Array | Int32Array | Float64Array>(array: T): T {
  const twice = new (array.constructor as new (length: number) => T)(array.length * 2)
  twice.set(array)
  return twice
}

/** The lower 53 bits of a digest. */
export function identityOf(high: number, low: number): number {
  return (high & 0x1fffff) * 4294967296 + low
}

/**
 * Reads a trace; yields now and then, so that the caller can let others run.
 * @throws SnapswitchError TRACE_INVALID when anything in it is not as EventTraceWriter writes it
 */
export function* readEvents(file: Uint8Array): Generator<void, EventTable, undefined> {
  const table = new EventTable()
  const running = createHash('sha256')
  let digested = 0
  let ended = false
  let headed = false
  for (const block of readPcapng(file)) {
    if (ended) throw invalid(block.offset, 'blocks follow the end of the events')
    if (block.kind === 'section') {
      if (block.offset !== 0 || !block.comments.includes(TITLE)) throw invalid(block.offset, `no “${TITLE}”`)
    } else if (block.kind === 'packet') {
      if (!headed) throw invalid(block.offset, 'an event comes before the head')
      readEvent(table, block)
      if (table.length % 4096 === 0) yield
    } else if (block.kind === 'other') {
      const record = decodeRecord(block)
      if (record === null) throw invalid(block.offset, 'a block does not belong in an event trace')
      if (record.kind === RECORD.chunk) {
        running.update(file.subarray(digested, block.offset))
        if (!running.copy().digest().equals(record.payload)) {
          throw invalid(block.offset, `something between bytes ${digested} and ${block.offset} was changed`)
        }
        digested = block.offset
      } else if (record.kind === RECORD.head && !headed) {
        const { ports, ...head } = parse(block.offset, record.payload) as TraceHead & { ports: TracePort[] }
        if (!Array.isArray(ports) || !ports.every(isTracePort)) throw invalid(block.offset, 'the head is damaged')
        table.head = head
        table.ports = ports
        headed = true
      } else if (record.kind === RECORD.end) {
        const { events, overflow } = parse(block.offset, record.payload) as { events: number; overflow: number }
        if (events !== table.length) throw invalid(block.offset, `${events} events written, ${table.length} found`)
        if (!(overflow >= 0)) throw invalid(block.offset, 'the end record is damaged')
        table.overflow = overflow
        ended = true
      } else throw invalid(block.offset, `record ${record.kind} does not belong here`)
    }
  }
  if (!ended) throw invalid(file.length, 'the trace has no end record: it was cut short')
  return table
}

function readEvent(table: EventTable, block: PacketBlock): void {
  const found = COMMENT.exec(block.comments[0] ?? '')
  const kind = found === null ? undefined : Event[found[2] as EventKind]
  if (found === null || kind === undefined) throw invalid(block.offset, `“${block.comments[0] ?? ''}” is no event`)
  const number = Number(found[1])
  if (number !== table.length) throw invalid(block.offset, `event #${number} stands where #${table.length} should`)
  const port = block.interface.id - 1
  const isFrame = kind < Event.state
  const ofHost = kind === Event.begin || kind === Event.closed
  if (port >= table.ports.length || (port === HOST_INTERFACE - 1) !== ofHost) {
    throw invalid(block.offset, `event #${number} is at the wrong interface`)
  }
  if (isFrame && (block.bytes.length < 12 || block.packetId === null || found[3] === undefined)) {
    throw invalid(block.offset, `event #${number} lacks its frame’s addresses, digest or color`)
  }
  const cause = found[5] === undefined ? -1 : Number(found[5])
  if (cause >= number) throw invalid(block.offset, `event #${number} comes of a later one`)
  const at = table.grow()
  table.kind[at] = kind
  table.port[at] = port
  table.color[at] = found[3] === undefined ? -1 : Number(found[3])
  table.epoch[at] = found[4] === undefined ? -1 : Number(found[4])
  table.cause[at] = cause
  table.identity[at] = block.packetId === null ? -1 : Number(block.packetId & 0x1fffffffffffffn)
  table.frameLength[at] = block.originalLength
  table.destination[at] = isFrame ? address(block.bytes, 0) : -1
  table.source[at] = isFrame ? address(block.bytes, 6) : -1
  table.timeUs[at] = block.timeNs === null ? 0 : Number(block.timeNs / 1000n)
  table.offset[at] = block.offset
  if (found[6] !== undefined) table.reasons.set(at, found[6])
}

function isTracePort(value: unknown): value is TracePort {
  const port = value as Partial<TracePort> | null
  const isMember = port?.kind === 'member' && typeof port.vm === 'string'
  return typeof port?.name === 'string' && typeof port.lostAtDevice === 'number' && (isMember || port.kind === 'trunk')
}

/** The address at `offset` as a 48-bit number. */
export function address(bytes: Uint8Array, offset: number): number {
  let value = 0
  for (let i = 0; i < 6; i++) value = value * 256 + bytes[offset + i]
  return value
}

function parse(offset: number, payload: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(payload))
  } catch (cause) {
    throw invalid(offset, 'a record is no JSON', cause)
  }
}

function invalid(offset: number, what: string, cause?: unknown): SnapswitchError {
  return new SnapswitchError(
    'TRACE_INVALID',
    `${what} (at byte ${offset})`,
    'The file was changed or damaged after the snapshot.',
    cause,
  )
}
