// Names of snapshots: the next one's, when it was given none; which are taken; and the failed ones that go when one
// succeeds.

import type { Logger } from 'pino'
import type { Manifest } from '../src/api/schemas.js'
import { SnapswitchError } from '../src/errors/errors.js'
import type { Network } from './network.js'
import { isUnfinished } from './recovery.js'
import type { ManifestStore } from './store/catalogue.js'
import { holders } from './strays.js'

/** For a look at what a host has under a name. */
const lookMs = 2_500

/**
 * s1, s2 and so on: above the highest that the network has, the first of which no host has a part, whatever
 * coordinator has taken it.
 */
export async function nextName(catalogue: ManifestStore, network: Network, deadlineMs: number): Promise<string> {
  const names = (await catalogue.list()).flatMap((one) => (one.network === network.name ? [one.name] : []))
  const numbers = names.map((name) => Number(/^s(\d{1,9})$/.exec(name)?.[1] ?? 0))
  for (let number = Math.max(0, ...numbers) + 1; ; number++) {
    const name = `s${number}`
    if ((await holders(network, name, Math.min(lookMs, deadlineMs))).length === 0) return name
  }
}

/** Null: there is none of that name. Throws what the catalogue does else. */
export function readIfThere(catalogue: ManifestStore, network: string, name: string): Promise<Manifest | null> {
  return catalogue.read(network, name).catch((error: unknown) => {
    if (error instanceof SnapswitchError && error.code === 'SNAPSHOT_UNKNOWN') return null
    throw error
  })
}

/** A failed one may be taken again under its name, its reason is in the log; but not one that is half deleted. */
export async function refuseTaken(catalogue: ManifestStore, network: string, name: string): Promise<void> {
  const before = await readIfThere(catalogue, network, name)
  if (before === null || (before.state === 'failed' && before.parts.length === 0)) return
  throw new SnapswitchError(
    'SNAPSHOT_EXISTS',
    `network ${network} has a snapshot ${name} already`,
    `Choose another name, or delete it: snapswitch snapshot delete ${network}/${name}`,
  )
}

/**
 * Failed snapshots from before a good one, of which nothing is left on any host: whoever asked was told why, and the
 * log has it. Whatever is half done stays on record.
 */
export async function forgetFailed(
  catalogue: ManifestStore,
  { network, epoch }: Manifest,
  logger: Logger,
): Promise<void> {
  for (const { manifest } of await catalogue.list()) {
    if (manifest?.network !== network || manifest.state !== 'failed' || manifest.epoch >= epoch) continue
    if (manifest.parts.length > 0 || isUnfinished(manifest)) continue
    await catalogue.remove(network, manifest.name).catch((error: unknown) => {
      logger.warn({ err: error, network, snapshot: manifest.name }, 'a failed snapshot stays in the list')
    })
  }
}
