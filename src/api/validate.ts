// One place where values are held against JSON Schemas, and where ajv's findings become sentences that a person can act
// on.

import type { Static, TSchema } from '@sinclair/typebox'
import { Ajv, type ErrorObject, type ValidateFunction } from 'ajv'
import { checkOf } from './fits.js'
import { nearest } from './names.js'
import { Name } from './schemas/basic.js'

/** One thing wrong with a value. */
export interface Finding {
  /**
   * Keys and indices from the root to the value (or, for an unknown key, to the map that holds it and then the key).
   */
  readonly path: readonly (string | number)[]
  /** What is wrong with it, without its path: `must be one of member, plain, trunk`. */
  readonly message: string
  /** True when the path's last element is a key that should not be there: point at the key, not at its value. */
  readonly atKey: boolean
}

export interface Validator<T> {
  /** True when the value fits; fills in the defaults of the schema. */
  (value: unknown): value is T
  /** What was wrong with the value last refused, the most telling first. */
  findings(): Finding[]
}

/** What ajv has the last word with. That the schemas are schemas is checked by a test. */
export const validatorOptions = { allErrors: true, useDefaults: true, strict: true, allowUnionTypes: true } as const
/** To improve code that is run once costs more than it saves. */
const options = { ...validatorOptions, verbose: true, validateSchema: false, meta: false, code: { optimize: false } }
let ajv: Ajv | undefined

/** Call it at module level, never per request; nothing is made of the schema before it is first used. */
export function validator<S extends TSchema>(schema: S): Validator<Static<S>> {
  let fits: ReturnType<typeof checkOf> | undefined
  let validate: ValidateFunction | undefined
  let findings = (): Finding[] => []
  const check = (value: unknown): value is Static<S> => {
    if (fits === undefined) fits = checkOf(schema)
    if (fits?.(value)) return true
    ajv ??= new Ajv(options)
    validate ??= ajv.compile(schema)
    if (validate(value)) return true
    const { errors } = validate
    findings = () => findingsOf(errors ?? [], value)
    return false
  }
  return Object.assign(check, { findings: () => findings() })
}

/**
 * Sentences for ajv's errors: union branches that were not meant are left out, unknown keys get the nearest known one.
 */
export function findingsOf(errors: readonly ErrorObject[], root?: unknown): Finding[] {
  const seen = new Set<string>()
  const findings: Finding[] = []
  const kept = withoutForeignBranches(errors)
  for (const error of kept) {
    if (isMistypedElsewhere(error, kept)) continue
    const finding = findingOf(error, root)
    const key = `${finding.path.join('\0')}\0${finding.message}`
    if (!seen.has(key)) findings.push(finding)
    seen.add(key)
  }
  return findings
}

/** `networks.lab0.hosts[0]: must be a string`; the root itself has no path. */
export function describeFinding(finding: Finding): string {
  const path = describePath(finding.atKey ? finding.path.slice(0, -1) : finding.path)
  return path === '' ? finding.message : `${path}: ${finding.message}`
}

export function describePath(path: readonly (string | number)[]): string {
  return path.reduce<string>(
    (text, part) => (typeof part === 'number' ? `${text}[${part}]` : text === '' ? part : `${text}.${part}`),
    '',
  )
}

/**
 * With `anyOf`, ajv reports every branch. Keeps, per union, only the errors of the branch that was meant (no mismatch
 * of its literals or of its type), and the union's own error only when no branch was.
 */
function withoutForeignBranches(errors: readonly ErrorObject[]): ErrorObject[] {
  let kept = [...errors]
  // Innermost unions first: what they drop no longer counts against the branch around them.
  const unions = errors.filter((e) => e.keyword === 'anyOf').sort((a, b) => b.schemaPath.length - a.schemaPath.length)
  for (const union of unions) {
    const branches = new Map<string, ErrorObject[]>()
    for (const error of kept) {
      if (error === union || !error.schemaPath.startsWith(`${union.schemaPath}/`)) continue
      if (error.instancePath !== union.instancePath && !error.instancePath.startsWith(`${union.instancePath}/`))
        continue
      const branch = error.schemaPath.slice(union.schemaPath.length + 1).split('/')[0] as string
      branches.set(branch, [...(branches.get(branch) ?? []), error])
    }
    const meant = [...branches.values()]
      .filter((branch) => !branch.some((error) => isMismatch(error, union)))
      .sort((a, b) => a.length - b.length)[0]
    const dropped = new Set([...branches.values()].flat())
    if (meant !== undefined) {
      for (const error of meant) dropped.delete(error)
      dropped.add(union)
    }
    kept = kept.filter((error) => !dropped.has(error))
  }
  return kept
}

/** An error that says "this branch was not meant" rather than "this branch was filled in wrongly". */
function isMismatch(error: ErrorObject, union: ErrorObject): boolean {
  if (error.keyword === 'const') return true
  return error.keyword === 'type' && error.instancePath === union.instancePath
}

/** A key that is missing because it was mistyped: the unknown key beside it says so already. */
function isMistypedElsewhere(error: ErrorObject, errors: readonly ErrorObject[]): boolean {
  if (error.keyword !== 'required') return false
  const missing = error.params.missingProperty as string
  return errors.some(
    (e) =>
      e.keyword === 'additionalProperties' &&
      e.instancePath === error.instancePath &&
      nearest(e.params.additionalProperty as string, knownKeys(e)) === missing,
  )
}

function knownKeys(error: ErrorObject): string[] {
  return Object.keys((error.parentSchema?.properties as object | undefined) ?? {})
}

function findingOf(error: ErrorObject, root: unknown): Finding {
  const path = pathOfPointer(error.instancePath, root)
  const found = (message: string): Finding => ({ path, message, atKey: false })
  switch (error.keyword) {
    case 'additionalProperties': {
      const key = error.params.additionalProperty as string
      const pattern = Object.keys((error.parentSchema?.patternProperties as object | undefined) ?? {})[0]
      if (pattern !== undefined) {
        const rule = pattern === Name.pattern ? Name.description : pattern
        return { path: [...path, key], message: `${quote(key)} is no name that fits: ${rule}`, atKey: true }
      }
      const known = knownKeys(error)
      const meant = nearest(key, known)
      const hint = meant === null ? `; known are: ${known.join(', ')}` : `; did you mean ${quote(meant)}?`
      return { path: [...path, key], message: `unknown key ${quote(key)}${hint}`, atKey: true }
    }
    case 'required':
      return found(`the key ${quote(error.params.missingProperty as string)} is missing`)
    case 'type':
      return found(`must be ${article(error.params.type)}, not ${kindOf(error.data)}`)
    case 'const':
      return found(`must be ${JSON.stringify(error.params.allowedValue)}`)
    case 'enum':
      return found(`must be one of ${(error.params.allowedValues as unknown[]).join(', ')}`)
    case 'pattern':
    case 'propertyNames': {
      const description = (error.parentSchema as { description?: string } | undefined)?.description
      return found(`${quote(String(error.data))} does not fit: ${description ?? error.params.pattern}`)
    }
    case 'minItems':
      return found(`must have at least ${error.params.limit} entries`)
    case 'minProperties':
      return found('must not be empty')
    case 'anyOf': {
      const choices = unionChoices(error.schema)
      return found(choices === '' ? 'fits none of the allowed forms' : `must be ${choices}`)
    }
    default:
      return found(error.message ?? `fails ${error.keyword}`)
  }
}

function unionChoices(schema: unknown): string {
  if (!Array.isArray(schema)) return ''
  const branches = schema as { const?: unknown; type?: string; properties?: Record<string, { const?: unknown }> }[]
  if (branches.every((b) => b.const !== undefined)) return `one of ${branches.map((b) => b.const).join(', ')}`
  const discriminator = Object.keys(branches[0]?.properties ?? {}).find((key) =>
    branches.every((b) => b.properties?.[key]?.const !== undefined),
  )
  if (discriminator !== undefined) {
    const values = branches.map((b) => b.properties?.[discriminator]?.const).join(', ')
    return `a map whose ${quote(discriminator)} is one of ${values}`
  }
  const types = branches.map((b) => (b.const !== undefined ? JSON.stringify(b.const) : b.type && article(b.type)))
  return types.every((type) => type !== undefined) ? types.join(' or ') : ''
}

/** A JSON pointer's parts; an index of a list becomes a number, a key that looks like one stays a string. */
function pathOfPointer(pointer: string, root: unknown): (string | number)[] {
  let at: unknown = root
  return pointer
    .split('/')
    .slice(1)
    .map((part) => {
      const key = part.replaceAll('~1', '/').replaceAll('~0', '~')
      const isIndex = Array.isArray(at)
      at = typeof at === 'object' && at !== null ? (at as Record<string, unknown>)[key] : undefined
      return isIndex ? Number(key) : key
    })
}

const quote = (word: string) => `"${word}"`

function article(type: unknown): string {
  const names: Record<string, string> = {
    object: 'a map',
    array: 'a list',
    string: 'a string',
    integer: 'a whole number',
    number: 'a number',
    boolean: 'true or false',
    null: 'null',
  }
  return [type]
    .flat()
    .map((t) => names[String(t)] ?? String(t))
    .join(' or ')
}

const longestShown = 200

function kindOf(value: unknown): string {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'a list'
  if (typeof value === 'object') return 'a map'
  const text = JSON.stringify(value) ?? 'nothing'
  return text.length > longestShown ? `${text.slice(0, longestShown)}…` : text
}
