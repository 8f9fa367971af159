// Where bin/snapswitch goes on; scripts/lib/bundle.js puts a copy beside the bundle. The program runs from the bundle while that is
// of the modules as they are now, else from the modules. An installed package has no modules, and no list of them.
//
// Most of what it takes to load the bundle is that V8 compiles it. scripts/lib/code-cache.js keeps what V8 has made of it beside it,
// for the engine of that version of Node and no other: V8 looks at its version and flags, and compiles if they are not the same.

import { readFileSync, statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { Script } from 'node:vm'
import { crc32 } from 'node:zlib'

const here = fileURLToPath(new URL('.', import.meta.url))

/** What is kept of a daemon's code, and of a command's. */
export const CACHES = { switch: 'program.switch.cache', command: 'program.command.cache' }

/** Whether the bundle in this folder is of its inputs as they are now. */
export function isFresh(folder = here) {
  let inputs
  try {
    inputs = JSON.parse(readFileSync(`${folder}inputs.json`, 'utf8'))
  } catch (error) {
    if (error.code === 'ENOENT') return true
    throw error
  }
  return inputs.every(([path, bytes, mtimeMs]) => {
    const now = statSync(folder + path, { throwIfNoEntry: false })
    return now?.size === bytes && now.mtimeMs === mtimeMs
  })
}

const HEAD_BYTES = 8

/** What stands before a cache: checksums of the text, of which V8 compares the length alone, and of the cache, which V8 believes. */
export function headOf(text, cache) {
  const head = Buffer.alloc(HEAD_BYTES)
  head.writeUInt32LE(crc32(text), 0)
  head.writeUInt32LE(crc32(cache), 4)
  return head
}

/** The bundle's code, by a cache if that is of its text. */
export function compile(cache, folder = here) {
  // A file of ASCII: bundle.js sees to it.
  const bytes = readFileSync(`${folder}program.cjs`)
  const cachedData = cache === undefined ? undefined : cacheOf(bytes, `${folder}${cache}`)
  // Its name in stacks comes out of the cache, which is made where the package is. src/runtime/source-names.ts knows it.
  return new Script(bytes.toString('latin1'), { filename: 'program.cjs', cachedData })
}

function cacheOf(text, path) {
  try {
    const bytes = readFileSync(path)
    const cache = bytes.subarray(HEAD_BYTES)
    return headOf(text, cache).equals(bytes.subarray(0, HEAD_BYTES)) ? cache : undefined
  } catch {
    // V8 compiles the text.
    return undefined
  }
}

/** What the program exports. */
export function exportsOf(script, folder = here) {
  const module = { exports: {} }
  const start = `${folder}start.js`
  script.runInThisContext()(createRequire(start), module, pathToFileURL(start).href)
  return module.exports
}

export async function main(argv) {
  if (!isFresh()) return (await import('../src/cli/entry.js')).main(argv)
  const script = compile(argv[2] === 'switch' ? CACHES.switch : CACHES.command)
  await exportsOf(script).main(argv)
}
