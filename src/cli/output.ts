// How the command speaks: results on stdout (tables or JSON), progress and errors on stderr.

import { fstatSync, writeSync } from 'node:fs'
import Table from 'cli-table3'
import { whyUnwritten } from '../capture/files.js'
import { errorText, SnapswitchError } from '../errors/errors.js'
import { nameSources } from '../runtime/source-names.js'

/** Where output goes; tests put their own here. */
export interface Terminal {
  out(text: string): void
  err(text: string): void
  /** Whether stderr is a terminal on which a line can be rewritten. */
  readonly live: boolean
  readonly columns: number
  /** Calls `act` when the user interrupts (Ctrl-C) and then ends the command; the answer takes it back. */
  onInterrupt(act: () => void): () => void
}

let isToFile: boolean | undefined

export const systemTerminal: Terminal = {
  out: (text) => {
    isToFile ??= fstatSync(1).isFile()
    if (isToFile) writeToFile(text)
    else process.stdout.write(text)
  },
  err: (text) => {
    process.stderr.write(text)
  },
  get live() {
    return process.stderr.isTTY === true
  },
  get columns() {
    // A serial console says 0.
    return process.stderr.columns || 80
  },
  onInterrupt: (act) => {
    const interrupted = () => {
      act()
      process.exit(130)
    }
    process.once('SIGINT', interrupted)
    return () => process.off('SIGINT', interrupted)
  },
}

/** A disk that becomes full takes a part. Node's own stream does not look how much was written. */
function writeToFile(text: string): void {
  const bytes = Buffer.from(text)
  try {
    for (let at = 0; at < bytes.length; ) at += writeSync(1, bytes, at)
  } catch (thrown) {
    outputFailed(thrown as NodeJS.ErrnoException)
  }
}

/** Ends the command: as SIGPIPE would when the reader has gone, else with an error. */
export function outputFailed(error: NodeJS.ErrnoException): never {
  if (error.code === 'EPIPE') process.exit(141)
  printError(
    systemTerminal,
    new SnapswitchError(
      'OUTPUT_FAILED',
      `standard output cannot be written: ${whyUnwritten(error)}`,
      'Make room, or have it written elsewhere: it is not whole.',
      error,
    ),
  )
  process.exit(1)
}

export function printJson(terminal: Terminal, value: unknown): void {
  terminal.out(`${JSON.stringify(value, null, 2)}\n`)
}

export type Cell = string | number | null

/** Columns parted by two spaces, no lines: to read, and for awk. Numbers stand to the right; null shows as `-`. */
export function formatTable(head: readonly string[], rows: readonly (readonly Cell[])[]): string {
  const numeric = head.map((_, i) => rows.length > 0 && rows.every((r) => typeof r[i] === 'number' || r[i] === null))
  const table = new Table({
    head: [...head],
    chars: borderless,
    style: { head: [], border: [], 'padding-left': 0, 'padding-right': 0 },
    colAligns: numeric.map((n) => (n ? 'right' : 'left')),
  })
  for (const row of rows) table.push(row.map((cell) => (cell === null || cell === '' ? '-' : String(cell))))
  const lines = table.toString().split('\n')
  return `${lines.map((line) => line.trimEnd()).join('\n')}\n`
}

const borderless = {
  top: '',
  'top-mid': '',
  'top-left': '',
  'top-right': '',
  bottom: '',
  'bottom-mid': '',
  'bottom-left': '',
  'bottom-right': '',
  left: '',
  'left-mid': '',
  mid: '',
  'mid-mid': '',
  right: '',
  'right-mid': '',
  middle: '  ',
}

export function printError(terminal: Terminal, error: SnapswitchError): void {
  terminal.err(errorText(error))
  if (process.env.SNAPSWITCH_DEBUG !== undefined)
    terminal.err(nameSources(`${error.stack ?? ''}\n${String(error.cause ?? '')}\n`))
}

/** 1536 -> `1.5 KiB`. */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let value = bytes
  let unit = 0
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit++
  }
  return unit === 0 ? `${bytes} B` : `${value.toFixed(1)} ${units[unit]}`
}

/** Milliseconds with a unit that fits: `850 us`, `12.3 ms`, `2.41 s`. */
export function formatMs(ms: number): string {
  if (ms < 1) return `${Math.round(ms * 1000)} us`
  if (ms < 1000) return `${ms.toFixed(1)} ms`
  return `${(ms / 1000).toFixed(2)} s`
}

/** `2026-11-26 11:15:02`, in this machine's time zone. */
export function formatTime(at: Date): string {
  const two = (n: number) => String(n).padStart(2, '0')
  const date = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`
  return `${date} ${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`
}

/** Seconds as `3d 4h`, `2h 5m`, `40s`: two units at most. */
export function formatDuration(seconds: number): string {
  const parts: readonly [number, string][] = [
    [Math.floor(seconds / 86_400), 'd'],
    [Math.floor(seconds / 3_600) % 24, 'h'],
    [Math.floor(seconds / 60) % 60, 'm'],
    [Math.floor(seconds) % 60, 's'],
  ]
  const from = parts.findIndex(([n]) => n > 0)
  if (from === -1) return '0s'
  return parts
    .slice(from, from + 2)
    .filter(([n]) => n > 0)
    .map(([n, unit]) => `${n}${unit}`)
    .join(' ')
}
