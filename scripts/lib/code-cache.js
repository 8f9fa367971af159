// node FLAGS scripts/lib/code-cache.js FOLDER switch|command   Keeps beside the bundle in FOLDER what V8 makes of its code when a
// daemon begins, or a command: start.js gives it to V8. Run by scripts/lib/bundle.js, with the flags of bin/snapswitch: to V8 a
// cache is good for a process with the same ones only.

import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

const [folder, kind] = process.argv.slice(2)
const { CACHES, compile, exportsOf, headOf } = await import(pathToFileURL(join(folder, 'start.js')).href)
const script = compile(undefined, `${folder}/`)
const { main, loadSwitch } = exportsOf(script, `${folder}/`)
// Functions that have run are in the cache, others are compiled when they are called.
if (kind === 'switch') {
  const { createApi } = await (await loadSwitch()).loadApi()
  const silent = () => undefined
  const logger = { fatal: silent, error: silent, warn: silent, info: silent, debug: silent, trace: silent }
  const options = { endpoint: { kind: 'unix', path: '/nowhere/switch.sock' }, title: '', version: '' }
  const { app } = await createApi({ ...options, logger: { ...logger, child: () => logger } })
  await app.ready()
} else {
  // It says that no daemon is there.
  process.stderr.write = () => true
  await main([process.execPath, 'snapswitch', 'status', '--socket', '/nowhere/switch.sock'])
}
const cache = script.createCachedData()
writeFileSync(
  join(folder, CACHES[kind]),
  Buffer.concat([headOf(readFileSync(join(folder, 'program.cjs')), cache), cache]),
)
process.exit(0)
