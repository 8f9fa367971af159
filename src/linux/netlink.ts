// A synchronous rtnetlink client: one request, its answers, one deadline. Messages and attributes as in rtnetlink(7)
// and linux/netlink.h. Everything here is in host byte order unless an attribute says otherwise.

import { endianness } from 'node:os'
import { SnapswitchError } from '../errors/errors.js'
import { closedFirst } from './closed-first.js'
import { check, Errno, errno, libc, syscallError } from './libc.js'

const AF_NETLINK = 16
const SOCK_RAW_CLOEXEC = 3 | 0o2000000
/** Protocols (linux/netlink.h): devices, addresses and queueing; packet filters. */
export const NETLINK = { route: 0, netfilter: 12 } as const
const SOL_SOCKET = 1
const SO_RCVTIMEO = 20
const SOL_NETLINK = 270
const NETLINK_CAP_ACK = 10
const NETLINK_EXT_ACK = 11
const NETLINK_GET_STRICT_CHK = 12
const MSG_TRUNC = 0x20
const MSG_DONTWAIT = 0x40

const NLMSG_NOOP = 1
const NLMSG_ERROR = 2
const NLMSG_DONE = 3
const NLMSGERR_ATTR_MSG = 1

/** Request flags (linux/netlink.h). */
export const NLM = {
  request: 1,
  multi: 2,
  ack: 4,
  dumpInterrupted: 0x10,
  dump: 0x300,
  excl: 0x200,
  create: 0x400,
} as const

const HEADER = 16
const ATTRIBUTE_HEADER = 4
const ATTRIBUTE_TYPE_MASK = 0x3fff
const NESTED = 0x8000
/** The kernel builds dump answers of at most 32 KiB (netlink_dump in net/netlink/af_netlink.c). */
const RECEIVE_BUFFER = 64 * 1024
/** rtnetlink answers in microseconds unless the kernel is stuck in its lock. */
const DEADLINE_MS = 1000
const DUMP_ATTEMPTS = 5

/** Netlink is in host byte order, and so is a DataView when told. */
export const LITTLE_ENDIAN = endianness() === 'LE'

export interface NetlinkMessage {
  readonly type: number
  readonly flags: number
  /** After the netlink header; a copy. */
  readonly payload: Uint8Array
}

/** Builds a request's payload: a fixed structure, then attributes. */
export class NetlinkBody {
  #bytes = new Uint8Array(512)
  #view = new DataView(this.#bytes.buffer)
  #length = 0

  u8(value: number): this {
    this.#reserve(1)
    this.#view.setUint8(this.#length, value)
    this.#length += 1
    return this
  }

  u16(value: number): this {
    this.#reserve(2)
    this.#view.setUint16(this.#length, value, LITTLE_ENDIAN)
    this.#length += 2
    return this
  }

  u32(value: number): this {
    this.#reserve(4)
    this.#view.setUint32(this.#length, value, LITTLE_ENDIAN)
    this.#length += 4
    return this
  }

  attribute(type: number, value: Uint8Array): this {
    this.u16(ATTRIBUTE_HEADER + value.length).u16(type)
    this.#reserve(value.length + 3)
    this.#bytes.set(value, this.#length)
    this.#length = align(this.#length + value.length)
    return this
  }

  attributeU8(type: number, value: number): this {
    return this.attribute(type, new Uint8Array([value]))
  }

  attributeU16(type: number, value: number): this {
    return this.attribute(type, new Uint8Array(new Uint16Array([value]).buffer))
  }

  attributeU32(type: number, value: number): this {
    return this.attribute(type, new Uint8Array(new Uint32Array([value]).buffer))
  }

  attributeText(type: number, text: string): this {
    return this.attribute(type, new TextEncoder().encode(`${text}\0`))
  }

  nested(type: number, fill: (body: NetlinkBody) => void): this {
    const inner = new NetlinkBody()
    fill(inner)
    return this.attribute(type | NESTED, inner.bytes())
  }

  bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.#length)
  }

  #reserve(more: number): void {
    if (this.#length + more <= this.#bytes.length) return
    const grown = new Uint8Array((this.#length + more) * 2)
    grown.set(this.#bytes)
    this.#bytes = grown
    this.#view = new DataView(grown.buffer)
  }
}

/** Attributes from `offset` to the end, the last of a type winning; stops at one whose length makes no sense. */
export function attributes(payload: Uint8Array, offset = 0): Map<number, Uint8Array> {
  return new Map(eachAttribute(payload, offset))
}

/** The same in order, also where a type comes several times. */
export function* eachAttribute(payload: Uint8Array, offset = 0): Generator<[number, Uint8Array]> {
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength)
  let at = offset
  while (at + ATTRIBUTE_HEADER <= payload.length) {
    const length = view.getUint16(at, LITTLE_ENDIAN)
    if (length < ATTRIBUTE_HEADER || at + length > payload.length) break
    const type = view.getUint16(at + 2, LITTLE_ENDIAN) & ATTRIBUTE_TYPE_MASK
    yield [type, payload.subarray(at + ATTRIBUTE_HEADER, at + length)]
    at += align(length)
  }
}

export function readU32(value: Uint8Array, offset = 0): number {
  return new DataView(value.buffer, value.byteOffset, value.byteLength).getUint32(offset, LITTLE_ENDIAN)
}

/** A string attribute, without its terminating zero. */
export function readText(value: Uint8Array): string {
  const end = value.indexOf(0)
  return new TextDecoder().decode(end < 0 ? value : value.subarray(0, end))
}

/** A socket of the network namespace that the calling thread is in when it opens it. */
export class NetlinkSocket {
  readonly #fd: number
  readonly #receive = new Uint8Array(RECEIVE_BUFFER)
  #sequence = 0
  #open = true

  /** `groups`: multicast groups to listen to (RTMGRP_…), 0 for requests only. */
  constructor(groups = 0, protocol: (typeof NETLINK)[keyof typeof NETLINK] = NETLINK.route) {
    const { socket, setsockopt, bind } = libc()
    const fd = check(socket(AF_NETLINK, SOCK_RAW_CLOEXEC, protocol), 'open a netlink socket')
    // Packet filter rules may go with it.
    this.#fd = protocol === NETLINK.netfilter ? closedFirst(fd) : fd
    try {
      const address = new Uint8Array(12)
      const view = new DataView(address.buffer)
      view.setUint16(0, AF_NETLINK, LITTLE_ENDIAN)
      view.setUint32(8, groups, LITTLE_ENDIAN)
      check(bind(this.#fd, address, address.length), 'bind a netlink socket')
      const timeout = new BigInt64Array([BigInt(DEADLINE_MS / 1000), 0n])
      const limit = new Uint8Array(timeout.buffer)
      check(setsockopt(this.#fd, SOL_SOCKET, SO_RCVTIMEO, limit, limit.length), 'limit a netlink wait')
      const on = new Uint8Array(new Int32Array([1]).buffer)
      // Each is a nicety that an older kernel may lack: short acks, reasons in words, checked dump filters.
      for (const option of [NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK]) {
        setsockopt(this.#fd, SOL_NETLINK, option, on, on.length)
      }
    } catch (thrown) {
      this.close()
      throw thrown
    }
  }

  get fd(): number {
    return this.#fd
  }

  /**
   * Sends one request and returns its answers; empty for one that is only acknowledged.
   * @param what the attempt in words, for the error: "set the MTU of tap0"
   * @throws SnapswitchError by the kernel's errno, or DEADLINE when it does not answer within a second
   */
  request(what: string, type: number, flags: number, body: NetlinkBody): NetlinkMessage[] {
    const isDump = (flags & NLM.dump) === NLM.dump
    for (let attempt = 1; ; attempt += 1) {
      this.#send(what, type, flags | NLM.request | (isDump ? 0 : NLM.ack), body.bytes())
      const { messages, interrupted } = this.#collect(what)
      // A dump that was interrupted by a change may have missed an entry (linux/netlink.h, NLM_F_DUMP_INTR).
      if (!interrupted || attempt === DUMP_ATTEMPTS) return messages
    }
  }

  /**
   * Several requests in one datagram, which nfnetlink takes as one transaction; the last one is acknowledged when all
   * is done. Throws what the first failure says; nothing is done then.
   */
  batch(
    what: string,
    requests: readonly { readonly type: number; readonly flags: number; readonly body: NetlinkBody }[],
  ): void {
    const packed = requests.map(({ type, flags, body }) => this.#pack(type, flags | NLM.request, body.bytes()))
    const length = packed.reduce((sum, message) => sum + align(message.length), 0)
    const datagram = new Uint8Array(length)
    let at = 0
    for (const message of packed) {
      datagram.set(message, at)
      at += align(message.length)
    }
    check(libc().send(this.#fd, datagram, datagram.length, 0), what)
    // Answers to others of the batch are errors: only the last one asks for an acknowledgement.
    this.#collect(what, this.#sequence - requests.length + 1)
  }

  /**
   * One datagram of multicast messages that lies ready, without waiting; null when none does.
   * @throws SnapswitchError SYSCALL when the kernel had to drop some (ENOBUFS): look at everything anew
   */
  poll(): NetlinkMessage[] | null {
    const length = libc().recv(this.#fd, this.#receive, RECEIVE_BUFFER, MSG_DONTWAIT | MSG_TRUNC)
    if (length < 0) {
      const value = errno()
      if (value === Errno.EAGAIN || value === Errno.EINTR) return null
      throw syscallError('read network events', value)
    }
    return split(this.#receive.subarray(0, Math.min(length, RECEIVE_BUFFER))).map(({ message }) => message)
  }

  close(): void {
    if (!this.#open) return
    this.#open = false
    libc().close(this.#fd)
  }

  #send(what: string, type: number, flags: number, payload: Uint8Array): void {
    const message = this.#pack(type, flags, payload)
    check(libc().send(this.#fd, message, message.length, 0), what)
  }

  #pack(type: number, flags: number, payload: Uint8Array): Uint8Array {
    this.#sequence = (this.#sequence + 1) >>> 0
    const message = new Uint8Array(HEADER + payload.length)
    const view = new DataView(message.buffer)
    view.setUint32(0, message.length, LITTLE_ENDIAN)
    view.setUint16(4, type, LITTLE_ENDIAN)
    view.setUint16(6, flags, LITTLE_ENDIAN)
    view.setUint32(8, this.#sequence, LITTLE_ENDIAN)
    message.set(payload, HEADER)
    return message
  }

  /** `first`: the earliest request of a batch that this is the answer to. */
  #collect(what: string, first = this.#sequence): { messages: NetlinkMessage[]; interrupted: boolean } {
    const messages: NetlinkMessage[] = []
    let interrupted = false
    const end = performance.now() + DEADLINE_MS
    while (true) {
      const length = libc().recv(this.#fd, this.#receive, RECEIVE_BUFFER, MSG_TRUNC)
      if (length < 0) {
        const value = errno()
        if (value !== Errno.EINTR && value !== Errno.EAGAIN) throw syscallError(what, value)
      }
      if (length > RECEIVE_BUFFER) throw syscallError(what, Errno.EMSGSIZE)
      for (const { sequence, message } of split(this.#receive.subarray(0, Math.max(length, 0)))) {
        // An answer to an earlier request that ran out of time.
        if (sequence < first || sequence > this.#sequence || message.type === NLMSG_NOOP) continue
        interrupted ||= (message.flags & NLM.dumpInterrupted) !== 0
        if (message.type === NLMSG_ERROR) throwUnlessAck(what, message.payload)
        if (message.type === NLMSG_ERROR || message.type === NLMSG_DONE) return { messages, interrupted }
        messages.push(message)
      }
      if (performance.now() > end) {
        throw new SnapswitchError(
          'DEADLINE',
          `${what}: the kernel did not answer within ${DEADLINE_MS} ms`,
          'Another program holds the kernel’s network configuration lock; try again when it is done.',
        )
      }
    }
  }
}

function split(bytes: Uint8Array): { sequence: number; message: NetlinkMessage }[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const found: { sequence: number; message: NetlinkMessage }[] = []
  let at = 0
  while (at + HEADER <= bytes.length) {
    const length = view.getUint32(at, LITTLE_ENDIAN)
    if (length < HEADER || at + length > bytes.length) break
    found.push({
      sequence: view.getUint32(at + 8, LITTLE_ENDIAN),
      message: {
        type: view.getUint16(at + 4, LITTLE_ENDIAN),
        flags: view.getUint16(at + 6, LITTLE_ENDIAN),
        payload: bytes.slice(at + HEADER, at + length),
      },
    })
    at += align(length)
  }
  return found
}

/** struct nlmsgerr: a negative errno (0 for an ack), the request's header, then attributes with the reason in words. */
function throwUnlessAck(what: string, payload: Uint8Array): void {
  const value = -(readU32(payload) | 0)
  if (value === 0) return
  const reason = attributes(payload, 4 + HEADER).get(NLMSGERR_ATTR_MSG)
  throw syscallError(reason === undefined ? what : `${what} (${readText(reason)})`, value)
}

function align(length: number): number {
  return (length + 3) & ~3
}
