// Where bin/snapswitch goes on; scripts/lib/bundle.js puts a copy beside the bundle. The program runs from the bundle while that is
// of the modules as they are now, else from the modules. An installed package has no modules, and no list of them.

import { readFileSync, statSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const here = fileURLToPath(new URL('.', import.meta.url))

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

export async function main(argv) {
  const { main: run } = await import(isFresh() ? './entry.js' : '../src/cli/entry.js')
  await run(argv)
}
