// The production audit of simulated snapshots that were recorded.

import type { AuditReport, Manifest } from '../../src/api/schemas.js'
import { type AuditedHost, audit } from '../../src/audit/audit.js'
import { Book } from '../../src/audit/book.js'
import { channelEntries } from '../../src/audit/channel-run.js'
import { readEvents } from '../../src/trace/event-reader.js'
import type { World } from './world.js'

/** What the audit says of a snapshot that was recorded on all hosts; null: it was not. */
export function auditOf(world: World, manifest: Manifest): Pick<AuditReport, 'verdict' | 'checks'> | null {
  if (manifest.parts.some((part) => part.events === undefined)) return null
  const hosts = manifest.parts.map(
    (part): AuditedHost => ({
      part,
      events: run(readEvents(world.contents.get(part.events?.digest ?? '') as Uint8Array)),
      channel: channelEntries(world.contents.get(part.channel.digest) as Uint8Array),
    }),
  )
  return run(audit(manifest, hosts, new Book()))
}

function run<T>(work: Generator<void, T, undefined>): T {
  for (;;) {
    const step = work.next()
    if (step.done === true) return step.value
  }
}
