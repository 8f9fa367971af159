// A capture's records (stream.ts) as pcapng: an interface per port, direction in the packet's flags, and in its comment
// what became of it, `held, color 8, epoch 7`. Packets that are one frame at several ports have one packet id. Pure.

import { NO_COLOR } from '../frame/frame.js'
import { OPTION } from '../trace/pcapng.js'
import { PcapngWriter, type WrittenOption } from '../trace/pcapng-writer.js'
import { verdicts } from './filter.js'
import {
  type CapturedPort,
  type CaptureHead,
  type CaptureStatistics,
  Direction,
  NO_REASON,
  PacketField,
  PacketFlag,
} from './stream.js'

const NS_PER_MS = 1_000_000n
/** Comments differ by verdict, reason, color and epoch: a handful, around a cut a few more. */
const MOST_COMMENTS = 4096

interface Interface {
  readonly id: number
  /** Packets written. */
  packets: number
  /** Frames lost before what was written here: of files before this one. */
  readonly lostBefore: number
}

/** What a packet's record says besides its bytes. */
export interface PacketWords {
  readonly port: number
  readonly direction: 'in' | 'out'
  readonly verdict: string
  readonly reason: string | null
  readonly color: number
  readonly epoch: number
  readonly flags: number
  readonly gsoSize: number
}

export function packetWords(content: Buffer, reasons: readonly string[]): PacketWords {
  const reason = content[PacketField.REASON]!
  return {
    port: content.readUInt16LE(PacketField.PORT),
    direction: content[PacketField.DIRECTION] === Direction.IN ? 'in' : 'out',
    verdict: verdicts[content[PacketField.VERDICT]!] ?? 'unknown',
    reason: reason === NO_REASON ? null : (reasons[reason] ?? 'unknown'),
    color: content.readInt32LE(PacketField.COLOR),
    epoch: content.readInt32LE(PacketField.EPOCH),
    flags: content[PacketField.FLAGS]!,
    gsoSize: content[PacketField.GSO_TYPE] === 0 ? 0 : content.readUInt16LE(PacketField.GSO_SIZE),
  }
}

/** `held, color 8, epoch 7`; the epoch, the member's own, where it is another one than the color. */
export function inWords({ verdict, reason, color, epoch, flags, gsoSize }: PacketWords): string {
  const words = [reason === null ? verdict : `${verdict}: ${reason}`]
  if ((flags & PacketFlag.RECORDED) !== 0) words.push('in transit, recorded')
  if ((flags & PacketFlag.STRAGGLER) !== 0) words.push('in transit, not recorded')
  words.push(color === NO_COLOR ? 'no color' : `color ${color}`)
  if (color !== NO_COLOR && epoch !== NO_COLOR && epoch !== color) words.push(`epoch ${epoch}`)
  if (gsoSize > 0) words.push(`in segments of ${gsoSize} bytes`)
  return words.join(', ')
}

/** One file, or one stream. */
export class CaptureWriter {
  readonly #head: CaptureHead
  readonly #writer: PcapngWriter
  readonly #interfaces = new Map<number, Interface>()
  readonly #comments = new Map<string, WrittenOption>()
  #lastNs = 0n

  constructor(head: CaptureHead) {
    const { network, host, software, filter } = head
    this.#head = head
    this.#writer = new PcapngWriter({
      application: software,
      comment: `network ${network} at host ${host}${filter === '' ? '' : `, filter: ${filter}`}`,
    })
  }

  get pending(): number {
    return this.#writer.pending
  }

  take(): Uint8Array {
    return this.#writer.take()
  }

  /** A port as it is from here on; another interface than the port that had this number before. */
  port(number: number, port: CapturedPort, lostBefore = 0): void {
    const { network, filter, snaplen } = this.#head
    const words = [`${port.kind} port of network ${network}`]
    if (port.vm !== null) words.push(`machine ${port.vm}`)
    if (port.peer !== null) words.push(`host ${port.peer}`)
    const id = this.#writer.interface({
      name: nameOf(port),
      description: words.join(', '),
      snapLength: snaplen,
      ...(filter === '' ? {} : { filter }),
    })
    this.#interfaces.set(number, { id, packets: 0, lostBefore })
  }

  /** Of a port that was told before. */
  packet(content: Buffer): void {
    const words = packetWords(content, this.#head.reasons)
    const found = this.#interfaces.get(words.port)
    if (found === undefined) return
    const captured = content.readUInt32LE(PacketField.CAPTURED)
    const ms = content.readDoubleLE(PacketField.TIME)
    const whole = Math.floor(ms)
    this.#lastNs = BigInt(whole) * NS_PER_MS + BigInt(Math.floor((ms - whole) * 1000) * 1000)
    const missing = content.readUInt32LE(PacketField.MISSING)
    const id = content.readDoubleLE(PacketField.ID)
    this.#writer.packet(found.id, this.#lastNs, content.subarray(PacketField.DATA, PacketField.DATA + captured), {
      direction: words.direction === 'in' ? 'inbound' : 'outbound',
      originalLength: content.readUInt32LE(PacketField.LENGTH),
      options: [this.#comment(inWords(words))],
      ...(missing === 0 ? {} : { dropCount: missing }),
      ...(id === 0 ? {} : { packetId: BigInt(id) }),
    })
    found.packets++
  }

  /** The end: what each interface has passed on, and what was lost there. */
  end(statistics: CaptureStatistics): void {
    for (const [number, { id, packets, lostBefore }] of this.#interfaces) {
      const dropped = Math.max(0, (statistics.lostAt[number] ?? 0) - lostBefore)
      this.#writer.statistics(id, this.#lastNs, { received: packets + dropped, dropped })
    }
  }

  #comment(text: string): WrittenOption {
    let option = this.#comments.get(text)
    if (option === undefined) {
      option = { code: OPTION.comment, value: Buffer.from(text) }
      if (this.#comments.size < MOST_COMMENTS) this.#comments.set(text, option)
    }
    return option
  }
}

/** A switch on an uplink's LAN is a port of its own, behind the uplink's. */
export function nameOf({ name, kind, peer }: CapturedPort): string {
  return kind === 'peer' ? `${name}@${peer ?? '?'}` : name
}
