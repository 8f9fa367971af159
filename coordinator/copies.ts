// Copies of files on hosts: those that restores have brought there, and those that flattening has made. A host keeps
// one until it is told that no snapshot has its content.

import type { Logger } from 'pino'
import { filesOf } from '../src/api/files.js'
import type { Manifest } from '../src/api/schemas.js'
import type { Network } from './network.js'
import type { Listed } from './store/catalogue.js'

const leftCallMs = 10_000

export const digestsOf = ({ parts }: Manifest): string[] =>
  parts.flatMap((part) => filesOf(part).map(({ digest }) => digest))

/** Those of the contents that none of all manifests names. Pure. */
export function unnamed(digests: Iterable<string>, listed: readonly Listed[]): string[] {
  // Nobody can tell which contents a damaged manifest names.
  if (listed.some(({ error }) => error !== null)) return []
  const named = new Set(listed.flatMap(({ manifest }) => (manifest === null ? [] : digestsOf(manifest))))
  return [...new Set(digests)].filter((digest) => !named.has(digest))
}

/** Tells a host that no snapshot has these contents. Never rejects. */
export async function release(
  { name, agents }: Network,
  host: string,
  released: readonly string[],
  logger: Logger,
): Promise<void> {
  try {
    await agents.left(host, { vms: [], released: [...released] }, { timeoutMs: leftCallMs })
  } catch (thrown) {
    if (released.length === 0) return
    const what = 'a host was not told which copies no snapshot has: `snapswitch snapshot prune --orphans` removes them'
    logger.warn({ err: thrown, network: name, host, contents: released.length }, what)
  }
}
