// What is in front of the payload of a GSO frame. A virtio-net header says what to cut (gso_type, gso_size) and where
// the innermost checksum begins, but not that TCP or UDP segments may lie in a tunnel: the kernel writes a header for
// VXLAN, Geneve, GRE, IPIP or SIT as if the frame were plain TCP (include/linux/virtio_net.h), and refuses it when it
// comes back. So the headers are followed from the outside inward. Tunnels over UDP need not be known: where the
// innermost IP header begins, its own length fields tell.

import { ETHERNET_HEADER_LENGTH, EtherType } from './ethernet.js'
import type { Frame } from './frame.js'
import { isPlainGso } from './plain-gso.js'
import { Vnet } from './vnet-header.js'

export const Protocol = { IPV4: 4, TCP: 6, UDP: 17, IPV6: 41, GRE: 47, MPLS: 137 } as const

/** Headers with fields that depend on what follows: lengths, checksums. */
export const Layer = { IPV4: 1, IPV6: 2, UDP: 3, GRE: 4, PPPOE: 5 } as const

const TRANSPARENT_BRIDGING = 0x6558
const MPLS_UNICAST = 0x8847
const MPLS_MULTICAST = 0x8848
const PPPOE_SESSION = 0x8864
const NSH = 0x894f

/** RFC 8300, by its own numbers. */
const NSH_NEXT = [0, EtherType.IPV4, EtherType.IPV6, TRANSPARENT_BRIDGING] as const

const IPV4_HEADER = 20
const IPV6_HEADER = 40
const TCP_HEADER = 20
export const UDP_HEADER = 8
const PPPOE_HEADER = 8
/** VXLAN, also as Linux first had it, and Geneve. */
const TUNNEL_PORTS: readonly number[] = [4789, 8472, 6081]
/** More layers than the kernel nests, and headers longer than any sender's. */
const MAX_LAYERS = 12
const MAX_HEADERS = 1024
const NOT_FOUND = -1

/** From the frame's start: what is behind Ethernet and VLAN tags, its type in the two bytes before; 0: nothing is. */
export function networkHeaderAt(from: DataView, start: number, length: number): number {
  let at = ETHERNET_HEADER_LENGTH
  if (length < at + 20) return 0
  let type = from.getUint16(start + at - 2)
  while ((type === EtherType.VLAN || type === EtherType.SERVICE_VLAN) && at + 24 <= length) {
    at += 4
    type = from.getUint16(start + at - 2)
  }
  return at
}

export class GsoHeaders {
  /** The layers in front of the transport header, outermost first: what they are, and where, from the frame's start. */
  readonly kinds = new Uint8Array(MAX_LAYERS)
  readonly offsets = new Int32Array(MAX_LAYERS)
  count = 0
  /** Protocol.TCP or UDP: what is to be cut. */
  protocol = 0
  /** Where its header begins, and where the payload does. */
  transport = 0
  payload = 0
  /** Payload bytes per segment. */
  size = 0
  /**
   * In a tunnel over UDP and one IP header: where what that UDP header announces begins, and the first layer in there;
   * else 0.
   */
  tunnel = 0
  outer = 0
  /** The transport checksum has been left to whoever sends the frame. */
  unfinished = false

  #bytes: Uint8Array = new Uint8Array(0)
  #start = 0
  #length = 0
  /** Nothing in front of the transport header but Ethernet, VLAN tags and one IP header. */
  #plain = true
  /** Where the walk is: an EtherType or IP protocol, and the header that it announces. */
  #next = 0
  #at = 0

  /** True when `frame` is a GSO frame that its virtio-net header does not describe; then the fields say what it is. */
  read(frame: Frame): boolean {
    const { bytes, vnet } = frame
    const type = bytes[vnet + Vnet.GSO_TYPE] & ~Vnet.ECN
    if (type === 0 || isPlainGso(frame)) return false
    this.protocol = type === Vnet.TCPV4 || type === Vnet.TCPV6 ? Protocol.TCP : type === Vnet.UDP_L4 ? Protocol.UDP : 0
    this.size = bytes[vnet + Vnet.GSO_SIZE] | (bytes[vnet + Vnet.GSO_SIZE + 1] << 8)
    if (this.protocol === 0 || this.size === 0) return false
    // One of the two, where a kernel has made the frame: its checksum is unfinished, or was checked before GRO put it
    // together.
    if ((bytes[vnet + Vnet.FLAGS] & (Vnet.NEEDS_CSUM | Vnet.DATA_VALID)) === 0) return false
    this.unfinished = (bytes[vnet + Vnet.FLAGS] & Vnet.NEEDS_CSUM) !== 0
    this.transport = this.unfinished
      ? bytes[vnet + Vnet.CSUM_START] | (bytes[vnet + Vnet.CSUM_START + 1] << 8)
      : NOT_FOUND
    this.#bytes = bytes
    this.#start = frame.start
    this.#length = Math.min(frame.length, bytes.length - frame.start)
    return this.#follow() && this.#measure() && (!this.#plain || !this.unfinished)
  }

  /**
   * The same for UDP datagrams of `size` bytes each, which no header describes: whose kernel does not know
   * VIRTIO_NET_HDR_GSO_UDP_L4. False for those in a tunnel.
   */
  readDatagrams(frame: Frame, size: number, unfinished: boolean): boolean {
    this.protocol = Protocol.UDP
    this.size = size
    this.unfinished = unfinished
    this.transport = NOT_FOUND
    this.#bytes = frame.bytes
    this.#start = frame.start
    this.#length = Math.min(frame.length, frame.bytes.length - frame.start)
    if (size === 0 || !this.#follow() || !this.#measure() || !this.#plain) return false
    // Their ports are all there is to tell the datagrams of a tunnel from such as hold its segments.
    return !TUNNEL_PORTS.includes(this.#word(this.transport + 2))
  }

  #byte(at: number): number {
    return this.#bytes[this.#start + at]
  }

  #word(at: number): number {
    return (this.#bytes[this.#start + at] << 8) | this.#bytes[this.#start + at + 1]
  }

  #push(kind: number, at: number): boolean {
    if (this.count === MAX_LAYERS) return false
    this.kinds[this.count] = kind
    this.offsets[this.count++] = at
    return true
  }

  /** From the Ethernet header to the transport header; false when it is not reached. */
  #follow(): boolean {
    this.count = 0
    this.tunnel = 0
    this.outer = 0
    this.#plain = true
    if (this.transport > MAX_HEADERS || this.#length < ETHERNET_HEADER_LENGTH + IPV4_HEADER) return false
    this.#next = this.#word(12)
    this.#at = ETHERNET_HEADER_LENGTH
    // Each step moves on by a header at least.
    while (this.#at <= MAX_HEADERS && this.#at + IPV4_HEADER <= this.#length) {
      if (this.#next !== EtherType.IPV4 && this.#next !== EtherType.IPV6) {
        if (!this.#linkStep()) return false
        continue
      }
      const ip = this.#at
      if (!this.#network()) return false
      const protocol = this.#next as number
      if (this.transport === NOT_FOUND && protocol === this.protocol) this.transport = this.#at
      if (this.#at === this.transport) return protocol === this.protocol
      if (this.transport !== NOT_FOUND && this.#at > this.transport) return false
      if (protocol === Protocol.UDP) return this.#inUdp()
      this.#plain = false
      if (!this.#enter(ip)) return false
    }
    return false
  }

  /** Past a header between Ethernet and IP. */
  #linkStep(): boolean {
    switch (this.#next) {
      case EtherType.VLAN:
      case EtherType.SERVICE_VLAN:
        return this.#ether(2, 4)
      case TRANSPARENT_BRIDGING:
        this.#plain = false
        return this.#ether(12, ETHERNET_HEADER_LENGTH)
      case MPLS_UNICAST:
      case MPLS_MULTICAST:
        return this.#labels()
      case PPPOE_SESSION: {
        this.#plain = false
        const protocol = this.#word(this.#at + 6)
        this.#next = protocol === 0x21 ? EtherType.IPV4 : protocol === 0x57 ? EtherType.IPV6 : 0
        this.#at += PPPOE_HEADER
        return this.#push(Layer.PPPOE, this.#at - PPPOE_HEADER)
      }
      case NSH: {
        // RFC 8300: length in words of 4 bytes, next protocol.
        this.#plain = false
        const words = this.#byte(this.#at + 1) & 0x3f
        this.#next = NSH_NEXT[this.#byte(this.#at + 3)] ?? 0
        this.#at += words * 4
        return words >= 2
      }
      default:
        return false
    }
  }

  #ether(typeAt: number, length: number): boolean {
    this.#next = this.#word(this.#at + typeAt)
    this.#at += length
    return true
  }

  /** Past a stack of MPLS labels. */
  #labels(): boolean {
    this.#plain = false
    while (this.#at + 5 <= this.#length && this.#at <= MAX_HEADERS) {
      const last = (this.#byte(this.#at + 2) & 1) === 1
      this.#at += 4
      if (!last) continue
      const version = this.#byte(this.#at) >>> 4
      this.#next = version === 4 ? EtherType.IPV4 : version === 6 ? EtherType.IPV6 : 0
      return this.#next !== 0
    }
    return false
  }

  /** Past an IP header; `next` is then its protocol. */
  #network(): boolean {
    const ip = this.#at
    if (this.#next === EtherType.IPV4) {
      const header = (this.#byte(ip) & 0xf) * 4
      if (this.#byte(ip) >>> 4 !== 4 || header < IPV4_HEADER) return false
      // A fragment has no transport header of its own.
      if ((this.#word(ip + 6) & 0x3fff) !== 0) return false
      this.#next = this.#byte(ip + 9)
      this.#at = ip + header
      return this.#push(Layer.IPV4, ip)
    }
    if (this.#byte(ip) >>> 4 !== 6 || ip + IPV6_HEADER > this.#length) return false
    this.#next = this.#byte(ip + 6)
    this.#at = ip + IPV6_HEADER
    this.#options()
    return this.#push(Layer.IPV6, ip)
  }

  /** Past IPv6 hop-by-hop options, routing headers and destination options. */
  #options(): void {
    while ((this.#next === 0 || this.#next === 43 || this.#next === 60) && this.#at + 8 <= this.#length) {
      this.#next = this.#byte(this.#at)
      this.#at += (this.#byte(this.#at + 1) + 1) * 8
    }
  }

  /** Into a tunnel that runs over IP itself. */
  #enter(ip: number): boolean {
    switch (this.#next) {
      case Protocol.IPV4:
        this.#next = EtherType.IPV4
        return true
      case Protocol.IPV6:
        this.#next = EtherType.IPV6
        return true
      case Protocol.MPLS:
        return this.#labels()
      case Protocol.GRE:
        return this.#gre(ip)
      default:
        return false
    }
  }

  /** RFC 2784 and 2890: version 0, without routing. */
  #gre(ip: number): boolean {
    const at = this.#at
    const flags = this.#word(at)
    if (at <= ip || (flags & 0x4007) !== 0) return false
    const length = greLength(flags)
    this.#next = this.#word(at + 2)
    this.#at = at + length
    return this.#push(Layer.GRE, at)
  }

  /** Into a tunnel over UDP, whatever it is. */
  #inUdp(): boolean {
    const udp = this.#at
    const after = udp + UDP_HEADER
    if (this.transport === NOT_FOUND || !this.#push(Layer.UDP, udp)) return false
    if (this.#plain) {
      this.tunnel = after
      this.outer = this.count
    }
    this.#plain = false
    const inner = this.#innermost(after)
    if (inner === NOT_FOUND) return false
    // GRE over UDP (RFC 8086), for its checksum's sake.
    const flags = this.#word(after)
    const gap = inner - after - greLength(flags)
    if ((flags & 0xc007) === 0x8000 && (gap === 0 || gap === ETHERNET_HEADER_LENGTH)) this.#push(Layer.GRE, after)
    // Checksums are of 16-bit words: what comes in between must be an even number of bytes.
    if (((this.transport - udp) & 1) !== 0) return false
    return this.#push(this.#byte(inner) >>> 4 === 4 ? Layer.IPV4 : Layer.IPV6, inner)
  }

  /** Where the IP header begins whose transport header is the one we know, from `from` on. */
  #innermost(from: number): number {
    const { transport } = this
    const length = this.#length
    for (let at = transport - IPV4_HEADER; at >= Math.max(from, transport - 60); at -= 4) {
      if (this.#byte(at) !== (0x40 | ((transport - at) >>> 2))) continue
      if (this.#byte(at + 9) === this.protocol && this.#word(at + 2) === length - at) return at
    }
    for (let at = transport - IPV6_HEADER; at >= from; at -= 8) {
      if (this.#byte(at) >>> 4 !== 6 || this.#word(at + 4) !== length - at - IPV6_HEADER) continue
      this.#next = this.#byte(at + 6)
      this.#at = at + IPV6_HEADER
      this.#options()
      if (this.#at === transport && this.#next === this.protocol) return at
    }
    return NOT_FOUND
  }

  /** The transport header must be there, with something behind it. */
  #measure(): boolean {
    const { transport } = this
    const length = this.#length
    const least = this.protocol === Protocol.TCP ? TCP_HEADER : UDP_HEADER
    if (transport + least > length) return false
    const header = this.protocol === Protocol.TCP ? (this.#byte(transport + 12) >>> 4) * 4 : UDP_HEADER
    this.payload = transport + header
    return header >= least && this.payload < length
  }
}

/** Checksum, key and sequence number take 4 bytes each. */
function greLength(flags: number): number {
  return 4 + ((flags & 0x8000) >>> 13) + ((flags & 0x2000) >>> 11) + ((flags & 0x1000) >>> 10)
}
