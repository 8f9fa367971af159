// The frames of a snapshot, one by one: fetches the hosts' channel states, and their recordings where there are some.
// A host that does not answer, or a file that is damaged, is told of; the others' frames are listed all the same.

import type { FileReference, LocalPart, Manifest, SnapshotFrame, SnapshotFrames } from '../src/api/schemas.js'
import { asSnapswitchError, SnapswitchError } from '../src/errors/errors.js'
import { frameInWords } from '../src/frame/summary.js'
import { readChannel } from '../src/trace/channel.js'
import { readEvents } from '../src/trace/event-reader.js'
import { Event } from '../src/trace/events.js'
import { readHeld } from '../src/trace/held.js'
import type { Agents } from './agents.js'
import { inTurns } from './evidence.js'

const fetchMs = 60_000
/** Of one file that is read into memory. */
const fileLimit = 256 * 1024 * 1024
/** Frames in one answer. */
const frameLimit = 10_000
/** Of an enhanced packet block: where its packet begins, and how much of a frame an event keeps. */
const PACKET_AT = 28
const HEAD_BYTES = 14

export interface FramesOptions {
  readonly agents: Agents
  readonly signal: AbortSignal
}

/** @throws SnapswitchError SNAPSHOT_NOT_COMPLETE */
export async function framesOf(manifest: Manifest, options: FramesOptions): Promise<SnapshotFrames> {
  const { network, name, epoch, parts } = manifest
  if (manifest.state !== 'complete') {
    throw new SnapswitchError(
      'SNAPSHOT_NOT_COMPLETE',
      `snapshot ${network}/${name} is ${manifest.state}`,
      'Only complete snapshots have frames.',
    )
  }
  const frames: SnapshotFrame[] = []
  const hosts: SnapshotFrames['hosts'] = []
  let omitted = 0
  const add = (frame: SnapshotFrame): void => {
    if (frames.length < frameLimit) frames.push(frame)
    else omitted++
  }
  for (const part of parts) {
    const { host, events } = part
    let problem: string | null = null
    try {
      for (const frame of underWay(part, await fetched(manifest, part, part.channel, options))) add(frame)
      if (part.held !== undefined) {
        for (const frame of heldAt(part, await fetched(manifest, part, part.held, options))) add(frame)
      } else if (events !== undefined) {
        for (const frame of await heldInEvents(part, await fetched(manifest, part, events, options))) add(frame)
      }
    } catch (thrown) {
      const { code, message } = asSnapswitchError(thrown)
      problem = `${code}: ${message}`
    }
    const count = part.members.reduce((sum, member) => sum + member.held, 0)
    const recorded = events !== undefined || part.held !== undefined || count === 0
    hosts.push({ host, held: count, recorded, problem })
  }
  return { network, name, epoch, frames, omitted, hosts }
}

function fetched(
  manifest: Manifest,
  part: LocalPart,
  file: FileReference,
  { agents, signal }: FramesOptions,
): Promise<Uint8Array> {
  return agents.download(part.host, manifest.name, file, fileLimit, { timeoutMs: fetchMs, signal })
}

function underWay({ host }: LocalPart, file: Uint8Array): SnapshotFrame[] {
  return readChannel(file).map(({ port, vm, color, verdict, timeNs, bytes }) => ({
    host,
    port,
    vm,
    fate: verdict,
    color,
    timeUs: Number(timeNs / 1000n),
    bytes: bytes.length,
    summary: frameInWords(bytes, bytes.length),
  }))
}

/** Of these frames only the first bytes were written down. */
function heldAt({ host }: LocalPart, file: Uint8Array): SnapshotFrame[] {
  return readHeld(file).map(({ port, vm, color, timeNs, length, head }) => ({
    host,
    port,
    vm,
    fate: 'held',
    color,
    timeUs: Number(timeNs / 1000n),
    bytes: length,
    summary: frameInWords(head, length),
  }))
}

/** The same, of snapshots that older versions have made with a recording. */
async function heldInEvents({ host }: LocalPart, file: Uint8Array): Promise<SnapshotFrame[]> {
  const table = await inTurns(readEvents(file))
  const frames: SnapshotFrame[] = []
  for (let at = 0; at < table.length; at++) {
    if (table.kind[at] !== Event.held) continue
    const port = table.ports[table.port[at]]
    const bytes = table.frameLength[at]
    const head = table.offset[at] + PACKET_AT
    frames.push({
      host,
      port: port.name,
      vm: port.vm,
      fate: 'held',
      color: table.color[at],
      timeUs: table.timeUs[at],
      bytes,
      summary: frameInWords(file.subarray(head, head + Math.min(HEAD_BYTES, bytes)), bytes),
    })
  }
  return frames
}
