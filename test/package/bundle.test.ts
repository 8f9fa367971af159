// The program in few files: made of the modules that are there, taken while they are the same. Its errors name sources.

import {
  appendFileSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { ENGINE_FLAGS } from '../../src/runtime/engine.js'
import { attempt, run } from '../lab/command.js'
import { repositoryRoot } from '../lab/repository.js'
import { fileLimit } from '../patience.js'

t.setTimeout(fileLimit(120_000))
const root = repositoryRoot()

t.test('which of the two runs', async (t) => {
  const place = mkdtempSync(join(tmpdir(), 'ssw-bundle-'))
  t.teardown(() => rmSync(place, { recursive: true, force: true }))
  for (const folder of ['bin', 'dist/bundle', 'dist/src/cli']) mkdirSync(join(place, folder), { recursive: true })
  writeFileSync(join(place, 'package.json'), '{ "type": "module" }')
  const command = join(place, 'bin', 'snapswitch')
  copyFileSync(join(root, 'bin', 'snapswitch'), command)
  const bundle = (name: string) => join(place, 'dist', 'bundle', name)
  const says = async () => (await attempt(command, ['a', 'b'])).stdout
  t.equal(await says(), '')
  t.match((await attempt(command, [])).stderr, /not built yet/)

  const entry = join(place, 'dist', 'src', 'cli', 'entry.js')
  writeFileSync(entry, "export const main = (argv) => console.log('modules', ...argv.slice(2))\n")
  t.equal(await says(), 'modules a b\n', 'there is no bundle')

  copyFileSync(join(root, 'scripts', 'lib', 'start.js'), bundle('start.js'))
  const program = (code: string) =>
    writeFileSync(bundle('program.cjs'), `(function (require, module, url) { ${code} })`)
  program("module.exports.main = (argv) => console.log('bundle', ...argv.slice(2))")
  const { size, mtimeMs, atime } = statSync(entry)
  const made = (bytes: number, ms: number) =>
    writeFileSync(bundle('inputs.json'), JSON.stringify([['../src/cli/entry.js', bytes, ms]]))
  made(size, mtimeMs)
  t.equal(await says(), 'bundle a b\n', 'it is of the modules')
  made(size + 1, mtimeMs)
  t.equal(await says(), 'modules a b\n', 'one had another length')
  made(size, mtimeMs)
  utimesSync(entry, atime, new Date(mtimeMs - 5000))
  t.equal(await says(), 'modules a b\n', 'one is of another time, if an older one')
  rmSync(bundle('inputs.json'))
  rmSync(join(place, 'dist', 'src'), { recursive: true })
  t.equal(await says(), 'bundle a b\n', 'an installed package')

  program("require('a-package-that-is-missing')")
  const { code, stderr } = await attempt(command, [])
  t.match([code, stderr], [1, /a-package-that-is-missing/], 'what is missing is named')
})

t.test('made of the modules', async (t) => {
  // Beside the usual one: packages are found from there.
  const folder = mkdtempSync(join(root, 'dist', 'bundle-'))
  t.teardown(() => {
    for (const end of ['', '.new', '.old']) rmSync(`${folder}${end}`, { recursive: true, force: true })
  })
  const make = () => run(process.execPath, [join(root, 'scripts', 'lib', 'bundle.js'), folder], 60_000)
  await make()
  const files = readdirSync(folder)
  for (const name of [
    'start',
    'worker',
    'coordinator-process',
    'image-writer-process',
    'libvirt-process',
    'sender-worker',
  ])
    t.ok(files.includes(`${name}.js`), name)
  t.ok(files.length < 30, `few files: ${files.length}`)
  const before = statSync(join(folder, 'start.js')).ctimeMs
  await make()
  t.equal(statSync(join(folder, 'start.js')).ctimeMs, before, 'nothing to do')

  const start = JSON.stringify(join(folder, 'start.js'))
  const script = `import(${start}).then((it) => it.main(['', '', 'switch', '-c', '/nowhere/x']))`
  const fails = () => attempt('env', ['SNAPSWITCH_DEBUG=1', process.execPath, ...ENGINE_FLAGS, '-e', script])
  const { stderr } = await fails()
  t.match(stderr, /CONFIG_UNREADABLE/)
  t.match(stderr, new RegExp(`at loadConfigFile \\(${join(root, 'src', 'api', 'config-file.ts')}:\\d+:\\d+\\)`))

  // What V8 has compiled before is taken, whole; of another text, or damaged, it is not, and all works as well.
  const look = `import(${start}).then(({ compile, CACHES }) => {
    const said = Object.values(CACHES).map((cache) => compile(cache).cachedDataRejected ?? 'none')
    console.log(said.join(' '))
  })`
  const taken = async (flags: readonly string[] = ENGINE_FLAGS) =>
    (await run(process.execPath, [...flags, '-e', look])).trim()
  t.equal(await taken(), 'false false')
  t.match(await taken([]), /^true /, 'of a process with other flags')
  const cache = join(folder, 'program.switch.cache')
  truncateSync(cache, 100_000)
  t.match(await taken(), /^none /, 'cut off')
  t.match((await fails()).stderr, /CONFIG_UNREADABLE/)
  appendFileSync(join(folder, 'program.cjs'), ' ')
  t.equal(await taken(), 'none none', 'of another text')
  rmSync(cache)
  t.match((await fails()).stderr, /CONFIG_UNREADABLE/, 'there is none')
})
