// The words of the pcapng format (draft-ietf-opsawg-pcapng) that writer and reader share: block types, option codes,
// and the shape of a block once it is read.

export const BLOCK = {
  section: 0x0a0d0d0a,
  interface: 0x00000001,
  /** Of before 2009; replaced by the enhanced packet block. */
  obsoletePacket: 0x00000002,
  simplePacket: 0x00000003,
  nameResolution: 0x00000004,
  interfaceStatistics: 0x00000005,
  enhancedPacket: 0x00000006,
  decryptionSecrets: 0x0000000a,
  custom: 0x00000bad,
  customNotCopied: 0x40000bad,
  /**
   * Our own records: the highest bit marks types for local use, the rest is "ssw" in ASCII. Readers skip what they do
   * not know. The format's custom block (0xbad) would be the better-mannered choice, but Wireshark 4 lists each such
   * block as a packet, and editcap then cannot convert the file to classic pcap; both were seen with version 4.0.
   */
  local: 0x80737377,
} as const

/** Reads the same in either byte order; what follows it in the header block tells which one the section uses. */
export const BYTE_ORDER_MAGIC = 0x1a2b3c4d

export const OPTION = {
  end: 0,
  comment: 1,
  sectionHardware: 2,
  sectionSystem: 3,
  sectionApplication: 4,
  interfaceName: 2,
  interfaceDescription: 3,
  interfaceMac: 6,
  interfaceSpeed: 8,
  interfaceTimeResolution: 9,
  interfaceFilter: 11,
  interfaceSystem: 12,
  interfaceFcsLength: 13,
  interfaceTimeOffset: 14,
  interfaceHardware: 15,
  packetFlags: 2,
  packetDropCount: 4,
  packetId: 5,
  statisticsStart: 2,
  statisticsEnd: 3,
  statisticsReceived: 4,
  statisticsDropped: 5,
} as const

/** Option codes of this bit are for local use: no two programs agree on them. */
export const LOCAL_OPTION = 0x8000

/** Custom options: an enterprise number, then text or bytes; the last two must not be copied to other files. */
export const CUSTOM_OPTIONS: readonly number[] = [2988, 2989, 19372, 19373]

/** Wireshark's limits (wiretap/pcapng.c, wiretap/wtap.h): no good file has more. */
export const BLOCK_LIMIT = 16 * 1024 * 1024
export const PACKET_LIMIT = 262_144

/** LINKTYPE_ETHERNET, https://www.tcpdump.org/linktypes.html */
export const LINKTYPE_ETHERNET = 1

/** Seen from the switch: `inbound` came from the port's device, `outbound` was sent to it. */
export type Direction = 'inbound' | 'outbound' | 'unknown'

export const DIRECTIONS: readonly Direction[] = ['unknown', 'inbound', 'outbound', 'unknown']

/** An option as it stands in the file. */
export interface TraceOption {
  readonly code: number
  /** Of the four custom codes: whose it is (IANA's private enterprise number); else null. */
  readonly enterprise: number | null
  /** Without the enterprise number; a view. */
  readonly value: Uint8Array
}

/** Where packets of a trace come from. A classic pcap file has one, without a name. */
export interface InterfaceBlock {
  readonly kind: 'interface'
  readonly offset: number
  /** Counted from 0 within its section. */
  readonly id: number
  readonly linkType: number
  /** Longest packet that is kept, in bytes; 0 means no limit. */
  readonly snapLength: number
  readonly name: string | null
  readonly description: string | null
  /** Bytes of frame check sequence at the end of each frame; 0 where nothing is said. */
  readonly fcsLength: number
  readonly comments: readonly string[]
  /** All of them, those above included, in file order. */
  readonly options: readonly TraceOption[]
}

/** A section starts; blocks after it are in its byte order, and interfaces are counted anew. */
export interface SectionBlock {
  readonly kind: 'section'
  readonly offset: number
  readonly littleEndian: boolean
  readonly application: string | null
  readonly comments: readonly string[]
  /** All of them, those above included, in file order. */
  readonly options: readonly TraceOption[]
}

export interface PacketBlock {
  readonly kind: 'packet'
  readonly offset: number
  readonly interface: InterfaceBlock
  /** Nanoseconds since 1970-01-01 UTC; null in a simple packet block, which has no time. */
  readonly timeNs: bigint | null
  readonly direction: Direction
  readonly originalLength: number
  /** A view into the bytes that were read, not a copy. */
  readonly bytes: Uint8Array
  /** The same for the same packet seen at several interfaces; null when not given. */
  readonly packetId: bigint | null
  readonly comments: readonly string[]
}

/** What an interface counted up to a moment; a count is null where it is not given. */
export interface StatisticsBlock {
  readonly kind: 'statistics'
  readonly offset: number
  readonly interface: InterfaceBlock
  readonly received: bigint | null
  readonly dropped: bigint | null
  readonly comments: readonly string[]
  readonly options: readonly TraceOption[]
}

/**
 * A block that this reader does not interpret: one of ours (records.ts), names of addresses, secrets, a custom block,
 * or one of a type that is not known.
 */
export interface OtherBlock {
  readonly kind: 'other'
  readonly offset: number
  readonly type: number
  /** All that is between the two length fields, as a view. */
  readonly content: Uint8Array
}

export type Block = SectionBlock | InterfaceBlock | PacketBlock | StatisticsBlock | OtherBlock

/** Bytes that fill up to the next multiple of four. */
export function paddingOf(length: number): number {
  return -length & 3
}
