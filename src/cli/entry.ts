// Where the `snapswitch` command begins. A switch that starts is a network that is down until its ports forward, so the
// usual way to start one loads nothing of the other commands.

import { inspect } from 'node:util'
import type { Begun } from '../../switch/datapath/begin.js'
import { asSnapswitchError, errorText } from '../errors/errors.js'
import { nameSources } from '../runtime/source-names.js'

export async function main(argv: readonly string[]): Promise<void> {
  const config = switchAsked(argv.slice(2))
  if (config === null) return (await import('./main.js')).main(argv)
  process.stderr.on('error', () => undefined)
  let begun: Begun | undefined
  try {
    // It loads in a thread of its own while the rest does in this one.
    const { beginDatapath } = await import('../../switch/datapath/begin.js')
    begun = beginDatapath()
    const { runSwitch, startCoordinator } = await loadSwitch()
    await runSwitch(config, startCoordinator, begun)
  } catch (thrown) {
    process.exitCode = 1
    // Of nothing that would have to be loaded: what was thrown may say that no file can be opened.
    process.stderr.write(errorText(asSnapswitchError(thrown)))
    if (process.env.SNAPSWITCH_DEBUG !== undefined) process.stderr.write(nameSources(`${inspect(thrown)}\n`))
    // Where the rest could not be loaded, nobody else ends the thread that has begun, and it would run for ever.
    await begun?.started.catch(() => undefined)
    await begun?.datapath.stop()
  }
}

/** The daemon's code. scripts/lib/code-cache.js asks for it, too. */
export async function loadSwitch() {
  const { runSwitch, loadApi } = await import('../../switch/main.js')
  const { startCoordinator } = await import('./embedded-coordinator.js')
  return { runSwitch, startCoordinator, loadApi }
}

/** The file of `switch --config FILE`, in these words and no others; null: whatever it means, the program knows. */
export function switchAsked(words: readonly string[]): string | null {
  const [command, flag, file, ...more] = words
  if (command !== 'switch' || file === undefined || more.length > 0) return null
  return (flag === '-c' || flag === '--config') && file !== '' && !file.startsWith('-') ? file : null
}
