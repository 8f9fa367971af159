// The frames that a snapshot has held on one host, as a pcapng file: their first bytes, with what captures say of such
// frames in the comment. For people: nothing is restored from it.

import { readPcapng } from './pcapng-reader.js'
import { PcapngWriter } from './pcapng-writer.js'

export interface HeldFrameTrace {
  readonly port: string
  readonly vm: string
  readonly color: number
  /** Of the port. */
  readonly epoch: number
  readonly timeNs: bigint
  /** On the wire. */
  readonly length: number
  /** The first bytes. */
  readonly head: Uint8Array
}

const TITLE = 'frames that a snapshot has held, version 1'
const COMMENT = /^held, color (\d{1,10}), epoch (\d{1,10})$/
const VM = /^vm=(.+)$/

export function writeHeld(frames: readonly HeldFrameTrace[]): Uint8Array {
  const writer = new PcapngWriter({ application: 'snapswitch', comment: TITLE })
  const interfaces = new Map<string, number>()
  for (const { port, vm, color, epoch, timeNs, length, head } of frames) {
    const key = `${port} ${vm}`
    let id = interfaces.get(key)
    if (id === undefined) {
      id = writer.interface({ name: port, description: `vm=${vm}` })
      interfaces.set(key, id)
    }
    const comment = `held, color ${color}, epoch ${epoch}`
    writer.packet(id, timeNs, head, { direction: 'outbound', comment, originalLength: Math.max(length, head.length) })
  }
  return writer.take()
}

/** @throws SnapswitchError TRACE_INVALID */
export function readHeld(file: Uint8Array): HeldFrameTrace[] {
  const frames: HeldFrameTrace[] = []
  for (const block of readPcapng(file)) {
    if (block.kind !== 'packet') continue
    const [, color, epoch] = COMMENT.exec(block.comments[0] ?? '') ?? []
    if (color === undefined) continue
    frames.push({
      port: block.interface.name ?? '',
      vm: VM.exec(block.interface.description ?? '')?.[1] ?? '',
      color: Number(color),
      epoch: Number(epoch),
      timeNs: block.timeNs ?? 0n,
      length: block.originalLength,
      head: block.bytes,
    })
  }
  return frames
}
