// The golden runs: recorded once, and replayed by the tests ever since. `node dist/test/recording/golden.js` renews
// them when the switch is to do something else than it did, or when a scene has changed.

import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'
import { repositoryRoot } from '../lab/repository.js'
import { type SceneName, scenes } from './scenes.js'

export const GOLDEN_FRAMES = 200

const directory = join(repositoryRoot(), 'test', 'recording', 'golden')
/** Plain forwarding and ageing from the beginning, the others from midway: with a checkpoint of a state. */
const GOLDEN: readonly (readonly [SceneName, hosts: number, midway: boolean])[] = [
  ['learning', 1, false],
  ['vlans', 1, false],
  ['trunk', 2, true],
  ['uplink', 2, true],
  ['restore', 2, true],
  ['gaps', 1, false],
]

export function goldenFiles(): { name: string; path: string }[] {
  return GOLDEN.flatMap(([scene, hosts]) =>
    Array.from({ length: hosts }, (_, host) => {
      const name = `${scene}-${host}.pcapng.gz`
      return { name, path: join(directory, name) }
    }),
  )
}

function renew(): void {
  mkdirSync(directory, { recursive: true })
  const paths = goldenFiles().map(({ path }) => path)
  const files = GOLDEN.flatMap(([scene, , midway]) => scenes[scene](GOLDEN_FRAMES, midway))
  for (const [at, file] of files.entries()) writeFileSync(paths[at]!, gzipSync(file, { level: 9 }))
}

if (process.argv[1] === fileURLToPath(import.meta.url)) renew()
