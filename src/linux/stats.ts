// A device's counters, fast: RTM_GETSTATS with only IFLA_STATS_LINK_64, one send and one receive, no allocation but the
// result. Measured: 3 to 6 microseconds a read, while nobody holds rtnl. In a cut transmit-counters.ts is asked, and
// this where it has no files.
//
// What the counters of a TAP mean, measured on Linux 6.18; test/linux/tap.test.ts checks each on the running kernel:
// - txPackets and txBytes count what the file side's reader took, at the read; what lies in the queue is in no counter.
// - A full queue (txqueuelen frames, 1000 by default, or up to 15 fewer: ptr_ring frees what was read in batches)
//   drops, and txDropped counts it at once. The sender gets ENOBUFS with PACKET_QDISC_BYPASS, and no error without.
// - So, frame for frame: sent = txPackets + txDropped + queued, over all senders. What the host's own stack sends is
//   among them (ARP, MLD, solicitations): keep it quiet (ingress.ts) or the sum does not come out.
// - A GSO frame counts once when the reader can take it whole (TUNSETOFFLOAD with TSO), else it is cut into segments
//   before the queue, each counting for itself. A guest changes that when its driver starts (firmware takes none): a
//   sum over a guest's whole life drifts, one over the milliseconds of a cut does not.
// - With PACKET_QDISC_BYPASS a GSO frame that would have to be cut is dropped instead (__dev_direct_xmit in
//   net/core/dev.c refuses a list), counted as one in txDropped, ENOBUFS for the sender. Do not bypass toward a TAP.
// - A QEMU whose vCPUs are stopped still takes one frame (test/linux/tap-qemu.test.ts): it reads it, finds the NIC not
//   receiving, and keeps it in its own queue (net/queue.c), counted in txPackets, in no image. It gets it on resume,
//   but drops it when it is stopped once more. So with anything unread at a pause, one frame more is unread than
//   counted.
// - A frame that the ingress filter of ingress.ts drops is counted in rxPackets and not in rxDropped.

import { SnapswitchError } from '../errors/errors.js'
import { Errno, errno, libc, syscallError } from './libc.js'
import { LITTLE_ENDIAN, NetlinkSocket } from './netlink.js'

const RTM_NEWSTATS = 92
const RTM_GETSTATS = 94
const NLM_F_REQUEST = 1
const NLMSG_ERROR = 2
const HEADER = 16
/** struct if_stats_msg (linux/if_link.h). */
const STATS_HEADER = 12
/** Bit of IFLA_STATS_LINK_64 (attribute 1) in the filter mask. */
const FILTER_LINK_64 = 1
/** Where struct rtnl_link_stats64 starts in the answer: it is the only attribute, the filter asked for no other. */
const COUNTERS = HEADER + STATS_HEADER + 4
const WHOLE_ANSWER = COUNTERS + 8 * 8
const FOUR_GIB = 2 ** 32
const ATTEMPTS = 16

/** From the device's point of view: on a TAP, `tx` is toward the program that holds its other side (the guest). */
export interface LinkCounters {
  readonly rxPackets: number
  readonly txPackets: number
  readonly rxBytes: number
  readonly txBytes: number
  readonly rxErrors: number
  readonly txErrors: number
  readonly rxDropped: number
  readonly txDropped: number
}

export class LinkCounterReader {
  readonly #socket = new NetlinkSocket()
  readonly #request = new Uint8Array(HEADER + STATS_HEADER)
  readonly #requestView = new DataView(this.#request.buffer)
  readonly #answer = new Uint8Array(4096)
  readonly #answerView = new DataView(this.#answer.buffer)
  #sequence = 0

  constructor() {
    const view = this.#requestView
    view.setUint32(0, this.#request.length, LITTLE_ENDIAN)
    view.setUint16(4, RTM_GETSTATS, LITTLE_ENDIAN)
    view.setUint16(6, NLM_F_REQUEST, LITTLE_ENDIAN)
    view.setUint32(HEADER + 8, FILTER_LINK_64, LITTLE_ENDIAN)
  }

  /**
   * @throws SnapswitchError DEVICE_MISSING when the device is gone, DEADLINE when the kernel does not answer in a
   * second
   */
  read(index: number): LinkCounters {
    this.#sequence = (this.#sequence + 1) >>> 0
    this.#requestView.setUint32(8, this.#sequence, LITTLE_ENDIAN)
    this.#requestView.setInt32(HEADER + 4, index, LITTLE_ENDIAN)
    const { send, recv } = libc()
    if (send(this.#socket.fd, this.#request, this.#request.length, 0) < 0) throw syscallError('read link counters')
    const view = this.#answerView
    for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
      const length = recv(this.#socket.fd, this.#answer, this.#answer.length, 0)
      if (length < 0) {
        const value = errno()
        if (value === Errno.EINTR) continue
        if (value === Errno.EAGAIN) break
        throw syscallError('read link counters', value)
      }
      // An answer to an earlier question that ran out of time.
      if (length < HEADER + 4 || view.getUint32(8, LITTLE_ENDIAN) !== this.#sequence) continue
      const type = view.getUint16(4, LITTLE_ENDIAN)
      if (type === NLMSG_ERROR) {
        throw syscallError(`read the counters of network device ${index}`, -view.getInt32(HEADER, LITTLE_ENDIAN))
      }
      if (type === RTM_NEWSTATS && length >= WHOLE_ANSWER) return this.#counters()
    }
    throw new SnapswitchError(
      'DEADLINE',
      `the kernel did not give the counters of network device ${index} within a second`,
      'Another program holds the kernel’s network configuration lock; try again when it is done.',
    )
  }

  close(): void {
    this.#socket.close()
  }

  #counters(): LinkCounters {
    return {
      rxPackets: this.#u64(0),
      txPackets: this.#u64(1),
      rxBytes: this.#u64(2),
      txBytes: this.#u64(3),
      rxErrors: this.#u64(4),
      txErrors: this.#u64(5),
      rxDropped: this.#u64(6),
      txDropped: this.#u64(7),
    }
  }

  /** Exact up to 2^53: a frame counter does not get there. */
  #u64(position: number): number {
    const at = COUNTERS + position * 8
    const low = this.#answerView.getUint32(LITTLE_ENDIAN ? at : at + 4, LITTLE_ENDIAN)
    const high = this.#answerView.getUint32(LITTLE_ENDIAN ? at + 4 : at, LITTLE_ENDIAN)
    return high * FOUR_GIB + low
  }
}
