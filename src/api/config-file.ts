// Reads a YAML file that must fit a schema, and says for every fault where it is: file, line and column.

import type { Static, TSchema } from '@sinclair/typebox'
import { type Document, isMap, isScalar, LineCounter, parseDocument } from 'yaml'
import { SnapswitchError } from '../errors/errors.js'
import { readPlainSync, UnfitFile } from '../files/plain.js'
import { describeFinding, type Finding, type Validator, validator } from './validate.js'

export interface ConfigFile<T> {
  readonly file: string
  /** Fits the schema; its defaults are filled in. */
  readonly value: T
  /** `lab.yaml:12:5` for the value at a path, or for the nearest thing around it that the file has. */
  at(path: readonly (string | number)[]): string
  /** A CONFIG_INVALID error about the value at a path, for rules that a schema cannot say (a port named twice). */
  fault(path: readonly (string | number)[], message: string): SnapswitchError
}

/** More findings than this in one error help nobody. */
const findingsShown = 8
const maxConfigBytes = 4 * 1024 * 1024

const compiled = new WeakMap<TSchema, Validator<unknown>>()

/**
 * Throws CONFIG_UNREADABLE (no such file, no YAML) or CONFIG_INVALID (does not fit); says all that is wrong at once.
 */
export function loadConfigFile<S extends TSchema>(file: string, schema: S): ConfigFile<Static<S>> {
  let text: string
  try {
    text = readPlainSync(file, maxConfigBytes).bytes.toString('utf8')
  } catch (error) {
    if (error instanceof UnfitFile) {
      throw new SnapswitchError(
        'CONFIG_UNREADABLE',
        error.message,
        'Give a configuration file of YAML; what a command prints has to be written to one first.',
        error,
      )
    }
    const reason = (error as NodeJS.ErrnoException).code ?? String(error)
    throw new SnapswitchError(
      'CONFIG_UNREADABLE',
      `cannot read the configuration file ${file}: ${reason}`,
      reason === 'ENOENT' ? 'Give the path of an existing file to --config.' : 'Check the file and its permissions.',
      error,
    )
  }
  return parseConfig(text, file, schema)
}

/** Like loadConfigFile, on text that was read already; `file` is only used to name it. */
export function parseConfig<S extends TSchema>(text: string, file: string, schema: S): ConfigFile<Static<S>> {
  if (text.length > maxConfigBytes) {
    throw new SnapswitchError('CONFIG_UNREADABLE', `${file} is larger than 4 MiB`, 'Give a configuration file.')
  }
  if (text.includes('\0')) {
    throw new SnapswitchError('CONFIG_UNREADABLE', `${file} is a binary file`, 'Give a configuration file of YAML.')
  }
  if (text.trim() === '') throw invalid([`${file} is empty`])
  const lines = new LineCounter()
  // `uniqueKeys` makes a key that stands twice in a map an error instead of a silent override.
  const document = parseDocument(text, { lineCounter: lines, uniqueKeys: true, prettyErrors: false })
  const at = (path: readonly (string | number)[], key = false) => `${file}${position(document, lines, path, key)}`
  const fault = (path: readonly (string | number)[], message: string) => invalid([`${at(path)}: ${message}`])

  if (document.errors.length > 0) {
    const found = document.errors.slice(0, findingsShown).map((error) => {
      const { line, col } = lines.linePos(error.pos[0])
      return `${file}:${line}:${col}: ${error.message}`
    })
    throw new SnapswitchError(
      'CONFIG_UNREADABLE',
      found.join('\n'),
      'Make the file valid YAML there.',
      document.errors[0],
    )
  }
  const value: unknown = toJs(document, file)
  let check = compiled.get(schema)
  if (check === undefined) {
    check = validator(schema)
    compiled.set(schema, check)
  }
  if (check(value)) return { file, value: value as Static<S>, at, fault }
  const findings = check.findings()
  const shown = findings.slice(0, findingsShown).map((f: Finding) => `${at(f.path, f.atKey)}: ${describeFinding(f)}`)
  if (findings.length > shown.length) shown.push(`and ${findings.length - shown.length} more`)
  throw invalid(shown)
}

function invalid(found: readonly string[]): SnapswitchError {
  return new SnapswitchError(
    'CONFIG_INVALID',
    found.join('\n'),
    'Correct the configuration file there, then try again.',
  )
}

function toJs(document: Document, file: string): unknown {
  try {
    // maxAliasCount bounds what a few lines of nested aliases can expand to.
    return document.toJS({ maxAliasCount: 100 })
  } catch (error) {
    throw new SnapswitchError(
      'CONFIG_UNREADABLE',
      `${file}: ${(error as Error).message}`,
      'Use fewer aliases in the file.',
      error,
    )
  }
}

/** `:line:column` of a value (or of a key), walking up to the nearest thing that exists; empty for an empty file. */
function position(document: Document, lines: LineCounter, path: readonly (string | number)[], key: boolean): string {
  if (key && path.length > 0) {
    const holder = path.length === 1 ? document.contents : document.getIn(path.slice(0, -1), true)
    const last = String(path[path.length - 1])
    const pair = isMap(holder) ? holder.items.find((p) => isScalar(p.key) && String(p.key.value) === last) : undefined
    if (isScalar(pair?.key) && pair.key.range) return linePosition(lines, pair.key.range[0])
  }
  for (let length = path.length; length >= 0; length--) {
    const node: unknown = length === 0 ? document.contents : document.getIn(path.slice(0, length), true)
    const range = (node as { range?: [number, number, number] } | null | undefined)?.range
    if (range) return linePosition(lines, range[0])
  }
  return ''
}

function linePosition(lines: LineCounter, offset: number): string {
  const { line, col } = lines.linePos(offset)
  return `:${line}:${col}`
}
