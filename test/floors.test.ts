// The house rules that a program can check (ARCHITECTURE.md): who may import whom, nothing in src/ works on import,
// every file says first what it is for. The checker itself is checked against faults planted in made-up files.

import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { builtinModules } from 'node:module'
import { dirname, join, normalize } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import ts from 'typescript'
import { fileLimit } from './patience.js'

t.setTimeout(fileLimit(60_000))

// Compiled tests lie in dist/test: the sources are beside dist.
const repository = join(dirname(fileURLToPath(import.meta.url)), '..', '..')
const house = ['src', 'switch', 'coordinator']
const outside = ['test', 'bench', 'guest', 'scripts']
const LINES_ADVISED = 300
const LIST_OF_DRIVERS = 'src/hypervisor/drivers.ts'

interface Import {
  readonly from: string
  readonly target: string
  /** Erased by the compiler: nothing of the target runs. */
  readonly typeOnly: boolean
  /** Run when needed, or in a thread of its own: `import(...)`, `new URL(..., import.meta.url)`. */
  readonly late: boolean
}

function floorOf(path: string): 1 | 2 | 3 | null {
  if (path.startsWith('src/cli/')) return 3
  if (path.startsWith('switch/') || path.startsWith('coordinator/')) return 2
  return path.startsWith('src/') ? 1 : null
}

/** The hypervisor driver that a file is part of. */
function driverOf(path: string): string | null {
  const folder = /^src\/hypervisor\/([^/]+)\//.exec(path)?.[1] ?? null
  return folder === 'shared' ? null : folder
}

/** Why this import is against the rules; null when it is not. */
function faultOf({ from, target }: Import): string | null {
  const floor = floorOf(from)
  const targetFloor = floorOf(target)
  if (floor === null) return null
  if (targetFloor === null) return `${from} imports ${target}, which stands outside the house`
  if (targetFloor > floor) return `${from} (floor ${floor}) imports ${target} (floor ${targetFloor}): upward`
  const wing = (path: string) => path.split('/')[0]
  if (floor === 2 && targetFloor === 2 && wing(from) !== wing(target)) return `${from} imports ${target}: sideways`
  // What two drivers need is in src/hypervisor/shared/, which knows none of them.
  const driver = driverOf(target)
  const inDrivers = from.startsWith('src/hypervisor/') && from !== LIST_OF_DRIVERS
  if (inDrivers && driver !== null && driver !== driverOf(from)) return `${from} imports ${target}: another driver`
  // What the rest of the program wants of a driver, it has from the list. What probes the host looks deeper.
  if (floor === 2 && driver !== null) return `${from} imports ${target}: a driver by name`
  return null
}

/** Programs and threads: they work when they are run, and nobody imports them. */
function isEntry(path: string): boolean {
  return /(^|[/-])(main|worker)\.ts$|-process\.ts$/.test(path)
}

function parse(path: string, text: string): ts.SourceFile {
  return ts.createSourceFile(path, text, ts.ScriptTarget.ES2023, true)
}

/** Every module that a file names, relative ones as paths from the repository's root, others as they are written. */
function importsOf(file: ts.SourceFile): Import[] {
  const found: Import[] = []
  const add = (specifier: ts.Node | undefined, typeOnly: boolean, late: boolean) => {
    if (specifier === undefined || !ts.isStringLiteralLike(specifier)) return
    const relative = specifier.text.startsWith('.')
    const target = relative ? normalize(join(dirname(file.fileName), specifier.text)) : specifier.text
    found.push({ from: file.fileName, target: relative ? target.replace(/\.js$/, '.ts') : target, typeOnly, late })
  }
  const visit = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node)) add(node.moduleSpecifier, isErased(node.importClause), false)
    else if (ts.isExportDeclaration(node)) add(node.moduleSpecifier, node.isTypeOnly, false)
    else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
      add(node.arguments[0], false, true)
    } else if (ts.isNewExpression(node) && node.expression.getText() === 'URL' && node.arguments?.length === 2) {
      if (node.arguments[1].getText() === 'import.meta.url') add(node.arguments[0], false, true)
    } else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) add(node.argument.literal, true, false)
    ts.forEachChild(node, visit)
  }
  visit(file)
  return found
}

function isErased(clause: ts.ImportClause | undefined): boolean {
  if (clause === undefined) return false
  if (clause.isTypeOnly) return true
  const named = clause.namedBindings
  return (
    clause.name === undefined &&
    named !== undefined &&
    ts.isNamedImports(named) &&
    named.elements.every((element) => element.isTypeOnly)
  )
}

/** Calls that open, start, read or wait: forbidden while a file of src/ is being imported. */
const WORK =
  /^(libc|check|errno|fetch|setTimeout|setInterval|setImmediate|queueMicrotask|(performance|Date)\.now|process\.(on|once|hrtime.*|chdir|exit)|koffi\.(load|view|alloc)|(.*\.)?\w+Sync|(.*\.)?(spawn|fork|createServer|createSocket|connect|listen|mmap|socket))$/
const WORKERS = /^(Worker|Date|Pool|Client|Agent|NetlinkSocket|Links|LinkWatch|MessageChannel|BroadcastChannel)$/

/** What a file does when it is imported, as far as its text tells. */
function workOnImport(file: ts.SourceFile): string[] {
  const found: string[] = []
  const note = (node: ts.Node, what: string) => {
    const { line } = file.getLineAndCharacterOfPosition(node.getStart())
    found.push(`${file.fileName}:${line + 1} ${what}`)
  }
  const inExpression = (node: ts.Node): void => {
    // Bodies run later, and so do the initial values of an object's fields.
    if (ts.isFunctionLike(node) || (ts.isPropertyDeclaration(node) && !isStatic(node))) return
    if (ts.isAwaitExpression(node)) note(node, 'waits on import')
    if (ts.isCallExpression(node) && WORK.test(node.expression.getText())) {
      note(node, `calls ${node.expression.getText()} on import`)
    }
    if (ts.isNewExpression(node) && WORKERS.test(node.expression.getText())) {
      note(node, `makes a ${node.expression.getText()} on import`)
    }
    ts.forEachChild(node, inExpression)
  }
  for (const statement of file.statements) {
    const declares =
      ts.isImportDeclaration(statement) ||
      ts.isExportDeclaration(statement) ||
      ts.isExportAssignment(statement) ||
      ts.isVariableStatement(statement) ||
      ts.isFunctionDeclaration(statement) ||
      ts.isClassDeclaration(statement) ||
      ts.isInterfaceDeclaration(statement) ||
      ts.isTypeAliasDeclaration(statement) ||
      ts.isModuleDeclaration(statement)
    // A table may be filled with a loop, but a bare call has nothing to be for but its effect.
    if (ts.isExpressionStatement(statement) && ts.isCallExpression(statement.expression)) {
      note(statement, 'calls something for its effect on import')
    } else if (declares || ts.isBlock(statement) || ts.isIterationStatement(statement, false)) {
      inExpression(statement)
    } else {
      note(statement, 'has a statement at top level')
    }
  }
  return found
}

function isStatic(node: ts.PropertyDeclaration): boolean {
  return node.modifiers?.some((modifier) => modifier.kind === ts.SyntaxKind.StaticKeyword) ?? false
}

function hasLeadingComment(text: string): boolean {
  return /^(#!.*\n)?\s*(\/\/ ?\S|\/\*)/.test(text)
}

/**
 * Chains of imports that come back to where they began, one for each file that closes one. Types count: files that name
 * one another's types cannot be read, moved or tested one without the other. So does what is imported late.
 */
function circles(imports: readonly Import[]): string[] {
  const next = new Map<string, string[]>()
  for (const { from, target } of imports) next.set(from, [...(next.get(from) ?? []), target])
  const done = new Set<string>()
  const found: string[] = []
  const walk = (path: string, trail: string[]): void => {
    const at = trail.indexOf(path)
    if (at >= 0) found.push([...trail.slice(at), path].join(' -> '))
    if (at >= 0 || done.has(path)) return
    for (const target of next.get(path) ?? []) walk(target, [...trail, path])
    done.add(path)
  }
  for (const path of next.keys()) walk(path, [])
  return found
}

function sourcesIn(folders: readonly string[]): Map<string, string> {
  const sources = new Map<string, string>()
  for (const folder of folders) {
    if (!existsSync(join(repository, folder))) continue
    for (const name of readdirSync(join(repository, folder), { recursive: true, encoding: 'utf8' })) {
      if (name.endsWith('.ts')) sources.set(join(folder, name), readFileSync(join(repository, folder, name), 'utf8'))
    }
  }
  return sources
}

const sources = sourcesIn(house)
const files = [...sources].map(([path, text]) => parse(path, text))
const imports = files.flatMap(importsOf)
const inside = imports.filter(({ target }) => target.endsWith('.ts'))
const isPackage = (target: string) => !target.endsWith('.ts') && !/\.[a-z]+$/.test(target)

t.test('imports go down, or stay in their own wing', async (t) => {
  t.ok(files.length > 40 && inside.length > 100, `${files.length} files, ${inside.length} imports`)
  t.same(inside.map(faultOf).filter(Boolean), [])
  t.same(
    inside.filter(({ target }) => !sources.has(target)).map(({ from, target }) => `${from} -> ${target}`),
    [],
    'each import names a file that is there',
  )
  t.same(
    inside.filter(({ target, typeOnly, late }) => isEntry(target) && !typeOnly && !late).filter((one) => !isCli(one)),
    [],
    'programs and threads are run, not imported',
  )
  t.same(circles(inside), [], 'no circles')
})

t.test('packages are declared', async (t) => {
  const { dependencies, devDependencies } = JSON.parse(readFileSync(join(repository, 'package.json'), 'utf8'))
  // Others are bundled (scripts/lib/bundle.js).
  t.same(Object.keys(dependencies), ['koffi'], 'what is installed along with the product')
  const used = imports.filter(({ target, typeOnly }) => isPackage(target) && !typeOnly)
  const unknown = used.filter(({ target }) => {
    const name = target.startsWith('@') ? target.split('/').slice(0, 2).join('/') : target.split('/')[0]
    return (
      !target.startsWith('node:') &&
      !builtinModules.includes(name) &&
      !(name in { ...dependencies, ...devDependencies })
    )
  })
  t.same(unknown, [])
  // npm ci refuses a lock file that leaves out another platform's package, also where it is not wanted.
  const { packages } = JSON.parse(readFileSync(join(repository, 'package-lock.json'), 'utf8'))
  const missing = Object.entries<{ optionalDependencies?: object }>(packages).flatMap(([path, entry]) =>
    Object.keys(entry.optionalDependencies ?? {}).filter(
      (name) => !(`node_modules/${name}` in packages) && !(`${path}/node_modules/${name}` in packages),
    ),
  )
  t.same(missing, [], 'the lock file is whole')
})

t.test('nothing in src/ works on import', async (t) => {
  const floor1 = files.filter((file) => floorOf(file.fileName) === 1 && !isEntry(file.fileName))
  t.same(floor1.flatMap(workOnImport), [])
})

t.test('every file says first what it is for', async (t) => {
  for (const [path, text] of [...sources, ...sourcesIn(outside)]) {
    if (!hasLeadingComment(text)) t.fail(`${path} has no leading comment`)
    const lines = text.split('\n').length - 1
    if (lines > LINES_ADVISED) t.comment(`${path} has ${lines} lines; ${LINES_ADVISED} is the advice`)
  }
  t.pass('all looked at')
})

t.test('the checker finds planted faults', async (t) => {
  const faults = (path: string, text: string) => importsOf(parse(path, text)).map(faultOf).filter(Boolean).length
  t.equal(faults('src/linux/x.ts', "import { a } from '../../switch/port/y.js'"), 1, 'upward')
  t.equal(faults('src/linux/x.ts', "import type { a } from '../cli/y.js'"), 1, 'upward, a type')
  t.equal(faults('src/linux/x.ts', "export * from '../../coordinator/y.js'"), 1, 'upward, exported on')
  t.equal(faults('src/linux/x.ts', "const a = () => import('../../switch/y.js')"), 1, 'upward, later')
  t.equal(faults('src/a/x.ts', "new Worker(new URL('../../switch/w.js', import.meta.url))"), 1, 'upward, a thread')
  t.equal(faults('src/a/x.ts', "type A = import('../../switch/y.js').A"), 1, 'upward, an inline type')
  t.equal(faults('switch/agent/x.ts', "import '../../coordinator/y.js'"), 1, 'sideways')
  t.equal(faults('switch/agent/x.ts', "import '../../src/cli/y.js'"), 1, 'to the CLI')
  t.equal(faults('switch/agent/x.ts', "import '../../test/y.js'"), 1, 'outside')
  t.equal(faults('switch/agent/x.ts', "import '../port/y.js'; import '../../src/a/b.js'"), 0)
  t.equal(faults('src/hypervisor/qemu/x.ts', "import '../libvirt/y.js'"), 1, 'another driver')
  t.equal(faults('src/hypervisor/shared/x.ts', "import '../qemu/y.js'"), 1, 'a driver, from what all share')
  t.equal(faults('src/hypervisor/qemu/x.ts', "import '../shared/y.js'; import '../hypervisor.js'"), 0)
  t.equal(faults('src/hypervisor/drivers.ts', "import { qemu } from './qemu/driver.js'"), 0, 'the list')
  t.equal(faults('switch/agent/x.ts', "import '../../src/hypervisor/qemu/driver.js'"), 1, 'a driver by name')
  t.equal(faults('src/cli/x.ts', "import '../../switch/y.js'; import '../../coordinator/y.js'"), 0)
  t.equal(faults('test/x.ts', "import '../switch/y.js'"), 0)

  const works = (text: string) => workOnImport(parse('src/a/x.ts', text)).length
  for (const text of [
    'const start = performance.now()',
    'const c = { load: koffi.load("libc.so.6") }',
    'start()',
    'await ready',
    'const x = await ready()',
    'export const w = new Worker("x")',
    'class A { static fd = openSync("x") }',
    'if (a) b()',
    'process.on("exit", () => {})',
    'const t = fs.readFileSync("x")',
  ]) {
    t.equal(works(text), 1, text)
  }
  for (const text of [
    'const later = () => performance.now()',
    'function f() { setTimeout(g, 1) }',
    'export const table = new Map(Object.entries(a).map(([k, v]) => [v, k]))',
    'const schema = Type.Object({ a: Type.String() })',
    'class A { fd = openSync("x"); now() { return Date.now() } }',
  ]) {
    t.equal(works(text), 0, text)
  }
  t.notOk(hasLeadingComment("import t from 'tap'\n"))
  t.ok(hasLeadingComment('#!/usr/bin/env node\n// A program.\n'))
  const chain = ['a', 'b', 'c'].map((from, index, all) => ({
    from,
    target: all[(index + 1) % 3],
    typeOnly: false,
    late: false,
  }))
  t.equal(circles(chain).length, 1)
  t.equal(circles(chain.slice(1)).length, 0)
  const twoWays = ["import { b } from './b.js'", "import type { a } from './a.js'"]
  const pair = twoWays.flatMap((text, at) => importsOf(parse(`src/x/${'ab'[at]}.ts`, text)))
  t.same(circles(pair), ['src/x/a.ts -> src/x/b.ts -> src/x/a.ts'], 'a circle of types')
})

/** The CLI starts the daemons: it may name their entries. */
function isCli({ from }: Import): boolean {
  return floorOf(from) === 3
}
