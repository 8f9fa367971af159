// The dialect that CONTRIBUTING.md describes, as far as a program can check it. The checks are checked against planted
// faults.

import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import ts from 'typescript'
import { fileLimit } from './patience.js'

t.setTimeout(fileLimit(60_000))

// Compiled tests lie in dist/test: the sources are beside dist.
const repository = join(dirname(fileURLToPath(import.meta.url)), '..', '..')
const PRODUCT = ['src', 'switch', 'coordinator']
const ALL = [...PRODUCT, 'test', 'bench', 'guest']
const COLUMNS = 120
const TIME = /(INTERVAL|TIMEOUT|DELAY|PERIOD|PATIENCE|LIFETIME)$/
/** Where a thing is done for all. */
const ONCE = [
  { what: /\b(Date\.now|performance\.timeOrigin)\b/, file: 'src/runtime/clock.ts' },
  { what: /function (parse|format)Mac\w*\(/, file: 'src/frame/mac.ts' },
] as const

type Rule = (file: ts.SourceFile) => string[]

const at = (file: ts.SourceFile, node: ts.Node) =>
  `${file.fileName}:${file.getLineAndCharacterOfPosition(node.getStart(file)).line + 1}`

/** Nodes of the file for which `judge` says what is wrong. */
function each(file: ts.SourceFile, judge: (node: ts.Node) => string | null): string[] {
  const found: string[] = []
  const visit = (node: ts.Node): void => {
    const fault = judge(node)
    if (fault !== null) found.push(`${at(file, node)} ${fault}`)
    ts.forEachChild(node, visit)
  }
  visit(file)
  return found
}

/** Whose methods cost an allocation per frame when they are #private. */
const HOT = ['switch/forwarding/peers/uplink.ts', 'switch/forwarding/peers/plain-copies.ts']

const privateMembers: Rule = (file) =>
  each(file, (node) => {
    if (!ts.isClassElement(node) || ts.isConstructorDeclaration(node) || !ts.canHaveModifiers(node)) return null
    if (ts.isMethodDeclaration(node) && HOT.includes(file.fileName)) return null
    const isPrivate = ts.getModifiers(node)?.some(({ kind }) => kind === ts.SyntaxKind.PrivateKeyword)
    return isPrivate ? 'private: write #' : null
  })

const unitsOfTimes: Rule = (file) =>
  each(file, (node) => {
    if (!ts.isVariableDeclaration(node) || !ts.isIdentifier(node.name) || node.initializer === undefined) return null
    const isNumber = /^[\d_.\s*+/]+$/.test(node.initializer.getText(file))
    return isNumber && TIME.test(node.name.text) ? `${node.name.text} has no unit` : null
  })

const discriminants: Rule = (file) =>
  each(file, (node) => {
    if (!ts.isPropertySignature(node) || node.type === undefined || !ts.isLiteralTypeNode(node.type)) return null
    const named = node.name.getText(file)
    return ts.isStringLiteral(node.type.literal) && ['type', 'op', 'tag'].includes(named)
      ? `${named}: write kind`
      : null
  })

/** The last literal text of an expression; null when it cannot be seen. */
function lastText(node: ts.Expression): string | null {
  if (ts.isStringLiteralLike(node)) return node.text
  if (ts.isTemplateExpression(node)) return node.templateSpans.at(-1)!.literal.text
  return ts.isBinaryExpression(node) ? lastText(node.right) : null
}

const messages: Rule = (file) =>
  each(file, (node) => {
    if (!ts.isNewExpression(node) || node.expression.getText(file) !== 'SnapswitchError') return null
    const message = node.arguments?.[1]
    return message !== undefined && /(^|[^.])\.$/.test(lastText(message) ?? '') ? 'a message with a final period' : null
  })

const comments: Rule = (file) =>
  file.text
    .split('\n')
    .flatMap((line, i) =>
      line.length > COLUMNS && /^\s*(\/\/|\*|\/\*)/.test(line)
        ? [`${file.fileName}:${i + 1} ${line.length} columns`]
        : [],
    )

const once: Rule = (file) =>
  ONCE.filter(({ what, file: home }) => file.fileName !== home && what.test(file.text)).map(
    ({ file: home }) => `${file.fileName} does what ${home} is for`,
  )

const parse = (path: string, text: string) => ts.createSourceFile(path, text, ts.ScriptTarget.ES2023)

const RULES: readonly (readonly [string, Rule, readonly string[]])[] = [
  ['members that nobody else may touch are #private', privateMembers, ALL],
  ['times end in their unit', unitsOfTimes, ALL],
  // The API's messages keep the name that they have.
  ['unions are told apart by their kind', discriminants, ['switch', 'coordinator', 'src/hypervisor', 'src/epoch']],
  ['messages have no final period', messages, ALL],
  ['comments stay within 120 columns', comments, ALL],
  ['one clock, one module for MAC addresses', once, PRODUCT],
]

/** What each rule has found, by its name. Each file is parsed once, and then forgotten. */
function check(): Map<string, { files: number; faults: string[] }> {
  const found = new Map(RULES.map(([name]) => [name, { files: 0, faults: [] as string[] }]))
  for (const folder of ALL) {
    for (const name of readdirSync(join(repository, folder), { recursive: true, encoding: 'utf8' })) {
      if (!name.endsWith('.ts')) continue
      const path = join(folder, name)
      const file = parse(path, readFileSync(join(repository, path), 'utf8'))
      for (const [rule, judge, folders] of RULES) {
        if (!folders.some((one) => path.startsWith(`${one}/`))) continue
        const of = found.get(rule)!
        of.files++
        of.faults.push(...judge(file))
      }
    }
  }
  return found
}

for (const [name, { files, faults }] of check()) {
  t.test(name, async (t) => {
    t.ok(files > 100, `${files} files`)
    t.same(faults, [])
  })
}

t.test('the checks find what is wrong', async (t) => {
  const faults = (rule: Rule, text: string) => rule(parse('src/x.ts', text)).length
  t.equal(faults(privateMembers, 'class A { private x = 1; private f() {} #y = 2; private constructor() {} }'), 2)
  t.equal(faults(unitsOfTimes, 'const TICK_INTERVAL = 5; const TICK_INTERVAL_MS = 5'), 1)
  t.equal(faults(discriminants, "type A = { readonly type: 'a' } | { kind: 'b' } | { type: string }"), 1)
  t.equal(faults(messages, "new SnapswitchError('A', 'it broke.', 'Mend it.')"), 1)
  // biome-ignore lint/suspicious/noTemplateCurlyInString: it is checked, not used
  t.equal(faults(messages, "new SnapswitchError('A', `it ${x} broke.`, 'Mend it.')"), 1)
  t.equal(faults(messages, "new SnapswitchError('A', 'it waits …', 'Mend it.'); new Error('x.')"), 0)
  t.equal(faults(comments, `// ${'x'.repeat(120)}\nconst y = '${'x'.repeat(120)}'`), 1)
  t.equal(faults(once, 'const now = Date.now()'), 1)
})
