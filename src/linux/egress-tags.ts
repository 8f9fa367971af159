// Keeps the outermost VLAN tag of what a packet socket sends beside the frame, as it is with all that the kernel
// forwards itself. A veth gives its other end what is, without that tag, at most MTU + Ethernet header + 4 long
// (is_skb_forwardable); a packet socket's frames bring their tags within: a full-size frame with two tags would be
// dropped there, and so would the segments of a GSO frame with two. A program at the device's egress hook takes the tag
// out and puts it back beside; then the device carries what a bridge would give it. It leaves short frames alone, which
// fit anyhow.
//
// Where programs may not be loaded (no CAP_BPF) or another ingress hook is there, all goes on without; only those
// frames are lost.

import { mapArena, releaseArena } from './arena.js'
import { check, libc } from './libc.js'
import { NetlinkBody, NetlinkSocket, NLM } from './netlink.js'

const BPF_PROG_LOAD = 5
const BPF_PROG_TYPE_SCHED_CLS = 3
/** Frames up to this length do not need it. */
const SHORT = 520

const RTM_NEWTFILTER = 44
const RTM_DELTFILTER = 45
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

/** struct __sk_buff (linux/bpf.h), offsets. */
const SkBuff = { length: 0, protocol: 16, vlanPresent: 20, gsoSize: 176 } as const
const Helper = { skbVlanPush: 18, skbVlanPop: 19, skbLoadBytes: 26 } as const
const TC_ACT_UNSPEC = -1
/** EtherTypes as the program sees them: in network order. */
const VLAN = 0x0081
const SERVICE_VLAN = 0xa888
const TAG_CONTROL_AT = 14

type Label = 'tagged' | 'lift' | 'out'

/** struct bpf_insn: opcode, registers, offset, value. `to`: where a jump leads. */
interface Instruction {
  readonly code: number
  readonly target?: number
  readonly source?: number
  readonly offset?: number
  readonly value?: number
  readonly to?: Label
}
type Step = Instruction | Label

const load32 = (target: number, source: number, offset: number): Step => ({ code: 0x61, target, source, offset })
const load16 = (target: number, source: number, offset: number): Step => ({ code: 0x69, target, source, offset })
const move = (target: number, source: number): Step => ({ code: 0xbf, target, source })
const set = (target: number, value: number): Step => ({ code: 0xb7, target, value })
const add = (target: number, value: number): Step => ({ code: 0x07, target, value })
const toHostOrder16 = (target: number): Step => ({ code: 0xdc, target, value: 16 })
const call = (value: number): Step => ({ code: 0x85, value })
const ifEqual = (target: number, value: number, to: Label): Step => ({ code: 0x15, target, value, to })
const ifNot = (target: number, value: number, to: Label): Step => ({ code: 0x55, target, value, to })
const ifAtMost = (target: number, value: number, to: Label): Step => ({ code: 0xb5, target, value, to })
const end: Step = { code: 0x95 }

/** r6: the frame; r7: its outermost tag's TPID; r8: its TCI; r10: the stack's end. */
const PROGRAM: readonly Step[] = [
  move(6, 1),
  load32(2, 6, SkBuff.vlanPresent),
  ifNot(2, 0, 'out'),
  load32(7, 6, SkBuff.protocol),
  ifEqual(7, VLAN, 'tagged'),
  ifNot(7, SERVICE_VLAN, 'out'),
  'tagged',
  load32(2, 6, SkBuff.gsoSize),
  ifNot(2, 0, 'lift'),
  load32(2, 6, SkBuff.length),
  ifAtMost(2, SHORT, 'out'),
  'lift',
  move(1, 6),
  set(2, TAG_CONTROL_AT),
  move(3, 10),
  add(3, -8),
  set(4, 2),
  call(Helper.skbLoadBytes),
  ifNot(0, 0, 'out'),
  load16(8, 10, -8),
  toHostOrder16(8),
  move(1, 6),
  call(Helper.skbVlanPop),
  // It fails, if at all, before anything is changed: no memory to make the header writable.
  ifNot(0, 0, 'out'),
  move(1, 6),
  move(2, 7),
  move(3, 8),
  call(Helper.skbVlanPush),
  'out',
  set(0, TC_ACT_UNSPEC),
  end,
]

function assemble(steps: readonly Step[]): Uint8Array {
  const instructions = steps.filter((step): step is Instruction => typeof step !== 'string')
  const bytes = new Uint8Array(instructions.length * 8)
  const view = new DataView(bytes.buffer)
  const places = new Map<string, number>()
  let place = 0
  for (const step of steps) {
    if (typeof step === 'string') places.set(step, place)
    else place++
  }
  for (const [at, { code, target = 0, source = 0, offset = 0, value = 0, to }] of instructions.entries()) {
    view.setUint8(at * 8, code)
    view.setUint8(at * 8 + 1, (source << 4) | target)
    view.setInt16(at * 8 + 2, to === undefined ? offset : places.get(to)! - at - 1, true)
    view.setInt32(at * 8 + 4, value, true)
  }
  return bytes
}

const LICENSE_AT = 2048
let loaded: number | undefined

/** The program's descriptor, loaded once in a process. Throws PERMISSION, SYSCALL. */
function program(): number {
  if (loaded !== undefined) return loaded
  const instructions = assemble(PROGRAM)
  const memory = mapArena(LICENSE_AT + 16)
  try {
    memory.bytes.set(instructions)
    memory.bytes.set(new TextEncoder().encode('GPL\0'), LICENSE_AT)
    // union bpf_attr for BPF_PROG_LOAD: type, count, instructions, license.
    const attributes = new Uint8Array(72)
    const view = new DataView(attributes.buffer)
    view.setUint32(0, BPF_PROG_TYPE_SCHED_CLS, true)
    view.setUint32(4, instructions.length / 8, true)
    view.setBigUint64(8, BigInt(memory.address), true)
    view.setBigUint64(16, BigInt(memory.address + LICENSE_AT), true)
    loaded = check(libc().bpf(BPF_PROG_LOAD, attributes, attributes.length), 'load a program for egress hooks')
    return loaded
  } finally {
    releaseArena(memory)
  }
}

/**
 * After quietLink, whose hook it uses; when that hook is taken off, it goes with it. Returns how to take it off where
 * the hook stays. Throws PERMISSION, SYSCALL: nothing is changed then, and the port works without.
 */
export function keepTagsBeside(index: number, name: string): () => void {
  const socket = new NetlinkSocket()
  try {
    const body = filterHeader(index).nested(TCA_OPTIONS, (options) =>
      options
        .attributeU32(TCA_BPF_FD, program())
        .attributeText(TCA_BPF_NAME, 'snapswitch_tags')
        .attributeU32(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT),
    )
    // Replaces one that a killed daemon has left.
    socket.request(`add an egress hook to ${name}`, RTM_NEWTFILTER, NLM.create, body)
  } finally {
    socket.close()
  }
  return () => dropTagKeeper(index)
}

/** Takes the program off a device, ours or one that a killed daemon has left. */
export function dropTagKeeper(index: number): void {
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
