// Whether a value fits a JSON Schema: yes or no, at once. ajv says what is wrong with a value that does not fit. For
// ajv to generate code for a schema takes longer than to check a thousand values here, and a process checks a few of
// each.
//
// ajv's code made beforehand would be 165 KB for the configuration alone, and 2.3 MB for all schemas. TypeBox's own
// check fills in no defaults behind patternProperties, and knows none of ajv's keywords that Type.Unsafe may bring.
//
// Fits here means that ajv takes it, with the same defaults filled in; test/api/fits.test.ts compares the two. ajv
// looks again at what does not fit (src/api/validate.ts).

type Check = (value: unknown) => boolean
type Schema = Readonly<Record<string, unknown>>
type Keys = Record<string, unknown>

/** They ask nothing of a value. */
const ANNOTATIONS = new Set(['default', 'description', 'title', 'examples'])

const isMap = (value: unknown): value is Keys => typeof value === 'object' && value !== null && !Array.isArray(value)

const TYPES: Readonly<Record<string, Check>> = {
  object: isMap,
  array: Array.isArray,
  string: (value) => typeof value === 'string',
  number: Number.isFinite,
  integer: Number.isInteger,
  boolean: (value) => typeof value === 'boolean',
  null: (value) => value === null,
}

const isPlain = (value: unknown): value is string | number | boolean | null =>
  value === null || ['string', 'number', 'boolean'].includes(typeof value)

/** Characters, as JSON Schema counts them. */
const lengthOf = (text: string) => [...text].length

const onNumber =
  (check: (value: number) => boolean): Check =>
  (value) =>
    typeof value !== 'number' || check(value)
const onText =
  (check: (value: string) => boolean): Check =>
  (value) =>
    typeof value !== 'string' || check(value)
const onList =
  (check: (value: unknown[]) => boolean): Check =>
  (value) =>
    !Array.isArray(value) || check(value)
const onMap =
  (check: (value: Keys) => boolean): Check =>
  (value) =>
    !isMap(value) || check(value)

/** What a keyword asks; null: it has a form that is not known here. */
const KEYWORDS: Readonly<Record<string, (wanted: unknown) => Check | null>> = {
  type: (wanted) => {
    const checks = [wanted].flat().map((name) => TYPES[String(name)])
    if (checks.some((check) => check === undefined)) return null
    return (value) => checks.some((check) => check?.(value))
  },
  const: (wanted) => (isPlain(wanted) ? (value) => value === wanted : null),
  enum: (wanted) =>
    Array.isArray(wanted) && wanted.every(isPlain) ? (value) => wanted.includes(value as never) : null,
  anyOf: (wanted) => {
    const checks = (wanted as Schema[]).map(checkOf)
    // ajv fills in no defaults in there, and refuses such a schema.
    return checks.includes(null) ? null : (value) => checks.some((check) => check?.(value))
  },
  minimum: (wanted) => onNumber((value) => value >= (wanted as number)),
  maximum: (wanted) => onNumber((value) => value <= (wanted as number)),
  minLength: (wanted) => onText((value) => lengthOf(value) >= (wanted as number)),
  maxLength: (wanted) => onText((value) => lengthOf(value) <= (wanted as number)),
  pattern: (wanted) => {
    const pattern = new RegExp(wanted as string, 'u')
    return onText((value) => pattern.test(value))
  },
  minItems: (wanted) => onList((value) => value.length >= (wanted as number)),
  maxItems: (wanted) => onList((value) => value.length <= (wanted as number)),
  // Of maps and lists ajv knows which are equal.
  uniqueItems: () => onList((value) => value.every(isPlain) && new Set(value).size === value.length),
  items: (wanted) => {
    const check = checkOf(wanted as Schema)
    return check === null ? null : onList((value) => value.every(check))
  },
  minProperties: (wanted) => onMap((value) => Object.keys(value).length >= (wanted as number)),
  required: (wanted) => onMap((value) => (wanted as string[]).every((key) => value[key] !== undefined)),
}

/** These belong together: each looks at the keys that others have left. */
const OF_KEYS = ['properties', 'patternProperties', 'additionalProperties']

/** The check of a schema, which fills in defaults; null where the schema has keywords that are not known here. */
export function checkOf(schema: Schema): Check | null {
  const checks: (Check | null)[] = []
  for (const [keyword, wanted] of Object.entries(schema)) {
    if (ANNOTATIONS.has(keyword) || OF_KEYS.includes(keyword)) continue
    checks.push(Object.hasOwn(KEYWORDS, keyword) ? (KEYWORDS[keyword]?.(wanted) ?? null) : null)
  }
  // Defaults first: a key that has one may be required.
  if (OF_KEYS.some((keyword) => schema[keyword] !== undefined)) checks.unshift(checkOfKeys(schema))
  return checks.includes(null) ? null : (value) => checks.every((check) => check?.(value))
}

function checkOfKeys(schema: Schema): Check | null {
  const {
    properties = {},
    patternProperties = {},
    additionalProperties = true,
  } = schema as {
    properties?: Record<string, Schema>
    patternProperties?: Record<string, Schema>
    additionalProperties?: boolean | Schema
  }
  const known = new Map(Object.entries(properties).map(([key, of]) => [key, checkOf(of)]))
  const patterns = Object.entries(patternProperties).map(([text, of]) => [new RegExp(text, 'u'), checkOf(of)] as const)
  const further = typeof additionalProperties === 'boolean' ? () => additionalProperties : checkOf(additionalProperties)
  const defaults = Object.entries(properties).filter(([, of]) => of.default !== undefined)
  if (further === null || [...known.values(), ...patterns.map(([, check]) => check)].includes(null)) return null
  return onMap((value) => {
    for (const [key, of] of defaults) if (value[key] === undefined) value[key] = structuredClone(of.default)
    for (const key of Object.keys(value)) {
      const check = known.get(key)
      const named = patterns.filter(([pattern]) => pattern.test(key))
      if (check?.(value[key]) === false && value[key] !== undefined) return false
      if (!named.every(([, of]) => of?.(value[key]))) return false
      if (check === undefined && named.length === 0 && !further(value[key])) return false
    }
    return true
  })
}
