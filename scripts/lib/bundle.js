// node scripts/lib/bundle.js [FOLDER]   Puts the compiled program into few files, in dist/bundle unless said: node loads those in
// less than half of the processor time that a thousand modules take. Does nothing where that has been done already.
// What package.json has in `dependencies` stays outside, as native packages must. Other packages go in; their licenses lie beside.
//
// A program or thread is started by the name of its file, which lies beside the one that starts it. In the bundle all files lie
// in one folder.

import { execFileSync } from 'node:child_process'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { builtinModules } from 'node:module'
import { basename, dirname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import { isFresh } from './start.js'

process.chdir(join(dirname(fileURLToPath(import.meta.url)), '..', '..'))
const folder = resolve(process.argv[2] ?? 'dist/bundle')

const { dependencies, devDependencies } = JSON.parse(readFileSync('package.json', 'utf8'))
/** A source that is gone may have left its module. */
const modules = ['src', 'switch', 'coordinator'].flatMap((room) =>
  readdirSync(room, { recursive: true })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => join('dist', room, `${name.slice(0, -3)}.js`)),
)
/** What the bundle depends on, beside modules. */
const others = [
  'package.json',
  'node_modules/.package-lock.json',
  ...['bundle', 'code-cache', 'start'].map((name) => `scripts/lib/${name}.js`),
]

/** Files that run in a process or thread of their own. */
function programs() {
  const found = new Map()
  for (const module of modules) {
    for (const [, name] of readFileSync(module, 'utf8').matchAll(/new URL\('([^']*\.js)', import\.meta\.url\)/g)) {
      const program = join(dirname(module), name)
      if (dirname(name) !== '.') throw new Error(`${module} starts ${name}, which does not lie beside it`)
      if ((found.get(basename(name)) ?? program) !== program) throw new Error(`two programs are named ${name}`)
      found.set(basename(name), program)
    }
  }
  return [...found.values()]
}

/** With their times from before they are read: what changes meanwhile makes the bundle stale. */
const seen = new Map(
  [...modules, ...others].filter(existsSync).map((path) => {
    const { size, mtimeMs } = statSync(path)
    return [path, [size, mtimeMs]]
  }),
)

/**
 * Of packages a source map says where each file begins, and no more: maps are read when an error is shown
 * (src/runtime/source-names.ts), which should not take long.
 */
const BEGINNING = Buffer.from('{"version":3,"sources":[""],"mappings":"AAAA"}').toString('base64')
const shortMaps = {
  name: 'short-maps',
  setup({ onLoad }) {
    onLoad({ filter: /\/node_modules\/.*\.[cm]?js$/ }, ({ path }) => ({
      contents: `${readFileSync(path, 'utf8')}\n//# sourceMappingURL=data:application/json;base64,${BEGINNING}`,
      loader: 'default',
    }))
  },
}

/** What a package is in the bundle, where loading all of it costs more than it is worth: by names, each loaded when it is used. */
const INSTEAD = {
  '@xmldom/xmldom': Object.fromEntries(
    ['DOMParser', 'XMLSerializer'].map((name) => [name, `require('@xmldom/xmldom').${name}`]),
  ),
  // Without fetch, WebSocket and caches. undici's own index puts the calls into the class in the same way.
  undici: {
    Pool: `Object.assign(require('undici/lib/dispatcher/dispatcher.js').prototype, require('undici/lib/api/index.js')) &&
      require('undici/lib/dispatcher/pool.js')`,
  },
}
const instead = {
  name: 'instead',
  setup({ onResolve, onLoad }) {
    onResolve({ filter: new RegExp(`^(${Object.keys(INSTEAD).join('|')})$`) }, ({ path, namespace }) =>
      namespace === 'instead' ? undefined : { path, namespace: 'instead' },
    )
    onLoad({ filter: /.*/, namespace: 'instead' }, ({ path }) => {
      const getters = Object.entries(INSTEAD[path]).map(
        ([name, load], i) =>
          `let it${i}; Object.defineProperty(exports, '${name}', { enumerable: true, get: () => (it${i} ??= ${load}) })`,
      )
      return { contents: getters.join('\n'), resolveDir: process.cwd() }
    })
    // A tenth of a command's time goes into the regular expression that tables have for emoji.
    onLoad({ filter: /\/node_modules\/emoji-regex\/index\.js$/ }, () => ({
      contents: 'module.exports = () => /\\p{Extended_Pictographic}/gu',
    }))
  },
}

/** Packages themselves, and not what scripts/lib/bundle-packages.js makes of them for tests, which compiled modules find first. */
const packages = {
  name: 'packages',
  setup(esbuild) {
    const compiled = resolve('dist')
    const filter = new RegExp(`^(${Object.keys(devDependencies).join('|')})(/|$)`)
    esbuild.onResolve({ filter }, ({ path, kind, resolveDir, pluginData }) =>
      pluginData === packages || !resolveDir.startsWith(compiled)
        ? undefined
        : esbuild.resolve(path, { kind, resolveDir: process.cwd(), pluginData: packages }),
    )
  },
}

/** What the product imports of those must be there. */
function checkNames() {
  for (const module of modules) {
    for (const [, names, name] of readFileSync(module, 'utf8').matchAll(/^import \{([^}]*)\} from '([^']*)'/gm)) {
      const missing = names
        .split(',')
        .map((one) => one.trim().split(' ')[0])
        .filter((one) => name in INSTEAD && !(one in INSTEAD[name]))
      if (missing.length > 0)
        throw new Error(`${module} wants ${missing} of ${name}: say in scripts/lib/bundle.js how it is loaded`)
    }
  }
}

/** Packages that are CommonJS ask for modules of node by this name. */
const REQUIRE =
  "import { createRequire as requireFrom } from 'node:module'; const require = requireFrom(import.meta.url);"

/** A module for node to load: programs that run in a process or thread of their own. */
const ASIDE = { format: 'esm', banner: { js: REQUIRE } }

/** A function's text for start.js to run: V8 takes what it has compiled before of such a script, and not of a module. */
const MAIN = {
  format: 'cjs',
  define: { 'import.meta.url': 'bundleUrl' },
  banner: { js: '(function (require, module, bundleUrl) {' },
  footer: { js: '})' },
  outExtension: { '.js': '.cjs' },
  // Without comments it is of ASCII alone.
  minifyWhitespace: true,
}

async function bundle(entryPoints, form) {
  const { metafile } = await build({
    entryPoints,
    outdir: `${folder}.new`,
    bundle: true,
    platform: 'node',
    target: 'node20',
    preserveSymlinks: true,
    external: Object.keys(dependencies),
    sourcemap: 'external',
    sourcesContent: false,
    plugins: [instead, packages, shortMaps],
    legalComments: 'none',
    metafile: true,
    logLevel: 'warning',
    ...form,
  })
  for (const [path, { imports }] of Object.entries(metafile.outputs)) {
    for (const { path: name, kind } of imports.filter(({ external }) => external)) {
      if (kind === 'dynamic-import')
        throw new Error(`${path} imports ${name} when it runs, which its form does not allow`)
      const isKnown = name.startsWith('node:') || builtinModules.includes(name) || name in dependencies
      if (!isKnown) throw new Error(`${path} needs ${name}, which is neither in it nor in package.json's dependencies`)
    }
  }
  return Object.keys(metafile.inputs)
}

function licenses(inputs) {
  const folders = inputs
    .map((path) => path.match(/^.*node_modules\/(?:@[^/]+\/)?[^/]+/)?.[0])
    .filter((found) => found !== undefined)
  const texts = [...new Set(folders)].sort().map((found) => {
    const { name, version, license } = JSON.parse(readFileSync(join(found, 'package.json'), 'utf8'))
    const file = readdirSync(found).find((entry) => /^licen[cs]e/i.test(entry))
    return `${name} ${version}: ${license}\n\n${file === undefined ? '' : readFileSync(join(found, file), 'utf8')}`
  })
  return `The packages whose code is in this folder.\n\n${texts.join(`\n${'-'.repeat(80)}\n`)}`
}

async function make() {
  checkNames()
  rmSync(`${folder}.new`, { recursive: true, force: true })
  mkdirSync(`${folder}.new`, { recursive: true })
  const all = [
    ...(await bundle([{ in: 'dist/src/cli/entry.js', out: 'program' }], MAIN)),
    ...(await bundle(
      programs().map((path) => ({ in: path, out: basename(path, '.js') })),
      ASIDE,
    )),
  ]
  const inputs = [...new Set([...all, ...others])].filter((path) => seen.has(path))
  const list = inputs.map((path) => [relative(folder, path), ...seen.get(path)])
  if (/[^\0-\x7f]/.test(readFileSync(join(`${folder}.new`, 'program.cjs'), 'latin1')))
    throw new Error('program.cjs is not of ASCII alone, as scripts/lib/start.js takes it to be')
  copyFileSync('scripts/lib/start.js', join(`${folder}.new`, 'start.js'))
  const { ENGINE_FLAGS } = await import(resolve('dist/src/runtime/engine.js'))
  for (const kind of ['switch', 'command'])
    execFileSync(process.execPath, [...ENGINE_FLAGS, 'scripts/lib/code-cache.js', `${folder}.new`, kind], {
      stdio: 'inherit',
    })
  writeFileSync(join(`${folder}.new`, 'LICENSES.txt'), licenses(all))
  writeFileSync(join(`${folder}.new`, 'inputs.json'), JSON.stringify(list))
  // Where there is none for a moment, bin/snapswitch takes the modules.
  rmSync(`${folder}.old`, { recursive: true, force: true })
  if (existsSync(folder)) renameSync(folder, `${folder}.old`)
  renameSync(`${folder}.new`, folder)
  rmSync(`${folder}.old`, { recursive: true, force: true })
}

if (!existsSync(join(folder, 'inputs.json')) || !isFresh(`${folder}/`)) await make()
