// What becomes of a frame's 802.1Q tag between two ports, in the words of a verdict: as switch/forwarding/port-rules.ts
// and egress.ts have it. Pure.

import { EtherType } from '../../../src/frame/ethernet.js'
import { type CompiledRules, Membership } from '../../forwarding/port-rules.js'

/** A tag of a VLAN, beside its number; the tags of trunks' colors go without. */
export const TAGGED = 0x1000
const VLAN_ID = 0xfff

/** Otherwise it gets a tag: TAGGED, with the VLAN. */
export const TagChange = { NONE: 0, POP: 1, UNKNOWN: -1 } as const

/** What lay beside a frame as it came: TPID and TCI, as a port's ring has it; in a verdict's key. */
export const keyOf = (came: number): number => (came === 0 ? 0 : TAGGED | (came & VLAN_ID))

/**
 * `vlan`: the one that it was admitted to; 0: none. UNKNOWN: it does not leave, or how it does depends on more than its
 * VLAN: a priority that it came with alone stays with it in the tag of a VLAN.
 */
export function tagChange(
  from: Pick<CompiledRules, 'vlans'> | null,
  to: Pick<CompiledRules, 'vlans'> | null,
  came: number,
  vlan: number,
): number {
  const cameTagged = came !== 0
  const hasRules = from !== null && from.vlans !== null
  if (cameTagged && came >>> 16 !== EtherType.VLAN) return TagChange.UNKNOWN
  if (hasRules && cameTagged && (came & VLAN_ID) === 0) return TagChange.UNKNOWN
  let leavesTagged = cameTagged || hasRules
  if (to !== null && to.vlans !== null) {
    const membership = to.vlans.members[vlan]
    if (membership === Membership.NONE) return TagChange.UNKNOWN
    leavesTagged = membership === Membership.TAGGED
  }
  if (leavesTagged === cameTagged) return TagChange.NONE
  return leavesTagged ? TAGGED | vlan : TagChange.POP
}
