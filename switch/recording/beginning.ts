// The beginning of a recording: what it is of, and the state that the switch was in. What memory is set aside for is
// checked, in a file that anybody may have made.

import { SnapswitchError } from '../../src/errors/errors.js'
import { BLOCK, OPTION } from '../../src/trace/pcapng.js'
import type { NetworkOptions } from '../forwarding/network.js'
import { type Blocks, damaged } from './blocks.js'
import { type Checkpoint, Kind, type RecordingHead, TITLE, VERSION } from './format.js'
import { decodePlain } from './plain-json.js'

const SECTION_BODY = 16

/** How a recording begins, or goes on after a gap. */
export interface Beginning {
  readonly head: RecordingHead
  readonly checkpoint: Checkpoint
}

/** Goes to the first block of a file. Throws TRACE_INVALID when that is no block at all. */
export function readFirst(blocks: Blocks): void {
  try {
    blocks.next()
  } catch (error) {
    throw error instanceof SnapswitchError && error.code === 'TRACE_INVALID' ? notOurs('it is no pcapng file') : error
  }
}

/**
 * The present block is its first; goes past it. Throws TRACE_INVALID when it is no recording, RECORDING_VERSION when
 * another version has made it.
 */
export function readBeginning(blocks: Blocks): Beginning {
  return { head: readHead(blocks), checkpoint: readCheckpoint(blocks) }
}

function readHead(blocks: Blocks): RecordingHead {
  if (blocks.type !== BLOCK.section || !blocks.isOfOurOrder()) throw notOurs('it is no pcapng file of ours')
  for (const { code, value } of blocks.options(blocks.from + SECTION_BODY)) {
    if (code !== OPTION.comment) continue
    const title = new TextDecoder().decode(value)
    if (title === TITLE) return checked(record(blocks, Kind.HEAD) as RecordingHead)
    const other = /^snapswitch recording, version (.*)$/.exec(title)?.[1]
    if (other !== undefined) throw otherVersion(other)
  }
  throw notOurs('it is another trace')
}

function record(blocks: Blocks, kind: number): unknown {
  if (!blocks.next() || blocks.kind !== kind) throw notOurs('its beginning is not whole')
  return jsonOf(blocks)
}

function readCheckpoint(blocks: Blocks): Checkpoint {
  const pieces: Uint8Array[] = []
  for (let isLast = false; !isLast; ) {
    if (!blocks.next() || blocks.kind !== Kind.CHECKPOINT) throw notOurs('its beginning is not whole')
    if (blocks.to === blocks.from) throw damaged(blocks.offset, 'a record is too short')
    isLast = blocks.bytes[blocks.from] === 1
    pieces.push(blocks.bytes.slice(blocks.from + 1, blocks.to))
  }
  try {
    return decodePlain(Buffer.concat(pieces)) as Checkpoint
  } catch {
    throw damaged(blocks.offset, 'the checkpoint is no JSON')
  }
}

/** What the present record says. Throws TRACE_INVALID. */
export function jsonOf({ bytes, from, to, offset }: Blocks): unknown {
  try {
    return decodePlain(bytes.subarray(from, to))
  } catch {
    throw damaged(offset, 'a record is no JSON')
  }
}

function checked(head: RecordingHead): RecordingHead {
  if (typeof head?.options?.fdb !== 'object') throw notOurs('its beginning is not whole')
  checkSizes(head.options)
  return head
}

function checkSizes({ fdb, armed }: NetworkOptions): void {
  const isFit = (value: number, most: number) => Number.isInteger(value) && value > 0 && value <= most
  if (!isFit(fdb.capacity, 1 << 20)) throw damaged(0, 'the capacity of its FDB')
  if (armed !== undefined && !(isFit(armed.frames, 1 << 20) && isFit(armed.bytes, 1 << 28)))
    throw damaged(0, 'the bounds of armed copies')
}

function notOurs(why: string): SnapswitchError {
  return new SnapswitchError(
    'TRACE_INVALID',
    `this is no recording of a switch: ${why}`,
    '`snapswitch record` makes one. Wireshark opens other captures, and `snapswitch play` sends them.',
  )
}

function otherVersion(version: string): SnapswitchError {
  return new SnapswitchError(
    'RECORDING_VERSION',
    `this recording is of version ${version}, and this program reads version ${VERSION}`,
    'Replay it with the program that has made it, or record the run once more.',
  )
}
