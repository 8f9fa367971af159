// Whether frames could go in a circle between the ports of this host: both ends of a veth in one network, two cables
// between the same two networks, or a way round through a bridge of the kernel's. Nobody here speaks STP, so one frame
// to everybody would be forwarded for ever. Pure. What lies in other namespaces or beyond the wire is not seen.

import type { Link } from '../../src/linux/link-message.js'

export interface LoopPort {
  readonly name: string
  readonly network: string
  readonly ifindex: number
}

export interface Loop {
  /** The ports whose cable closes the circle: both ends, or the one that is a port. */
  readonly ports: readonly LoopPort[]
  /** It goes through a bridge, whose STP may open it. */
  readonly throughBridge: boolean
}

/** Devices that come in pairs: what enters one comes out of the other. */
const PAIRS = ['veth', 'vxcan', 'netkit']

interface Join {
  readonly ports: readonly LoopPort[]
  readonly ends: readonly [string, string]
  readonly throughBridge: boolean
}

/** Each join that connects what was connected already, those without a bridge first, then in the order of `ports`. */
export function findLoops(ports: readonly LoopPort[], links: readonly Link[]): Loop[] {
  const joins = joinsOf(ports, links)
  const ordered = [...joins.filter((join) => !join.throughBridge), ...joins.filter((join) => join.throughBridge)]
  const leaders = new Map<string, string>()
  const leaderOf = (node: string): string => {
    const above = leaders.get(node)
    return above === undefined ? node : leaderOf(above)
  }
  return ordered.filter(({ ends }) => {
    const [one, other] = ends.map(leaderOf)
    if (one === other) return true
    leaders.set(one!, other!)
    return false
  })
}

/**
 * Networks, bridges and devices under macvlans, and what connects them. A cable belongs to the later one of its ports.
 */
function joinsOf(ports: readonly LoopPort[], links: readonly Link[]): Join[] {
  const linkOf = new Map(links.map((link) => [link.index, link]))
  const portOf = new Map(ports.map((port, at) => [port.ifindex, { port, at }]))
  const bridgeOf = ({ master }: Link) => (master !== null && linkOf.get(master)?.kind === 'bridge' ? master : null)
  return ports.flatMap((port, at): Join[] => {
    const link = linkOf.get(port.ifindex)
    if (link === undefined) return []
    const network = `network ${port.network}`
    if (link.kind === 'bridge') return [{ ports: [port], ends: [network, `bridge ${link.index}`], throughBridge: true }]
    if (link.peer === null || link.peerNamespace !== null) return []
    if (link.macvlanBridge) return [{ ports: [port], ends: [network, `under ${link.peer}`], throughBridge: false }]
    const far = PAIRS.includes(link.kind ?? '') ? linkOf.get(link.peer) : undefined
    if (far === undefined) return []
    const other = portOf.get(far.index)
    if (other !== undefined) {
      if (other.at > at) return []
      return [{ ports: [other.port, port], ends: [network, `network ${other.port.network}`], throughBridge: false }]
    }
    const bridge = bridgeOf(far)
    return bridge === null ? [] : [{ ports: [port], ends: [network, `bridge ${bridge}`], throughBridge: true }]
  })
}
