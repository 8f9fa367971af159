// The words of the pcapng format (draft-ietf-opsawg-pcapng) that writer and reader share: block types, option codes,
// and the shape of a block once it is read.

export const BLOCK = {
  section: 0x0a0d0d0a,
  interface: 0x00000001,
  simplePacket: 0x00000003,
  enhancedPacket: 0x00000006,
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
  sectionApplication: 4,
  interfaceName: 2,
  interfaceDescription: 3,
  interfaceTimeResolution: 9,
  interfaceTimeOffset: 14,
  packetFlags: 2,
  packetId: 5,
} as const

/** LINKTYPE_ETHERNET, https://www.tcpdump.org/linktypes.html */
export const LINKTYPE_ETHERNET = 1

/** Seen from the switch: `inbound` came from the port's device, `outbound` was sent to it. */
export type Direction = 'inbound' | 'outbound' | 'unknown'

/** A section starts; blocks after it are in its byte order, and interfaces are counted anew. */
export interface SectionBlock {
  readonly kind: 'section'
  readonly offset: number
  readonly littleEndian: boolean
  readonly application: string | null
  readonly comments: readonly string[]
}

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
  readonly comments: readonly string[]
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

/** A block of a type that this reader does not interpret: one of ours (records.ts) or one to skip. */
export interface OtherBlock {
  readonly kind: 'other'
  readonly offset: number
  readonly type: number
  /** All that is between the two length fields, as a view. */
  readonly content: Uint8Array
}

export type Block = SectionBlock | InterfaceBlock | PacketBlock | OtherBlock

/** Bytes that fill up to the next multiple of four. */
export function paddingOf(length: number): number {
  return -length & 3
}
