// Keeps the host's own network stack out of a switch port. A packet socket sees a copy of each frame; the original goes
// on into the host's stack, which would answer guests' ARP for the host's addresses, hear their DHCP and configure IPv6
// on their devices. Here it is dropped right after the packet socket's tap point: __netif_receive_skb_core
// (net/core/dev.c) delivers to ETH_P_ALL packet sockets first, then runs the ingress filters. A classic BPF program of one
// instruction is enough, and needs neither the bpf system call nor the act_gact module. What the host would send by itself
// is stopped by switching IPv6 off on the device (IPv4 sends nothing on a device without an address).

import { SnapswitchError } from '../errors/errors.js'
import type { Link } from './link.js'
import { LITTLE_ENDIAN, NetlinkBody, type NetlinkMessage, NetlinkSocket, NLM, readU32 } from './netlink.js'
import { readSysctl, writeSysctl } from './sysctl.js'

const RTM_NEWQDISC = 36
const RTM_DELQDISC = 37
const RTM_NEWTFILTER = 44
const RTM_DELTFILTER = 45
const RTM_GETTFILTER = 46
const TCA_KIND = 1
const TCA_OPTIONS = 2
const TCA_BPF_OPS_LEN = 4
const TCA_BPF_OPS = 5
const TCA_BPF_FLAGS = 8
const TCA_BPF_FLAG_ACT_DIRECT = 1
const TC_H_CLSACT = 0xfffffff1
const TC_H_CLSACT_HANDLE = 0xffff0000
const TC_H_INGRESS = 0xfffffff2
const ETH_P_ALL_NETWORK_ORDER = LITTLE_ENDIAN ? 0x0300 : 3
/** First of all filters on the device. */
const PRIORITY = 1
/** BPF_RET | BPF_K with TC_ACT_SHOT. */
const DROP_ALL = [{ code: 0x06, jumpTrue: 0, jumpFalse: 0, k: 2 }]

/**
 * The filter's handle says what was there before, so that a daemon which takes over after a kill knows what to undo: "sw",
 * and whether the qdisc under it is ours, and whether IPv6 was on.
 */
const HANDLE = {
  qdiscIsOurs: 0x73770001,
  qdiscWasThere: 0x73770002,
  qdiscIsOursIpv6WasOn: 0x73770005,
  qdiscWasThereIpv6WasOn: 0x73770006,
} as const
type Handle = (typeof HANDLE)[keyof typeof HANDLE]
const QDISC_IS_OURS = 1
const IPV6_WAS_ON = 4

/** A device that the host's stack no longer sees. */
export interface QuietLink {
  readonly index: number
  /** Gives the device back to the host as it was. Harmless when the device is gone, or when called twice. */
  release(): void
}

/**
 * From now on the host's stack neither sees nor answers what enters `link`; packet sockets see every frame as before.
 * Call it before the device is set up: IPv6 talks as soon as it is.
 * @throws SnapswitchError PERMISSION, DEVICE_MISSING, DEVICE_BUSY (another program's filter is in the way), SYSCALL
 */
export function quietLink(link: Link): QuietLink {
  const socket = new NetlinkSocket()
  try {
    const setting = `ipv6/conf/${link.name}/disable_ipv6`
    const ipv6IsOn = readSysctl(setting) === '0'
    const handle = dropIngress(socket, link, ipv6IsOn)
    try {
      if (ipv6IsOn) writeSysctl(setting, '1')
    } catch (thrown) {
      undoIngress(socket, link, handle)
      throw thrown
    }
    let released = false
    return {
      index: link.index,
      release() {
        if (released) return
        released = true
        try {
          undoIngress(socket, link, handle)
          // By name: if the device was renamed or is gone, there is nothing of ours to put back.
          if ((handle & IPV6_WAS_ON) !== 0) writeSysctl(setting, '0')
        } finally {
          socket.close()
        }
      },
    }
  } catch (thrown) {
    socket.close()
    throw thrown
  }
}

function dropIngress(socket: NetlinkSocket, link: Link, ipv6IsOn: boolean): Handle {
  const made = addQdisc(socket, link)
  if (!made) {
    const left = findFilter(socket, link)
    if (left !== null) return left
  }
  const on = ipv6IsOn ? HANDLE.qdiscIsOursIpv6WasOn : HANDLE.qdiscIsOurs
  const handle = made ? on : ipv6IsOn ? HANDLE.qdiscWasThereIpv6WasOn : HANDLE.qdiscWasThere
  try {
    addFilter(socket, link, handle)
  } catch (thrown) {
    if (made) undoIngress(socket, link, handle)
    throw thrown
  }
  return handle
}

/** false: a clsact or ingress qdisc is there already. */
function addQdisc(socket: NetlinkSocket, link: Link): boolean {
  const body = trafficHeader(link.index, TC_H_CLSACT_HANDLE, TC_H_CLSACT, 0).attributeText(TCA_KIND, 'clsact')
  try {
    socket.request(`add an ingress hook to ${link.name}`, RTM_NEWQDISC, NLM.create | NLM.excl, body)
    return true
  } catch (thrown) {
    if (isErrno(thrown, 'EEXIST')) return false
    throw lacking(thrown, 'sch_ingress')
  }
}

function addFilter(socket: NetlinkSocket, link: Link, handle: Handle): void {
  const program = new NetlinkBody()
  for (const { code, jumpTrue, jumpFalse, k } of DROP_ALL) program.u16(code).u8(jumpTrue).u8(jumpFalse).u32(k)
  const body = filterHeader(link.index, handle)
    .attributeText(TCA_KIND, 'bpf')
    .nested(TCA_OPTIONS, (options) =>
      options
        .attributeU16(TCA_BPF_OPS_LEN, DROP_ALL.length)
        .attribute(TCA_BPF_OPS, program.bytes())
        .attributeU32(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT),
    )
  try {
    socket.request(`filter what enters ${link.name}`, RTM_NEWTFILTER, NLM.create | NLM.excl, body)
  } catch (thrown) {
    // A filter of another kind has our priority: the kernel says EINVAL, "Specified filter kind does not match".
    if (!isErrno(thrown, 'EEXIST') && !isErrno(thrown, 'EINVAL')) throw lacking(thrown, 'cls_bpf')
    throw new SnapswitchError(
      'DEVICE_BUSY',
      `${link.name} has an ingress filter of another program in first place`,
      `Remove it (\`tc filter show dev ${link.name} ingress\` shows it) or give it a higher \`pref\`.`,
      thrown,
    )
  }
}

/** Our filter, left by a daemon that was killed. */
function findFilter(socket: NetlinkSocket, link: Link): Handle | null {
  for (const handle of Object.values(HANDLE)) {
    try {
      const body = filterHeader(link.index, handle).attributeText(TCA_KIND, 'bpf')
      const answers = socket.request(`look for a filter on ${link.name}`, RTM_GETTFILTER, 0, body)
      if (answers.some((answer) => answer.type === RTM_NEWTFILTER && handleOf(answer) === handle)) return handle
    } catch (thrown) {
      if (!isErrno(thrown, 'ENOENT') && !isErrno(thrown, 'EINVAL')) throw thrown
    }
  }
  return null
}

function undoIngress(socket: NetlinkSocket, link: Link, handle: Handle): void {
  try {
    if ((handle & QDISC_IS_OURS) !== 0) {
      const body = trafficHeader(link.index, TC_H_CLSACT_HANDLE, TC_H_CLSACT, 0)
      socket.request(`remove the ingress hook of ${link.name}`, RTM_DELQDISC, 0, body)
    } else {
      const body = filterHeader(link.index, handle).attributeText(TCA_KIND, 'bpf')
      socket.request(`remove the filter of ${link.name}`, RTM_DELTFILTER, 0, body)
    }
  } catch (thrown) {
    // Gone already: with its device, or by somebody's hand.
    const gone = thrown instanceof SnapswitchError && thrown.code === 'DEVICE_MISSING'
    if (!gone && !isErrno(thrown, 'ENOENT') && !isErrno(thrown, 'EINVAL')) throw thrown
  }
}

/** struct tcmsg. */
function trafficHeader(index: number, handle: number, parent: number, info: number): NetlinkBody {
  return new NetlinkBody().u8(0).u8(0).u16(0).u32(index).u32(handle).u32(parent).u32(info)
}

function filterHeader(index: number, handle: Handle): NetlinkBody {
  return trafficHeader(index, handle, TC_H_INGRESS, (PRIORITY << 16) | ETH_P_ALL_NETWORK_ORDER)
}

function handleOf(message: NetlinkMessage): number {
  return message.payload.length < 12 ? 0 : readU32(message.payload, 8)
}

/** The kernel answers ENOENT to a qdisc or classifier that it neither has nor can load. */
function lacking(thrown: unknown, module: string): unknown {
  if (!isErrno(thrown, 'ENOENT')) return thrown
  return new SnapswitchError(
    'SYSCALL',
    `this kernel lacks ${module}, so the host cannot be kept out of a switch port`,
    `Load it with \`modprobe ${module}\`; on Debian it comes with the kernel package.`,
    thrown,
  )
}

/** syscallError ends its message with the errno's name. */
function isErrno(thrown: unknown, name: string): boolean {
  return thrown instanceof SnapswitchError && thrown.message.endsWith(`: ${name}`)
}
