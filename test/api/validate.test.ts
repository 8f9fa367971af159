// What schema findings say, and how configuration files name the place.

import { type TSchema, Type } from '@sinclair/typebox'
import { Ajv } from 'ajv'
import t from 'tap'
import { CoordinatorConfigSchema } from '../../coordinator/config.js'
import { parseConfig } from '../../src/api/config-file.js'
import { nearest } from '../../src/api/names.js'
import * as schemas from '../../src/api/schemas.js'
import { describeFinding, validator, validatorOptions } from '../../src/api/validate.js'
import { SwitchConfig } from '../../switch/config.js'

const closed = { additionalProperties: false } as const
const Port = Type.Union([
  Type.Object({ kind: Type.Literal('member'), vm: Type.String() }, closed),
  Type.Object({ kind: Type.Literal('trunk'), peer: Type.Optional(Type.Integer({ minimum: 1 })) }, closed),
])
const Schema = Type.Object(
  { mode: Type.Union([Type.Literal('fast'), Type.Literal('slow')], { default: 'fast' }), ports: Type.Array(Port) },
  closed,
)

t.test('findings', async (t) => {
  const check = validator(Schema)
  const said = (value: unknown) => (check(value) ? [] : check.findings().map(describeFinding))
  t.same(said({ ports: [{ kind: 'member', vm: 'a' }, { kind: 'trunk' }] }), [])
  t.same(said({ mode: 'fst', ports: [] }), ['mode: must be one of fast, slow'])
  t.same(said({ ports: [{ kind: 'membr' }] }), ['ports[0]: must be a map whose "kind" is one of member, trunk'])
  t.same(said({ ports: [{ kind: 'member' }] }), ['ports[0]: the key "vm" is missing'])
  t.same(said({ ports: [{ kind: 'trunk', peeer: 1 }] }), ['ports[0]: unknown key "peeer"; did you mean "peer"?'])
  t.same(said({ ports: [{ kind: 'trunk', peer: 0 }] }), ['ports[0].peer: must be >= 1'])
  t.same(said({ ports: {} }), ['ports: must be a list, not a map'])
  t.same(said([]), ['must be a map, not a list'])
  t.same(said(null), ['must be a map, not null'])
  t.same(said({ ports: [], zzz: 1 }), ['unknown key "zzz"; known are: mode, ports'])
  const filled: Record<string, unknown> = { ports: [] }
  check(filled)
  t.equal(filled.mode, 'fast', 'defaults are filled in')
})

t.test('nearest', async (t) => {
  t.equal(nearest('netwroks', ['networks', 'hosts']), 'networks')
  t.equal(nearest('Hosts', ['networks', 'hosts']), 'hosts')
  t.equal(nearest('xyz', ['networks', 'hosts']), null)
  t.equal(nearest('a', []), null)
})

t.test('configuration files: every fault with its place', async (t) => {
  const fault = (text: string): string => {
    try {
      parseConfig(text, 'f.yaml', Schema)
    } catch (error) {
      return (error as Error).message
    }
    return 'fits'
  }
  t.equal(fault('ports: []\n'), 'fits')
  t.equal(fault('ports:\n  - kind: member\n    vm: 5\n'), 'f.yaml:3:9: ports[0].vm: must be a string, not 5')
  t.equal(fault('ports: []\nmoode: fast\n'), 'f.yaml:2:1: unknown key "moode"; did you mean "mode"?')
  t.equal(
    fault('mode: x\nports:\n- kind: trunk\n  a: 1\n'),
    'f.yaml:1:7: mode: must be one of fast, slow\nf.yaml:4:3: ports[0]: unknown key "a"; known are: kind, peer',
    'all of them at once',
  )
  t.match(fault(`ports:\n${'  - {}\n'.repeat(30)}`), /and \d+ more$/)
  t.match(fault('ports: []\nports: []\n'), /f\.yaml:2:1: Map keys must be unique/)
  t.match(fault('\tports: []'), /^f\.yaml:1:/)
  const bomb = `a: &a [x,x,x,x,x,x,x,x,x]\n${'bcdefgh'
    .split('')
    .map((c, i) => `${c}: &${c} [${`*${'abcdefg'[i]},`.repeat(9)}]`)
    .join('\n')}\n`
  t.match(fault(bomb), /f\.yaml: .*alias/i, 'aliases cannot expand without bound')
  const config = parseConfig('ports:\n- kind: trunk\n', 'f.yaml', Schema)
  t.equal(config.at(['ports', 0, 'kind']), 'f.yaml:2:9')
  t.equal(config.at(['ports', 0, 'peer']), 'f.yaml:2:3', 'the nearest thing that is there')
  t.match(config.fault(['ports', 0], 'twice'), { code: 'CONFIG_INVALID', message: 'f.yaml:2:3: twice' })
})

t.test('what requests, answers and configurations must fit are schemas', async (t) => {
  const ajv = new Ajv(validatorOptions)
  const all: Record<string, unknown> = { ...schemas, SwitchConfig, CoordinatorConfigSchema }
  const isSchema = (value: unknown): value is TSchema =>
    typeof value === 'object' && value !== null && ('type' in value || 'anyOf' in value)
  const found = Object.entries(all).filter(([, value]) => isSchema(value))
  t.ok(found.length > 50, `${found.length} of them`)
  for (const [name, schema] of found) t.ok(ajv.validateSchema(schema as TSchema), `${name}: ${ajv.errorsText()}`)
  t.notOk(ajv.validateSchema(Type.Unsafe({ type: 'no-such-type' })), 'one that is none is found')
})
