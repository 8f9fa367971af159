// Reads a trace that is in memory as a whole, block by block, as objects: for channel states and events of a snapshot.
// For big files and pipes: cursor.ts, source.ts.

import { SnapswitchError } from '../errors/errors.js'
import { TraceCursor } from './cursor.js'
import { damaged } from './input.js'
import type { TracePacket } from './packet.js'
import type { Block, PacketBlock } from './pcapng.js'

/**
 * The blocks of a trace, in file order, lazily. Packet bytes and the contents of other blocks are views into `bytes`.
 * @throws SnapswitchError TRACE_INVALID at the first block that is damaged; blocks before it have been yielded. What is
 *   not supported elsewhere counts as damage here: our own files have nothing of the kind.
 */
export function* readPcapng(bytes: Uint8Array): Generator<Block, void, undefined> {
  const cursor = new TraceCursor()
  cursor.push(bytes)
  for (let kind = nextOf(cursor); kind !== null; kind = nextOf(cursor)) {
    const { block } = cursor
    if (kind === 'packet') yield packetBlock(cursor.packet)
    else if (block !== null) yield block
  }
  cursor.end()
}

function nextOf(cursor: TraceCursor): Block['kind'] | null {
  try {
    return cursor.next()
  } catch (error) {
    if (error instanceof SnapswitchError && error.code === 'TRACE_UNSUPPORTED') {
      throw damaged(cursor.offset, error.message, error)
    }
    throw error
  }
}

function packetBlock(packet: TracePacket): PacketBlock {
  return {
    kind: 'packet',
    offset: packet.offset,
    interface: packet.interface,
    timeNs: packet.timeNs,
    direction: packet.direction,
    originalLength: packet.originalLength,
    bytes: packet.bytes,
    packetId: packet.packetId,
    comments: packet.comments,
  }
}
