// What may come out of a QMP socket, checked: lines of bounded length, each one JSON object of a known kind.

import { SnapswitchError } from '../../errors/errors.js'

export type JsonObject = { readonly [key: string]: unknown }

/**
 * A host-side event. `atUs` is QEMU's own timestamp, microseconds of CLOCK_REALTIME; a client hands it on as `nowUs`
 * has it.
 */
export interface QmpEvent {
  readonly name: string
  readonly data: JsonObject
  readonly atUs: number
}

export interface QmpGreeting {
  /** As in "7.2.22". */
  readonly version: string
  readonly major: number
  readonly minor: number
}

export type QmpMessage =
  | { readonly kind: 'greeting'; readonly greeting: QmpGreeting }
  | { readonly kind: 'return'; readonly id: unknown; readonly value: unknown }
  | { readonly kind: 'error'; readonly id: unknown; readonly description: string }
  | { readonly kind: 'event'; readonly event: QmpEvent }

/** The longest line taken: `query-block` tells each drive's whole chain, up to 13 KB a layer. */
export const longestLine = 1 << 24

/** Cuts a byte stream into lines; a line over the bound throws. */
export class LineSplitter {
  #parts: Buffer[] = []
  #held = 0

  push(chunk: Buffer): string[] {
    const lines: string[] = []
    let start = 0
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, start)) {
      this.#keep(chunk.subarray(start, end))
      const line = Buffer.concat(this.#parts).toString('utf8').trim()
      this.#parts = []
      this.#held = 0
      if (line !== '') lines.push(line)
      start = end + 1
    }
    if (start < chunk.length) this.#keep(chunk.subarray(start))
    return lines
  }

  #keep(part: Buffer): void {
    this.#held += part.length
    if (this.#held > longestLine) throw new Error(`a line of more than ${longestLine} bytes`)
    this.#parts.push(part)
  }
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/**
 * Throws HYPERVISOR_PROTOCOL where an answer tells of more than any machine has. Whoever answers may be anybody, and
 * what follows takes its time for each of them, or for each pair.
 */
export function checkCount(what: string, count: number, limit: number): void {
  if (count <= limit) return
  throw new SnapswitchError(
    'HYPERVISOR_PROTOCOL',
    `QEMU tells of more than ${limit} ${what}`,
    'See whether what listens at the machine’s QMP socket is its QEMU.',
  )
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0

/** Reads one line, or throws an Error that says what is wrong with it. */
export function parseMessage(line: string): QmpMessage {
  const shown = () => (line.length > 80 ? `${line.slice(0, 80)}…` : line)
  let message: unknown
  try {
    message = JSON.parse(line)
  } catch {
    throw new Error(`no JSON: ${shown()}`)
  }
  if (!isObject(message)) throw new Error(`no JSON object: ${shown()}`)
  if ('QMP' in message) {
    const version = isObject(message.QMP) && isObject(message.QMP.version) ? message.QMP.version.qemu : undefined
    if (!isObject(version) || !isCount(version.major) || !isCount(version.minor) || !isCount(version.micro)) {
      throw new Error(`a greeting without a version: ${shown()}`)
    }
    const { major, minor, micro } = version
    return { kind: 'greeting', greeting: { version: `${major}.${minor}.${micro}`, major, minor } }
  }
  if ('return' in message) return { kind: 'return', id: message.id, value: message.return }
  if ('error' in message) {
    if (!isObject(message.error) || typeof message.error.desc !== 'string') throw new Error(`a bare error: ${shown()}`)
    return { kind: 'error', id: message.id, description: message.error.desc }
  }
  if (typeof message.event === 'string') {
    const { timestamp, data } = message
    if (
      !isObject(timestamp) ||
      !Number.isSafeInteger(timestamp.seconds) ||
      !Number.isSafeInteger(timestamp.microseconds)
    ) {
      throw new Error(`an event without a time: ${shown()}`)
    }
    const atUs = (timestamp.seconds as number) * 1_000_000 + (timestamp.microseconds as number)
    return { kind: 'event', event: { name: message.event, data: isObject(data) ? data : {}, atUs } }
  }
  throw new Error(`neither greeting, answer nor event: ${shown()}`)
}
