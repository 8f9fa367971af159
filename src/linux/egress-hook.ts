// Puts a program (egress-program.ts) at a device's egress hook, and takes it off. Where programs may not be loaded (no
// CAP_BPF), or another ingress hook is there, a port goes on without.

import { closeInBackground } from './background.js'
import { egressProgram } from './egress-program.js'
import { libc } from './libc.js'
import { NetlinkBody, NetlinkSocket, NLM } from './netlink.js'
import { holdProgram, Tcx } from './tcx.js'

const RTM_NEWTFILTER = 44
const RTM_DELTFILTER = 45
const RTM_GETTFILTER = 46
const TCA_KIND = 1
const TCA_OPTIONS = 2
const TCA_BPF_FD = 6
const TCA_BPF_NAME = 7
const TCA_BPF_FLAGS = 8
const TCA_BPF_FLAG_ACT_DIRECT = 1
const TC_H_EGRESS = 0xfffffff3
const ETH_P_ALL_NETWORK_ORDER = 0x0300
const PRIORITY = 1
/** "sw" */
const HANDLE = 0x73770001

/**
 * After quietLink, whose hook it uses; when that hook is taken off, it goes with it. Returns how to take it off where
 * the hook stays. Throws PERMISSION, SYSCALL: nothing is changed then, and the port works without.
 */
export function hookEgress(index: number, name: string): () => void {
  const socket = new NetlinkSocket()
  try {
    const body = filterHeader(index).nested(TCA_OPTIONS, (options) =>
      options
        .attributeU32(TCA_BPF_FD, egressProgram())
        .attributeText(TCA_BPF_NAME, 'snapswitch_egress')
        .attributeU32(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT),
    )
    // Replaces one that a killed daemon has left.
    socket.request(`add an egress hook to ${name}`, RTM_NEWTFILTER, NLM.create, body)
  } finally {
    socket.close()
  }
  return () => unhookEgress(index)
}

/**
 * The same on a device that belongs to somebody else: it gets no queueing discipline for it, nothing that `tc` would
 * show, and the program goes with this process. null where the kernel cannot (before 6.6). Throws as hookEgress.
 */
export function hookEgressUnseen(index: number): (() => void) | null {
  const link = holdProgram(index, Tcx.EGRESS, egressProgram())
  return link === null ? null : () => void libc().close(link)
}

/** Descriptors by which the program is held at tcx hooks, in the filter's place. */
const hastened = new Map<number, number>()

/**
 * Has the program of a device, if it has one, stand at the tcx hook (kernel 6.6): the kernel takes 110 ns less to come
 * to it, of which every frame has the benefit. In between it is at both, and finds nothing left to do at the second.
 */
export function hastenEgress(index: number): void {
  if (hastened.has(index) || !isHooked(index)) return
  const link = holdProgram(index, Tcx.EGRESS, egressProgram())
  if (link === null) return
  hastened.set(index, link)
  removeFilter(index)
}

/** Somebody may have taken it off. */
export function isHooked(index: number): boolean {
  if (hastened.has(index)) return true
  const socket = new NetlinkSocket()
  try {
    const what = `look for the egress hook of network device ${index}`
    return socket.request(what, RTM_GETTFILTER, 0, filterHeader(index)).some(({ type }) => type === RTM_NEWTFILTER)
  } catch {
    return false
  } finally {
    socket.close()
  }
}

/** Takes the program off a device, ours or one that a killed daemon has left. */
export function unhookEgress(index: number): void {
  const link = hastened.get(index)
  if (link !== undefined) closeInBackground(link).catch(() => undefined)
  hastened.delete(index)
  removeFilter(index)
}

function removeFilter(index: number): void {
  const socket = new NetlinkSocket()
  try {
    socket.request(`remove the egress hook of network device ${index}`, RTM_DELTFILTER, 0, filterHeader(index))
  } catch {
    // Gone already: with its device, or by somebody's hand.
  } finally {
    socket.close()
  }
}

function filterHeader(index: number): NetlinkBody {
  return new NetlinkBody()
    .u8(0)
    .u8(0)
    .u16(0)
    .u32(index)
    .u32(HANDLE)
    .u32(TC_H_EGRESS)
    .u32((PRIORITY << 16) | ETH_P_ALL_NETWORK_ORDER)
    .attributeText(TCA_KIND, 'bpf')
}
