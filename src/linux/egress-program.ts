// The program at the egress hook of a port's device. It does two things that a packet socket cannot do to what it
// sends, so that the device carries what a bridge would give it; both before the kernel looks at the frame for the
// device's sake (sch_handle_egress and validate_xmit_skb in net/core/dev.c).
//
// - It puts the outermost VLAN tag beside the frame, as it is with all that the kernel forwards itself. A veth gives
//   its other end what is, without that tag, at most MTU + Ethernet header + 4 long (is_skb_forwardable); a packet
//   socket's frames bring their tags within: a full-size frame with two tags would be dropped there, and so would the
//   segments of a GSO frame with two. Short frames fit anyhow, and are left alone.
// - It makes a tunnel of a GSO frame that has one and says so in its mark (src/frame/tunnel-mark.ts): the outer headers
//   are taken off and put on again, by the helper that tells the kernel what they are (bpf_skb_adjust_room in
//   net/core/filter.c), and get their bytes back. Then a device that takes tunnels gets the frame whole, and for others
//   the kernel cuts it. No frame without that mark is touched.

import { LONGEST_OUTER, MARK, SHORTEST_OUTER, TunnelBit } from '../frame/tunnel-mark.js'
import {
  add,
  and,
  call,
  copy,
  EXIT,
  ifAtMost,
  ifEqual,
  ifHasNone,
  ifMore,
  ifNot,
  type Line,
  load16,
  load32,
  loadProgram,
  negate,
  or,
  ProgramType,
  registers,
  SkBuff,
  set,
  shiftRight,
  store32,
  store64,
  toHostOrder16,
} from './bpf.js'
import { kernelIsAtLeast } from './kernel.js'

/** Frames up to this length need no tag beside them. */
const SHORT = 520
const Helper = { STORE_BYTES: 9, VLAN_PUSH: 18, VLAN_POP: 19, LOAD_BYTES: 26, ADJUST_ROOM: 50 } as const
const TC_ACT_UNSPEC = -1
const TC_ACT_SHOT = 2
/** EtherTypes as the program sees them: in network order. */
const VLAN = 0x0081
const SERVICE_VLAN = 0xa888
const TAG_CONTROL_AT = 14
const ETHERNET_HEADER = 14

/** Of bpf_skb_adjust_room: right behind the Ethernet header. */
const BPF_ADJ_ROOM_MAC = 1
/** gso_size counts the payload, which stays as it is. */
const FIXED_GSO = 1
const ENCAP_L3_IPV4 = 2
const ENCAP_L3_IPV6 = 4
const ENCAP_L4_GRE = 8
const ENCAP_L4_UDP = 16
const ENCAP_L2_ETH = 64
/** BPF_F_ADJ_ROOM_ENCAP_L2(length), upper half. */
const ENCAP_L2_LENGTH = ETHERNET_HEADER << 24

/** r6: the frame; r7: its outermost tag's TPID; r8: its TCI; r10: the stack's end. */
const TAGS: readonly Line[] = [
  load32(2, 6, SkBuff.VLAN_PRESENT),
  ifNot(2, 0, 'tunnel'),
  load32(7, 6, SkBuff.PROTOCOL),
  ifEqual(7, VLAN, 'tagged'),
  ifNot(7, SERVICE_VLAN, 'tunnel'),
  'tagged',
  load32(2, 6, SkBuff.GSO_SIZE),
  ifNot(2, 0, 'lift'),
  load32(2, 6, SkBuff.LENGTH),
  ifAtMost(2, SHORT, 'out'),
  'lift',
  copy(1, 6),
  set(2, TAG_CONTROL_AT),
  copy(3, 10),
  add(3, -8),
  set(4, 2),
  call(Helper.LOAD_BYTES),
  ifNot(0, 0, 'tunnel'),
  load16(8, 10, -8),
  toHostOrder16(8),
  copy(1, 6),
  call(Helper.VLAN_POP),
  // It fails, if at all, before anything is changed: no memory to make the header writable.
  ifNot(0, 0, 'tunnel'),
  copy(1, 6),
  copy(2, 7),
  copy(3, 8),
  call(Helper.VLAN_PUSH),
]

/** r7: the mark; r8: the outer headers' length; r9: flags. The outer headers wait on the stack. */
const TUNNEL: readonly Line[] = [
  'tunnel',
  load32(7, 6, SkBuff.MARK),
  copy(2, 7),
  shiftRight(2, 16),
  ifNot(2, MARK, 'out'),
  // Nobody else is to see it.
  set(2, 0),
  store32(6, SkBuff.MARK, 2),
  load32(3, 6, SkBuff.GSO_SIZE),
  ifEqual(3, 0, 'out'),
  copy(8, 7),
  and(8, 0xff),
  ifAtMost(8, SHORTEST_OUTER - 1, 'out'),
  ifMore(8, LONGEST_OUTER, 'out'),
  // Kernels before 6.2 let no helper write to a stack that was not written before, if the length is not fixed.
  ...Array.from({ length: LONGEST_OUTER / 8 }, (_, i) => store64(10, -LONGEST_OUTER + i * 8, 2)),
  copy(1, 6),
  set(2, ETHERNET_HEADER),
  copy(3, 10),
  add(3, -LONGEST_OUTER),
  copy(4, 8),
  call(Helper.LOAD_BYTES),
  ifNot(0, 0, 'out'),
  copy(1, 6),
  copy(2, 8),
  negate(2),
  set(3, BPF_ADJ_ROOM_MAC),
  set(4, FIXED_GSO),
  call(Helper.ADJUST_ROOM),
  // Nothing is changed then. A frame that the kernel cannot cut, it drops.
  ifNot(0, 0, 'out'),
  set(9, FIXED_GSO | ENCAP_L3_IPV4),
  ...ifHasNone(7, TunnelBit.OUTER_IPV6 << 8, 'is IPv6', 'is known'),
  set(9, FIXED_GSO | ENCAP_L3_IPV6),
  'is known',
  ...ifHasNone(7, TunnelBit.UDP << 8, 'is UDP', 'no UDP'),
  or(9, ENCAP_L4_UDP),
  'no UDP',
  ...ifHasNone(7, TunnelBit.GRE << 8, 'is GRE', 'no GRE'),
  or(9, ENCAP_L4_GRE),
  'no GRE',
  ...ifHasNone(7, TunnelBit.ETHERNET << 8, 'is Ethernet', 'no Ethernet'),
  // r2 := a number of 64 bits, two instructions long.
  [0x18, registers(2), 0, ENCAP_L2_ETH],
  [0x00, 0, 0, ENCAP_L2_LENGTH],
  [0x4f, registers(9, 2), 0, 0],
  'no Ethernet',
  copy(1, 6),
  copy(2, 8),
  set(3, BPF_ADJ_ROOM_MAC),
  copy(4, 9),
  call(Helper.ADJUST_ROOM),
  ifNot(0, 0, 'drop'),
  copy(1, 6),
  set(2, ETHERNET_HEADER),
  copy(3, 10),
  add(3, -LONGEST_OUTER),
  copy(4, 8),
  set(5, 0),
  call(Helper.STORE_BYTES),
  ifEqual(0, 0, 'out'),
  'drop',
  set(0, TC_ACT_SHOT),
  EXIT,
  'out',
  set(0, TC_ACT_UNSPEC),
  EXIT,
]

/** BPF_F_ADJ_ROOM_ENCAP_L2_ETH is known. */
export const kernelCanBeToldOfTunnels = () => kernelIsAtLeast(5, 13)

let loaded: number | undefined

/** The program's descriptor, loaded once in a process. Throws PERMISSION, SYSCALL. */
export function egressProgram(): number {
  loaded ??= loadProgram(
    ProgramType.SCHED_CLS,
    [copy(6, 1), ...TAGS, ...TUNNEL],
    'GPL',
    'load a program for egress hooks',
  )
  return loaded
}

/** Why it cannot be loaded; null: it can. */
export function egressProgramTrouble(): string | null {
  try {
    egressProgram()
    return null
  } catch {
    return 'bpf(2) is refused'
  }
}
