// What fits a schema by src/api/fits.ts is what ajv takes, and both fill in the same: compared on values that are made
// from the schemas of the product, whole and damaged.

import { type TSchema, Type } from '@sinclair/typebox'
import { Ajv } from 'ajv'
import t from 'tap'
import { CoordinatorConfigSchema } from '../../coordinator/config.js'
import { checkOf } from '../../src/api/fits.js'
import * as schemas from '../../src/api/schemas.js'
import { validatorOptions } from '../../src/api/validate.js'
import { SwitchConfig } from '../../switch/config.js'
import fc from '../property.js'

type Json = Readonly<Record<string, unknown>>

const isSchema = (value: unknown): value is TSchema & Json =>
  typeof value === 'object' && value !== null && ('type' in value || 'anyOf' in value)
const all = Object.entries({ ...schemas, SwitchConfig, CoordinatorConfigSchema }).flatMap(([name, value]) =>
  isSchema(value) ? [[name, value] as const] : [],
)

const anything = fc.jsonValue({ maxDepth: 1 })
const KEY = fc.constantFrom('a', 'lab0', 'web', 'x y', '', 'constructor', '__proto__', '10.0.0.1', 'ä')
/** Texts that patterns of the product take, and some that they do not. */
const TEXT = fc.constantFrom(
  '',
  'a',
  'lab0',
  '/run/x',
  'eth0',
  '52:54:00:12:34:56',
  '192.0.2.1',
  '1',
  'x\ny',
  '👍',
  'ab'.repeat(40),
)

/** Values that mostly fit. */
function madeFor(schema: Json): fc.Arbitrary<unknown> {
  const { type, anyOf, enum: choices, properties, patternProperties, items, minimum = 0, maximum } = schema
  if ('const' in schema) return fc.constant(schema.const)
  if (Array.isArray(choices)) return fc.constantFrom(...choices)
  if (Array.isArray(anyOf)) return fc.oneof(...anyOf.map((one) => madeFor(one as Json)))
  switch (type) {
    case 'object': {
      const own = Object.entries((properties ?? {}) as Record<string, Json>)
      const record = fc.record(Object.fromEntries(own.map(([key, of]) => [key, madeFor(of)])), {
        requiredKeys: (schema.required ?? []) as never[],
      })
      const [more] = Object.values((patternProperties ?? {}) as Record<string, Json>)
      if (more === undefined) return record
      return fc.dictionary(KEY, madeFor(more), { maxKeys: 2 })
    }
    case 'array':
      return fc.array(madeFor(items as Json), { maxLength: 3 })
    case 'string':
      return TEXT
    case 'integer':
      return fc.integer({ min: (minimum as number) - 1, max: Math.min((maximum as number) ?? 9, 2 ** 31 - 2) + 1 })
    case 'number':
      return fc.double({ min: minimum as number, noNaN: true })
    case 'boolean':
      return fc.boolean()
    case 'null':
      return fc.constant(null)
    default:
      return anything
  }
}

/** One place of it becomes something else, or goes, or gets a key that is not known. */
function damaged(value: unknown, path: readonly number[], by: unknown, how: 'other' | 'gone' | 'more'): unknown {
  if (typeof value !== 'object' || value === null) return how === 'other' ? by : value
  const [at = 0, ...rest] = path
  const copy = structuredClone(value) as Record<string, unknown>
  const keys = Object.keys(copy)
  const key = keys[at % Math.max(1, keys.length)]
  if (key === undefined || rest.length === 0) {
    if (how === 'more') copy.zzz = by
    else if (how === 'other') return by
    else if (Array.isArray(copy)) copy.splice(at, 1)
    else if (key !== undefined) delete copy[key]
    return copy
  }
  copy[key] = damaged(copy[key], rest, by, how)
  return copy
}

const damage = fc.record({
  path: fc.array(fc.nat(9), { maxLength: 5 }),
  by: anything,
  how: fc.constantFrom('other' as const, 'gone' as const, 'more' as const),
})

t.test('as ajv', async (t) => {
  const ajv = new Ajv({ ...validatorOptions, validateSchema: false })
  t.ok(all.length > 50, `${all.length} schemas`)
  const count = { fits: 0, refused: 0 }
  for (const [name, schema] of all) {
    const fits = checkOf(schema)
    if (fits === null) {
      t.fail(`${name} has keywords that are not known`)
      continue
    }
    const validate = ajv.compile(schema)
    const agree = (value: unknown) => {
      const ours = structuredClone(value)
      const theirs = structuredClone(value)
      const expected = validate(theirs)
      count[expected ? 'fits' : 'refused']++
      if (fits(ours) !== expected) throw new Error(`ajv: ${expected} ${ajv.errorsText(validate.errors)}`)
      // Of what is refused nobody uses anything.
      if (expected && JSON.stringify(ours) !== JSON.stringify(theirs)) throw new Error('other defaults')
    }
    const run = () =>
      fc.assert(
        fc.property(madeFor(schema), damage, (value, { path, by, how }) => {
          agree(value)
          agree(damaged(value, path, by, how))
        }),
        { numRuns: 40 },
      )
    try {
      run()
    } catch (thrown) {
      t.fail(`${name}: ${(thrown as Error).message.slice(0, 500)}`)
    }
  }
  t.comment(count)
  t.ok(count.fits > 1000 && count.refused > 1000, 'both were seen often')
})

t.test('keywords that are not known leave it to ajv', async (t) => {
  const unknown = [
    { not: { type: 'string' } },
    { type: 'object', propertyNames: { pattern: 'x' } },
    { type: 'thing' },
    { const: {} },
    Type.Object({ a: Type.Array(Type.String({ format: 'date' })) }),
    Type.Union([Type.String(), Type.Number({ multipleOf: 3 })]),
    Type.Record(Type.String({ pattern: '^x' }), Type.Tuple([Type.String()])),
  ]
  for (const schema of unknown) t.equal(checkOf(schema), null, JSON.stringify(schema))
  t.ok(checkOf(Type.String({ minLength: 2, maxLength: 2 }))?.('👍👍'), 'characters are counted, not their halves')
  t.notOk(checkOf(Type.String({ minLength: 2 }))?.('👍'))
  for (const no of [Number.NaN, Number.POSITIVE_INFINITY]) t.notOk(checkOf(Type.Number())?.(no))
})
