// `snapshot create --verify`: every host loads the images of its part once, when the snapshot is complete; what came of
// it goes into the manifest. A snapshot that does not load stays, and says so.

import type { LocalPart, Manifest, Verdict } from '../src/api/schemas.js'
import { asSnapswitchError } from '../src/errors/errors.js'
import type { Network } from './network.js'
import type { RunOptions } from './sequence-runner.js'

/** For each machine: it is started and loaded, at a low priority, while all others run. */
const memberMs = 120_000

export type Verdicts = ReadonlyMap<string, Verdict>

/** The manifest with what hosts have found out of their machines. Pure. */
export function withVerdicts(manifest: Manifest, found: ReadonlyMap<string, Verdicts>): Manifest {
  const part = (one: LocalPart): LocalPart => ({
    ...one,
    members: one.members.map((member) => {
      const verified = found.get(one.host)?.get(member.vm)
      return verified === undefined ? member : { ...member, verified }
    }),
  })
  return { ...manifest, parts: manifest.parts.map(part) }
}

/** Never rejects: a host that does not answer has found out nothing. */
export async function verifyImages(
  { agents }: Network,
  manifest: Manifest,
  { onProgress, clock, signal }: Pick<RunOptions, 'onProgress' | 'clock' | 'signal'>,
): Promise<Manifest> {
  const found = new Map<string, Verdicts>()
  await Promise.all(
    manifest.parts.map(async ({ host, members }) => {
      if (members.length === 0) return
      const tell = (text: string) => onProgress({ text, host, atUs: clock.now().wallUs })
      tell(`loading ${members.length === 1 ? 'the image' : 'the images'} once, to verify`)
      try {
        const call = { timeoutMs: memberMs * members.length, ...(signal === undefined ? {} : { signal }) }
        const rehearsal = await agents.rehearse(host, manifest.name, call)
        found.set(host, new Map(rehearsal.members.map(({ vm, verified }) => [vm, verified])))
        tell(`verified in ${(rehearsal.tookMs / 1000).toFixed(1)} s`)
      } catch (thrown) {
        const verdict: Verdict = { verdict: 'unknown', reason: `host ${host}: ${asSnapswitchError(thrown).message}` }
        found.set(host, new Map(members.map(({ vm }) => [vm, verdict])))
      }
    }),
  )
  return withVerdicts(manifest, found)
}
