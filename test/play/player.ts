// Runs `snapswitch play` in a namespace, and captures what comes of it with tcpdump, frame by frame.

import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { PcapngWriter } from '../../src/trace/pcapng-writer.js'
import { openTrace } from '../../src/trace/source.js'
import { type CommandResult, until } from '../lab/command.js'
import { repositoryRoot } from '../lab/repository.js'
import type { Running, World } from '../switch/world.js'

const PROGRAM = join(repositoryRoot(), 'bin', 'snapswitch')

export interface Recorded {
  readonly bytes: Uint8Array
  /** Milliseconds since the first frame. */
  readonly atMs?: number
  /** The interface; `x` unless said. */
  readonly from?: string
  readonly direction?: 'inbound' | 'outbound'
  /** Of a packet that was captured in part. */
  readonly originalLength?: number
}

/** A capture of these frames, a millisecond apart unless said; returns its path. */
export function captureFile(world: World, name: string, frames: readonly Recorded[]): string {
  const writer = new PcapngWriter()
  const ids = new Map<string, number>()
  for (const [i, { bytes, atMs = i, from = 'x', direction, originalLength }] of frames.entries()) {
    const id = ids.get(from) ?? writer.interface({ name: from })
    ids.set(from, id)
    writer.packet(id, 1_790_000_000_000_000_000n + BigInt(Math.round(atMs * 1e6)), bytes, {
      ...(direction === undefined ? {} : { direction }),
      ...(originalLength === undefined ? {} : { originalLength }),
    })
  }
  const path = join(world.directory, name)
  writeFileSync(path, writer.take())
  return path
}

export function play(world: World, label: string, ...args: string[]): Promise<CommandResult> {
  return world.try(label, PROGRAM, 'play', ...args)
}

export function startPlay(world: World, label: string, ...args: string[]): Promise<Running> {
  return world.start(label, PROGRAM, 'play', ...args)
}

/** Numbered, of an EtherType of the player's tests, so that a filter finds them. */
export const FILTER = ['ether', 'proto', '0x88b6']

export function numbered(id: number, length = 60, tag: readonly number[] = []): Uint8Array {
  const head = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, ...tag, 0x88, 0xb6, id >> 8, id & 0xff]
  return Uint8Array.from({ length: Math.max(head.length, length) }, (_, i) => head[i] ?? (id * 7 + i) & 0xff)
}

/**
 * The next `count` frames that come to a device and fit the filter; call the answer after the play. Fewer are given
 * when they have not come for long.
 */
export async function capture(
  world: World,
  label: string,
  device: string,
  count: number,
  filter: readonly string[] = FILTER,
): Promise<() => Promise<Buffer[]>> {
  const path = join(world.directory, `${label}-${device}-${performance.now()}.pcap`)
  // Its buffer has room for so many times the longest frame that it is told of.
  const only = ['-Q', 'in', '-s', '2000', '-B', '16384', '-U', '-c', String(count), '-w', path]
  const running = await world.start(label, 'tcpdump', '--immediate-mode', '-i', device, ...only, ...filter)
  await until('tcpdump', 10_000, () => (running.stderr.includes('listening on') ? true : undefined), 10)
  return async () => {
    let over = false
    void running.closed.then(() => {
      over = true
    })
    await until('the frames', 5000, () => over || undefined, 10).catch(() => undefined)
    await running.stop()
    return framesIn(path)
  }
}

export async function framesIn(path: string): Promise<Buffer[]> {
  const found: Buffer[] = []
  for await (const cursor of openTrace(path)) {
    for (let kind = cursor.next(); kind !== null; kind = cursor.next()) {
      if (kind === 'packet') found.push(Buffer.from(cursor.packet.bytes))
    }
  }
  return found
}
