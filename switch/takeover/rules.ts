// What the ports of a bridge do that was taken over, as rules of switch ports. Pure.

import type { PortRules } from '../../src/api/schemas.js'
import type { BridgeAddress, BridgePort, PortConduct, PortVlans } from '../../src/linux/bridge.js'
import { vlansOf } from '../forwarding/port-rules.js'

const LAST_VLAN = 4094

/** `vlans`: null where the bridge knows no VLANs. `addresses`: all that it knows. */
export function portRules(
  port: BridgePort,
  vlans: PortVlans | null,
  addresses: readonly BridgeAddress[],
): PortRules | undefined {
  const fixed = addresses.filter(({ index, fixed, local }) => index === port.link.index && fixed && !local)
  return orNone({
    ...(vlans === null ? {} : { vlan: vlanRules(vlans) }),
    ...(port.isolated ? { isolated: true } : {}),
    ...(port.learning ? {} : { learning: false }),
    ...(port.unicastFlood ? {} : { flood: false }),
    ...(port.multicastFlood ? {} : { mcastFlood: false }),
    ...(port.broadcastFlood ? {} : { bcastFlood: false }),
    ...(port.hairpin ? { hairpin: true } : {}),
    ...(port.locked ? { locked: true } : {}),
    ...(fixed.length === 0 ? {} : { fdb: fixed.map(({ mac, vlan }) => ({ mac, ...(vlan === 0 ? {} : { vlan }) })) }),
  })
}

/**
 * The host's side: all VLANs that the bridge device is in come to it tagged (the veth's end in the bridge carries them
 * so, and the bridge takes the tags off for its device as it has always done).
 */
export function hostRules(vlans: PortVlans | null): PortRules | undefined {
  if (vlans === null) return undefined
  const own = [...new Set([...vlans.untagged, ...vlans.tagged])].sort((a, b) => a - b)
  return { vlan: { tagged: ranges(own) } }
}

/** The other way round, for a device that is to do in the bridge what a port did; `vlans`: null where it knows none. */
export function conductOf(rules: PortRules = {}): { conduct: PortConduct; vlans: PortVlans | null } {
  const { vlan } = rules
  return {
    conduct: {
      isolated: rules.isolated ?? false,
      learning: rules.learning ?? true,
      unicastFlood: rules.flood ?? true,
      multicastFlood: rules.mcastFlood ?? true,
      broadcastFlood: rules.bcastFlood ?? true,
      hairpin: rules.hairpin ?? false,
      locked: rules.locked ?? false,
    },
    vlans:
      vlan === undefined
        ? null
        : { pvid: vlan.pvid ?? null, untagged: vlansOf(vlan.untagged), tagged: vlansOf(vlan.tagged) },
  }
}

function vlanRules({ pvid, untagged, tagged }: PortVlans): NonNullable<PortRules['vlan']> {
  return {
    ...(pvid === null ? {} : { pvid }),
    untagged: ranges(untagged),
    // The kernel lets a port's pvid out tagged, when it is set so.
    tagged: ranges(tagged),
  }
}

/** 1, 2, 3, 7 -> "1-3", 7. */
export function ranges(vlans: readonly number[]): (number | string)[] {
  const found: [number, number][] = []
  for (const vlan of [...vlans].sort((a, b) => a - b)) {
    if (vlan < 1 || vlan > LAST_VLAN) continue
    const last = found.at(-1)
    if (last !== undefined && last[1] === vlan - 1) last[1] = vlan
    else found.push([vlan, vlan])
  }
  return found.map(([from, to]) => (from === to ? from : `${from}-${to}`))
}

function orNone(rules: PortRules): PortRules | undefined {
  return Object.keys(rules).length === 0 ? undefined : rules
}
