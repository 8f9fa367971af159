// Brings together what an audit needs: asks the hosts whether their files are what the manifest says, fetches
// recordings and channel states, one host after the other, and lets src/audit judge. Changes nothing.

import { setImmediate } from 'node:timers/promises'
import { tracesOf } from '../src/api/files.js'
import type { AuditReport, FileReference, LocalPart, Manifest } from '../src/api/schemas.js'
import { type AuditedHost, audit } from '../src/audit/audit.js'
import { Book } from '../src/audit/book.js'
import { type ChannelEntry, channelEntries } from '../src/audit/channel-run.js'
import { firstDifference } from '../src/audit/difference.js'
import { asSnapswitchError, SnapswitchError } from '../src/errors/errors.js'
import { type EventTable, readEvents } from '../src/trace/event-reader.js'
import type { Agents } from './agents.js'
import { figuresOf } from './sequence/snapshot/rules.js'

/** Digests of memory images and disks take their time. */
const filesMs = 300_000
const fetchMs = 60_000
/** Of one file that is read into memory; a host's recording is bounded to less when it is made. */
const fileLimit = 256 * 1024 * 1024
/** Of all recordings together: in memory they take about as much as on disk. */
const totalLimit = 1024 * 1024 * 1024

export interface AuditOptions {
  readonly agents: Agents
  readonly signal: AbortSignal
}

/** @throws SnapswitchError SNAPSHOT_NOT_COMPLETE, SNAPSHOT_NOT_RECORDED */
export async function auditSnapshot(manifest: Manifest, options: AuditOptions): Promise<AuditReport> {
  const { network, name, epoch } = manifest
  if (manifest.state !== 'complete') {
    throw new SnapswitchError(
      'SNAPSHOT_NOT_COMPLETE',
      `snapshot ${network}/${name} is ${manifest.state}`,
      'Only complete snapshots can be audited.',
    )
  }
  const unrecorded = manifest.parts.filter((part) => part.events === undefined).map((part) => part.host)
  if (unrecorded.length > 0) {
    throw new SnapswitchError(
      'SNAPSHOT_NOT_RECORDED',
      `snapshot ${network}/${name} was made without a recording on ${unrecorded.join(', ')}`,
      'Make one that can be audited: snapswitch snapshot create … --record',
    )
  }
  const began = performance.now()
  const book = new Book()
  checkFigures(manifest, book)
  const hosts: AuditedHost[] = []
  let total = 0
  for (const part of manifest.parts) {
    await checkRecord(manifest, part, book, options)
    const present = await checkFiles(manifest, part, book, options)
    total += part.events?.bytes ?? 0
    hosts.push({
      part,
      events: total > totalLimit ? tooMuch(part, book) : await eventsOf(manifest, part, present, book, options),
      channel: await channelOf(manifest, part, present, book, options),
    })
  }
  const { verdict, checks } = await inTurns(audit(manifest, hosts, book))
  return {
    network,
    name,
    epoch,
    verdict,
    checks,
    hosts: hosts.map(({ part, events }) => ({
      host: part.host,
      events: events?.length ?? 0,
      overflow: events?.overflow ?? 0,
      recordedMs:
        events === null || events.length === 0 ? 0 : (events.timeUs[events.length - 1] - events.timeUs[0]) / 1000,
    })),
    auditMs: Math.round(performance.now() - began),
  }
}

/** What the manifest sums up must be what its parts say. */
function checkFigures({ network, name, parts, figures }: Manifest, book: Book): void {
  const at = figures === null ? 'figures' : firstDifference(figures, figuresOf(parts, figures), 'figures')
  if (at !== null)
    book.violated('files', { what: `${at} is not what the parts say`, file: `${network}/${name}/manifest.json` })
}

/** The manifest must say of a host's part what the host itself has written down. */
async function checkRecord(
  manifest: Manifest,
  part: LocalPart,
  book: Book,
  { agents, signal }: AuditOptions,
): Promise<void> {
  const { host } = part
  try {
    const found = await agents.part(host, manifest.name, { timeoutMs: fetchMs, signal })
    book.examined('files')
    const at = firstDifference(part, found)
    if (at === null) return
    const what = `manifest and part.json differ in ${at}: one of the two was changed`
    book.violated('files', { what, host, file: `${manifest.network}/${manifest.name}/part.json` })
  } catch (thrown) {
    const { code, message } = asSnapswitchError(thrown)
    const isDamaged = code === 'STORE_DAMAGED' || code === 'SNAPSHOT_UNKNOWN'
    if (isDamaged) book.violated('files', { what: `${code}: ${message}`, host })
    else book.incomplete('files', `${host}: ${code}: ${message}`)
  }
}

/** Digests of the files that are on the host as they were made. */
async function checkFiles(
  manifest: Manifest,
  part: LocalPart,
  book: Book,
  { agents, signal }: AuditOptions,
): Promise<ReadonlySet<string>> {
  const channels = tracesOf(part)
  const disks = part.members.flatMap((member) => member.disks.flatMap((disk) => disk.layers.map(({ file }) => file)))
  const files = [...channels, ...part.members.map((member) => member.memory), ...disks]
  const digests = new Set(files.map((file) => file.digest))
  const request = { epoch: manifest.epoch, members: part.members, channels, deadlineMs: filesMs }
  try {
    const check = await agents.restoreCheck(part.host, manifest.name, request, { timeoutMs: filesMs, signal })
    book.examined('files', digests.size)
    for (const file of check.missing) {
      digests.delete(file.digest)
      const what = 'missing, or not what it was when the snapshot was made'
      book.violated('files', { what, host: part.host, file: file.path })
    }
    return digests
  } catch (thrown) {
    const error = asSnapswitchError(thrown)
    book.incomplete('files', `${part.host}: ${error.code}: ${error.message}`)
    return new Set()
  }
}

function tooMuch(part: LocalPart, book: Book): null {
  book.incomplete('events', `${part.host}: the recordings are larger than the ${totalLimit} bytes that an audit takes`)
  return null
}

function eventsOf(
  manifest: Manifest,
  part: LocalPart,
  present: ReadonlySet<string>,
  book: Book,
  options: AuditOptions,
): Promise<EventTable | null> {
  return read(manifest, part, part.events as FileReference, present, book, options, 'events', (bytes) =>
    inTurns(readEvents(bytes)),
  )
}

function channelOf(
  manifest: Manifest,
  part: LocalPart,
  present: ReadonlySet<string>,
  book: Book,
  options: AuditOptions,
): Promise<readonly ChannelEntry[] | null> {
  return read(manifest, part, part.channel, present, book, options, 'channel state', async (bytes) =>
    channelEntries(bytes),
  )
}

/** A file's content; null, and a word in the book, when there is none. */
async function read<T>(
  manifest: Manifest,
  part: LocalPart,
  file: FileReference,
  present: ReadonlySet<string>,
  book: Book,
  { agents, signal }: AuditOptions,
  check: 'events' | 'channel state',
  parse: (bytes: Uint8Array) => Promise<T>,
): Promise<T | null> {
  if (!present.has(file.digest)) {
    book.incomplete(check, `${part.host}: ${file.path} cannot be read`)
    return null
  }
  try {
    const bytes = await agents.download(part.host, manifest.name, file, fileLimit, { timeoutMs: fetchMs, signal })
    return await parse(bytes)
  } catch (thrown) {
    const error = asSnapswitchError(thrown)
    // The host has it under another digest than the manifest: one of the two was rewritten.
    const damaged =
      error.code === 'TRACE_INVALID' || error.code === 'STORE_DAMAGED' || error.code === 'SNAPSHOT_UNKNOWN'
    const what = `${error.code}: ${error.message}`
    if (damaged) book.violated(check, { what, host: part.host, file: file.path })
    else book.incomplete(check, `${part.host}: ${what}`)
    return null
  }
}

/** Runs a generator to its end; others have their turn whenever it yields. */
export async function inTurns<T>(work: Generator<void, T, undefined>): Promise<T> {
  for (;;) {
    const step = work.next()
    if (step.done === true) return step.value
    await setImmediate()
  }
}
