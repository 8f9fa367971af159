// Reads a guest's serial console as its QEMU writes it to a file: JSON objects behind a prefix, all else skipped.

import { closeSync, existsSync, openSync, readSync, statSync } from 'node:fs'
import { until } from './command.js'

export interface RingReport {
  readonly hop: number
  readonly hops: number
  /** Bits of the running result, 16 hex digits. */
  readonly value: string
  readonly tokens: number
  readonly resets: number
  readonly duplicated: number
  readonly skipped: number
  readonly corrupt: number
  readonly retransmits: number
  readonly longestGapMs: number
  readonly finished: boolean
  readonly failed: boolean
}

export interface DiskReport {
  readonly sequence: number
  readonly verified: number
  readonly mismatches: number
  readonly errors: number
}

export interface OrdersReport {
  readonly sent: number
  readonly served: number
  /** Number of the first one that was dropped; -1: none. */
  readonly dropped: number
}

export interface SendReport {
  readonly stream: number
  readonly sent: number
  readonly errors: number
  readonly refused: number
  readonly acknowledged: boolean
  readonly peerReceived: number
}

export interface ReceiveReport {
  readonly stream: number
  readonly received: number
  readonly lost: number
  readonly doubled: number
  readonly reordered: number
  readonly stale: number
  readonly corrupt: number
  readonly overruns: number
  readonly longestGapMs: number
  readonly ended: boolean
}

/** What the client of the stores bench tells (bench/stores/guest/client.c). */
export interface StoresReport {
  readonly etcd: readonly StoreReport[]
  readonly redis: StoreReport & { readonly copied: number }
  readonly begun: { readonly etcd: number; readonly redis: number }
  readonly idle: boolean
}

/** Writes acknowledged; connections that broke, and that were given up. */
export interface StoreReport {
  readonly acked: number
  readonly lost: number
  readonly silent: number
}

export interface StateLine {
  readonly type: 'progress' | 'done'
  readonly node: number
  /** The guest's monotonic clock. */
  readonly ms: number
  readonly ring?: RingReport
  readonly disk?: DiskReport
  readonly orders?: OrdersReport
  readonly stores?: StoresReport
  readonly send: readonly SendReport[]
  readonly receive: readonly ReceiveReport[]
}

export interface StartLine {
  readonly type: 'start'
  readonly node: number
  readonly ms: number
}

export interface ErrorLine {
  readonly type: 'error'
  readonly what: string
  readonly [detail: string]: unknown
}

export type GuestLine = StartLine | StateLine | ErrorLine

const prefix = '@lab '

export class GuestConsole {
  readonly file: string
  readonly lines: GuestLine[] = []
  #offset: number
  #rest = ''

  /** Reads from `offset` (bytes) on: a restored guest writes on in the file of its former incarnation. */
  constructor(file: string, offset = 0) {
    this.file = file
    this.#offset = offset
  }

  static lengthOf(file: string): number {
    return statSync(file, { throwIfNoEntry: false })?.size ?? 0
  }

  /** Takes in what was written since the last call. */
  refresh(): void {
    if (!existsSync(this.file)) return
    const size = statSync(this.file).size
    if (size <= this.#offset) return
    const bytes = Buffer.alloc(size - this.#offset)
    const descriptor = openSync(this.file, 'r')
    try {
      this.#offset += readSync(descriptor, bytes, 0, bytes.length, this.#offset)
    } finally {
      closeSync(descriptor)
    }
    const lines = (this.#rest + bytes.toString('latin1')).split('\n')
    this.#rest = lines.pop() ?? ''
    for (const line of lines) this.#take(line)
  }

  // A line may be cut by a kill or a restore: what does not parse is no report.
  #take(line: string): void {
    const at = line.lastIndexOf(prefix)
    if (at < 0) return
    try {
      this.lines.push(JSON.parse(line.slice(at + prefix.length)) as GuestLine)
    } catch {
      // Half a line.
    }
  }

  get state(): StateLine | undefined {
    this.refresh()
    return this.lines.findLast((line): line is StateLine => line.type === 'progress' || line.type === 'done')
  }

  get errors(): ErrorLine[] {
    this.refresh()
    return this.lines.filter((line): line is ErrorLine => line.type === 'error')
  }

  /** The first line, old or new, for which `test` holds. */
  line<T extends GuestLine>(what: string, timeoutMs: number, test: (line: GuestLine) => line is T): Promise<T> {
    return until(`${what} on ${this.file}`, timeoutMs, () => {
      this.refresh()
      return this.lines.find(test)
    })
  }

  started(timeoutMs: number): Promise<StartLine> {
    return this.line('the guest’s start', timeoutMs, (line): line is StartLine => line.type === 'start')
  }

  done(timeoutMs: number): Promise<StateLine> {
    return this.line('the guest’s end of work', timeoutMs, (line): line is StateLine => line.type === 'done')
  }

  error(what: string, timeoutMs: number): Promise<ErrorLine> {
    const test = (line: GuestLine): line is ErrorLine => line.type === 'error' && line.what === what
    return this.line(`the error ${what}`, timeoutMs, test)
  }
}
