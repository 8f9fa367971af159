// Keeps the host's own network stack out of a switch port. A packet socket sees a copy of each frame; the original goes
// on into the host's stack, which would answer guests' ARP for the host's addresses, hear their DHCP and configure IPv6
// on their devices. Here it is dropped right after the packet socket's tap point: __netif_receive_skb_core
// (net/core/dev.c) delivers to ETH_P_ALL packet sockets first, then runs the ingress filters. A classic BPF program of
// one instruction is enough, and needs neither the bpf system call nor the act_gact module. What the host would send by
// itself is stopped by switching IPv6 off on the device (IPv4 sends nothing on a device without an address).

import { SnapswitchError } from '../errors/errors.js'
import { unhookEgress } from './egress-hook.js'
import { Errno, hasErrno } from './libc.js'
import type { Links } from './link.js'
import type { Link } from './link-message.js'
import { LITTLE_ENDIAN, NetlinkBody, type NetlinkMessage, type NetlinkSocket, NLM, readU32 } from './netlink.js'
import { DeviceSysctl } from './sysctl.js'

const RTM_NEWQDISC = 36
const RTM_DELQDISC = 37
const RTM_GETQDISC = 38
const RTM_NEWTFILTER = 44
const RTM_DELTFILTER = 45
const RTM_GETTFILTER = 46
const TCA_KIND = 1
const TCA_OPTIONS = 2
const TCA_BPF_OPS_LEN = 4
const TCA_BPF_OPS = 5
const TCA_BPF_FD = 6
const TCA_BPF_NAME = 7
const TCA_BPF_FLAGS = 8
const TCA_BPF_FLAG_ACT_DIRECT = 1
const TC_H_CLSACT = 0xfffffff1
const TC_H_CLSACT_HANDLE = 0xffff0000
const TC_H_INGRESS = 0xfffffff2
const TC_H_EGRESS = 0xfffffff3
const ETH_P_ALL_NETWORK_ORDER = LITTLE_ENDIAN ? 0x0300 : 3
/** First of all filters on the device. */
const PRIORITY = 1
/** BPF_RET | BPF_K with TC_ACT_SHOT. */
const DROP_ALL = [{ code: 0x06, jumpTrue: 0, jumpFalse: 0, k: 2 }]

/**
 * The filter's handle says what was there before, so that a daemon which takes over after a kill knows what to undo:
 * "sw", and whether the qdisc under it is ours, and whether IPv6 was on.
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
  /**
   * Puts back what somebody has undone meanwhile, and says what that was: `sysctl -p` sets IPv6 for all devices, for
   * one. `filters`: looks at the filter, too.
   * @throws SnapswitchError as quietLink
   */
  renew(now: Link, filters?: boolean): ('filter' | 'IPv6')[]
  /**
   * Gives the device back to the host as it was. False, and harmless, when the device is gone, or when called twice.
   */
  release(): boolean
}

/**
 * From now on the host's stack neither sees nor answers what enters `link`; packet sockets see every frame as before.
 * Call it before the device is set up: IPv6 talks as soon as it is. The device is known by its index: it may be
 * renamed, and another one may get its name. `links` must stay open.
 * @throws SnapswitchError PERMISSION, DEVICE_MISSING, DEVICE_BUSY (another program's filter is in the way), SYSCALL
 */
export function quietLink(links: Links, link: Link): QuietLink {
  const { socket } = links
  const { index } = link
  const setting = ipv6Setting(links, index)
  const ipv6IsOn = setting.read() === '0'
  let handle = dropIngress(socket, link, ipv6IsOn)
  let ipv6WasOn = (handle & IPV6_WAS_ON) !== 0
  try {
    if (ipv6IsOn) setting.write('1')
  } catch (thrown) {
    undoIngress(socket, index, handle)
    throw thrown
  }
  let released = false
  return {
    index,
    renew(now, filters = true) {
      const renewed: ('filter' | 'IPv6')[] = []
      if (released) return renewed
      if (filters && !hasFilter(socket, index, handle)) {
        handle = dropIngress(socket, now, ipv6WasOn)
        renewed.push('filter')
      }
      if (now.ipv6 && setting.write('1')) {
        ipv6WasOn = true
        renewed.push('IPv6')
      }
      return renewed
    },
    release() {
      if (released) return false
      released = true
      return giveBack(links, index, handle, ipv6WasOn)
    },
  }
}

/**
 * Devices that a daemon which was killed has kept from the host's stack are given back, but for those that `spares`
 * says yes to. Returns their indexes.
 */
export function releaseLeft(links: Links, spares: (index: number) => boolean): number[] {
  const { socket } = links
  return devicesWithHook(socket).filter((index) => {
    if (spares(index)) return false
    const handle = findFilter(socket, index)
    return handle !== null && giveBack(links, index, handle, (handle & IPV6_WAS_ON) !== 0)
  })
}

/**
 * False where the filter is not there: then it is another device that has the index, or one that was in another
 * namespace, where it lost all settings. The filter goes last, for it says what is to be given back: it takes a while
 * to go, and whoever is killed meanwhile leaves it to the next daemon.
 */
function giveBack(links: Links, index: number, handle: Handle, ipv6WasOn: boolean): boolean {
  const { socket } = links
  try {
    if (!hasFilter(socket, index, handle)) return false
  } catch (thrown) {
    if (!isGone(thrown)) throw thrown
    return false
  }
  try {
    if (ipv6WasOn) ipv6Setting(links, index).write('0')
  } finally {
    undoIngress(socket, index, handle)
  }
  return true
}

/**
 * Has our filter at a device's ingress hook run a program, by its descriptor; null: it drops everything, as at first.
 * No frame enters meanwhile. False: there is no filter of ours.
 * @throws SnapswitchError PERMISSION, SYSCALL
 */
export function setIngressProgram(socket: NetlinkSocket, index: number, program: number | null): boolean {
  const handle = findFilter(socket, index)
  if (handle === null) return false
  const what = `change the filter of network device ${index}`
  socket.request(what, RTM_NEWTFILTER, NLM.create, programBody(index, handle, program))
  return true
}

function programBody(index: number, handle: Handle, program: number | null): NetlinkBody {
  const classic = new NetlinkBody()
  for (const { code, jumpTrue, jumpFalse, k } of DROP_ALL) classic.u16(code).u8(jumpTrue).u8(jumpFalse).u32(k)
  return filterHeader(index, handle)
    .attributeText(TCA_KIND, 'bpf')
    .nested(TCA_OPTIONS, (options) => {
      const started =
        program === null
          ? options.attributeU16(TCA_BPF_OPS_LEN, DROP_ALL.length).attribute(TCA_BPF_OPS, classic.bytes())
          : options.attributeU32(TCA_BPF_FD, program).attributeText(TCA_BPF_NAME, 'snapswitch')
      return started.attributeU32(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT)
    })
}

function ipv6Setting(links: Links, index: number): DeviceSysctl {
  return new DeviceSysctl('ipv6', 'disable_ipv6', () => links.nameOf(index))
}

function dropIngress(socket: NetlinkSocket, link: Link, ipv6WasOn: boolean): Handle {
  const made = addQdisc(socket, link)
  if (!made) {
    const left = findFilter(socket, link.index)
    if (left !== null) {
      // It may run a program yet, which forwards what it knows: from now on that is ours to do.
      setIngressProgram(socket, link.index, null)
      return left
    }
  }
  const on = ipv6WasOn ? HANDLE.qdiscIsOursIpv6WasOn : HANDLE.qdiscIsOurs
  const handle = made ? on : ipv6WasOn ? HANDLE.qdiscWasThereIpv6WasOn : HANDLE.qdiscWasThere
  try {
    addFilter(socket, link, handle)
  } catch (thrown) {
    if (made) removeQdisc(socket, link.index)
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
    if (hasErrno(thrown, Errno.EEXIST)) return false
    throw lacking(thrown, 'sch_ingress')
  }
}

function addFilter(socket: NetlinkSocket, link: Link, handle: Handle): void {
  const body = programBody(link.index, handle, null)
  try {
    socket.request(`filter what enters ${link.name}`, RTM_NEWTFILTER, NLM.create | NLM.excl, body)
  } catch (thrown) {
    // A filter of another kind has our priority: the kernel says EINVAL, "Specified filter kind does not match".
    if (!hasErrno(thrown, Errno.EEXIST, Errno.EINVAL)) throw lacking(thrown, 'cls_bpf')
    throw new SnapswitchError(
      'DEVICE_BUSY',
      `${link.name} has an ingress filter of another program in first place`,
      `Remove it (\`tc filter show dev ${link.name} ingress\` shows it) or give it a higher \`pref\`.`,
      thrown,
    )
  }
}

/** Our filter, left by a daemon that was killed. */
function findFilter(socket: NetlinkSocket, index: number): Handle | null {
  return Object.values(HANDLE).find((handle) => hasFilter(socket, index, handle)) ?? null
}

function hasFilter(socket: NetlinkSocket, index: number, handle: Handle): boolean {
  try {
    const body = filterHeader(index, handle).attributeText(TCA_KIND, 'bpf')
    const answers = socket.request(`look for a filter on network device ${index}`, RTM_GETTFILTER, 0, body)
    return answers.some((answer) => answer.type === RTM_NEWTFILTER && handleOf(answer) === handle)
  } catch (thrown) {
    if (!hasErrno(thrown, Errno.ENOENT, Errno.EINVAL)) throw thrown
    return false
  }
}

/** Indexes of devices with a clsact or ingress qdisc: others have no ingress filters. */
export function devicesWithHook(socket: NetlinkSocket): number[] {
  const answers = socket.request('list qdiscs', RTM_GETQDISC, NLM.dump, trafficHeader(0, 0, 0, 0))
  const hooks = answers.filter(({ type, payload }) => type === RTM_NEWQDISC && readU32(payload, 12) === TC_H_CLSACT)
  return [...new Set(hooks.map(({ payload }) => readU32(payload, 4)))]
}

/** Harmless where our filter is not there. */
function undoIngress(socket: NetlinkSocket, index: number, handle: Handle): void {
  try {
    if (!hasFilter(socket, index, handle)) return
    const body = filterHeader(index, handle).attributeText(TCA_KIND, 'bpf')
    socket.request(`remove the filter of network device ${index}`, RTM_DELTFILTER, 0, body)
    unhookEgress(index)
    // Others may have put filters of their own on our hook.
    if ((handle & QDISC_IS_OURS) !== 0 && !hasFilters(socket, index)) removeQdisc(socket, index)
  } catch (thrown) {
    if (!isGone(thrown)) throw thrown
  }
}

function removeQdisc(socket: NetlinkSocket, index: number): void {
  try {
    const body = trafficHeader(index, TC_H_CLSACT_HANDLE, TC_H_CLSACT, 0)
    socket.request(`remove the ingress hook of network device ${index}`, RTM_DELQDISC, 0, body)
  } catch (thrown) {
    if (!isGone(thrown)) throw thrown
  }
}

function hasFilters(socket: NetlinkSocket, index: number): boolean {
  return [TC_H_INGRESS, TC_H_EGRESS].some((parent) => hasFiltersAt(socket, index, parent))
}

/** Whether anybody looks at, limits or changes what enters a device. */
export function hasIngressFilters(socket: NetlinkSocket, index: number): boolean {
  return hasFiltersAt(socket, index, TC_H_INGRESS)
}

/** Whether somebody has filters there that ours lets nothing through to. */
export function hasFiltersBehind(socket: NetlinkSocket, index: number): boolean {
  return filtersAt(socket, index, TC_H_INGRESS).some(({ payload }) => readU32(payload, 16) >>> 16 > PRIORITY)
}

function hasFiltersAt(socket: NetlinkSocket, index: number, parent: number): boolean {
  return filtersAt(socket, index, parent).length > 0
}

function filtersAt(socket: NetlinkSocket, index: number, parent: number): NetlinkMessage[] {
  return socket
    .request(`list filters of network device ${index}`, RTM_GETTFILTER, NLM.dump, trafficHeader(index, 0, parent, 0))
    .filter(({ type }) => type === RTM_NEWTFILTER)
}

/** With its device, or by somebody's hand. */
function isGone(thrown: unknown): boolean {
  const deviceIsGone = thrown instanceof SnapswitchError && thrown.code === 'DEVICE_MISSING'
  return deviceIsGone || hasErrno(thrown, Errno.ENOENT, Errno.EINVAL)
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
  if (!hasErrno(thrown, Errno.ENOENT)) return thrown
  return new SnapswitchError(
    'SYSCALL',
    `this kernel lacks ${module}, so the host cannot be kept out of a switch port`,
    `Load it with \`modprobe ${module}\`; on Debian it comes with the kernel package.`,
    thrown,
  )
}
