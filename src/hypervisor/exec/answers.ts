// What a command writes to its standard output, checked to the last key: a misspelt one must not pass for one left out.

import { type Static, Type } from '@sinclair/typebox'
import { AbsolutePath, closed, Mac, nullable } from '../../api/schemas/basic.js'
import { describeFinding, type Validator, validator } from '../../api/validate.js'
import { SnapswitchError } from '../../errors/errors.js'
import { type Action, contract, lineOf, type Target } from './command.js'

const MOST = 256
/**
 * Bytes that `load` gets in one variable, and Linux takes none of over 128 KiB: details, and the files of `inspect` and
 * `capture` together, as lines.
 */
const MOST_DETAILS = 64 << 10
const MOST_FILES = 48 << 10
const Text = Type.String({ maxLength: 1000 })
/** Of files: they go to the next command as lines. */
const Role = Type.String({ pattern: '^[A-Za-z0-9_.-]{1,64}$', description: 'letters, digits, _ . -; at most 64' })
const FilePath = Type.String({
  ...AbsolutePath,
  pattern: '^/[^\\u0000-\\u001f]*$',
  description: 'an absolute path without control characters',
})
const DeviceName = Type.String({ pattern: '^[^/\\s]{1,15}$', description: 'a network device name' })
const Files = Type.Array(Type.Object({ role: Role, path: FilePath }, closed), { maxItems: MOST })

const Inspected = Type.Object(
  {
    /** `off`: nobody runs it, and nothing else need be said. */
    state: Type.Union([Type.Literal('running'), Type.Literal('paused'), Type.Literal('off'), Type.Literal('other')]),
    /** Why it does not run. */
    detail: Type.Optional(Text),
    /** Other than the last one's: it has been started anew. */
    incarnation: Type.Optional(nullable(Type.String({ maxLength: 200 }))),
    /** Of the guest; a snapshot needs about as much room. */
    memoryBytes: Type.Optional(Type.Integer({ minimum: 0 })),
    nics: Type.Optional(
      Type.Array(Type.Object({ device: DeviceName, mac: Type.Optional(nullable(Mac)) }, closed), { maxItems: MOST }),
    ),
    version: Type.Optional(Text),
    captureMode: Type.Optional(Type.Union([Type.Literal('stopped'), Type.Literal('background')])),
    /** For `load`, in its environment: bounded in bytes. */
    details: Type.Optional(Type.String({ pattern: '^[^\\u0000]*$' })),
    /** What it needs besides, and nobody writes to. */
    files: Type.Optional(Files),
    warnings: Type.Optional(Type.Array(Text, { maxItems: MOST })),
    unsupported: Type.Optional(Type.Array(Type.Object({ name: Text, reason: Text }, closed), { maxItems: MOST })),
    /** Of the load that it comes from. */
    directory: Type.Optional(nullable(FilePath)),
  },
  closed,
)
export type Inspected = Static<typeof Inspected>

/** Empty: the state file holds everything. */
const Captured = Type.Object({ files: Files }, closed)
export type Captured = Static<typeof Captured>

const fits = { inspected: validator(Inspected), captured: validator(Captured) }

function checkBytes(target: Target, action: Action, what: string, text: string, most: number): void {
  const bytes = Buffer.byteLength(text)
  if (bytes > most) throw protocol(target, action, `has ${bytes} bytes of ${what}, where ${most} are the most`)
}

const protocol = (target: Target, action: Action, what: string) =>
  new SnapswitchError('HYPERVISOR_PROTOCOL', `${target.command} ${action} ${target.machine} ${what}`, contract)

function parse<T>(target: Target, action: Action, text: string, fit: Validator<T>): T {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    const shown = text.trim() === '' ? 'nothing' : JSON.stringify(text.trim().slice(0, 80))
    throw protocol(target, action, `wrote ${shown} to its standard output, where one JSON object is expected`)
  }
  if (fit(value)) return value
  const findings = fit.findings().slice(0, 3).map(describeFinding).join('; ')
  throw protocol(target, action, `answered with something that does not fit: ${findings}`)
}

export function inspected(target: Target, text: string): Inspected {
  const answer = parse<Inspected>(target, 'inspect', text, fits.inspected)
  if (answer.state === 'off') return answer
  for (const key of ['memoryBytes', 'nics'] as const)
    if (answer[key] === undefined) throw protocol(target, 'inspect', `does not say ${key} of a machine that is there`)
  checkBytes(target, 'inspect', 'details', answer.details ?? '', MOST_DETAILS)
  checkFiles(target, 'inspect', answer.files ?? [], [])
  return answer
}

/** `roles`: taken already. */
export function captured(target: Target, text: string, roles: readonly string[]): Captured {
  const answer = parse(target, 'capture', text, fits.captured)
  checkFiles(target, 'capture', answer.files, roles)
  return answer
}

/** `load` finds each file by its role. */
function checkFiles(target: Target, action: Action, files: Captured['files'], taken: readonly string[]): void {
  checkBytes(target, action, 'files', files.map(lineOf).join('\n'), MOST_FILES)
  const seen = new Set(taken)
  for (const { role } of files) {
    if (seen.has(role)) throw protocol(target, action, `names two files with the role ${role}`)
    seen.add(role)
  }
}
