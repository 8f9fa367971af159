// Whether a bridge can be taken over, and into what: decided from what was found, before anything is touched. Pure.
// What is carried, ignored and refused is listed in docs/reference/bridges.md.

import { isName } from '../../src/api/names.js'
import type { PortRules } from '../../src/api/schemas.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import type { BridgeAddress, BridgePort, BridgeSettings, PortVlans } from '../../src/linux/bridge.js'
import type { Link } from '../../src/linux/link-message.js'
import { MAX_PORTS } from '../forwarding/counters.js'
import { type Devices, refuseUsed } from '../ports/host-use.js'
import { hostRules, portRules } from './rules.js'

/** Packet filters that see frames between a bridge's ports. */
export interface FoundFilters {
  /** Tables of the bridge family that drop something (ebtables, nft, libvirt's filterref). */
  readonly bridgeTables: readonly string[]
  /** Ports with ingress filters of others: libvirt's bandwidth limits, say. */
  readonly ingress: readonly string[]
  /** br_netfilter gives bridged frames to iptables, and there are rules that forwarded packets meet. */
  readonly forwarded: boolean
}

export interface FoundBridge {
  readonly link: Link
  readonly settings: BridgeSettings
  readonly ports: readonly BridgePort[]
  /** By device index, the bridge's own among them; empty where it knows no VLANs. */
  readonly vlans: ReadonlyMap<number, PortVlans>
  readonly addresses: readonly BridgeAddress[]
  readonly devices: Devices
  readonly filters: FoundFilters
}

export interface PlannedPort {
  readonly name: string
  readonly device: string
  readonly index: number
  /** A TAP, which may have a machine behind it. */
  readonly tap: boolean
  /** Hardware: what leads out of this host. */
  readonly nic: boolean
  readonly rules: PortRules | undefined
}

export interface Plan {
  readonly network: string
  readonly ageing: number
  /** Bits of the link-local groups that it forwards. */
  readonly linkLocal: number
  readonly ports: readonly PlannedPort[]
  readonly hostRules: PortRules | undefined
  /** What will be otherwise than on the bridge, and is no reason to refuse. */
  readonly warnings: readonly string[]
}

export interface PlanOptions {
  readonly network?: string | undefined
  /** Goes on though packet filters are passed by. */
  readonly ignoreFilters: boolean
}

const MIN_AGEING = 10
const MAX_AGEING = 1_000_000
const TAG_8021Q = 0x8100
/** A bridge that speaks no STP forwards it, whatever its mask says (br_handle_frame in net/bridge/br_input.c). */
const STP_GROUP = 1 << 0

/** Throws BRIDGE_UNSUPPORTED, BRIDGE_FILTERED, DEVICE_BUSY: the first that speaks against it. */
export function planTakeover(found: FoundBridge, options: PlanOptions): Plan {
  const { link, settings, ports } = found
  refuseBridge(found)
  for (const { link: port } of ports) refuseUsed(port, found.devices)
  if (!options.ignoreFilters) refuseFilters(found)
  if (ports.length >= MAX_PORTS) {
    throw unsupported(
      `${link.name} has ${ports.length} ports, and a host has ${MAX_PORTS} at most`,
      'Split the bridge.',
    )
  }
  const aware = settings.vlanFiltering
  return {
    network: options.network ?? networkName(link),
    ageing: Math.min(MAX_AGEING, Math.max(MIN_AGEING, Math.round(settings.ageing))),
    linkLocal: settings.groupForwarding | STP_GROUP,
    ports: ports.map((port) => plannedPort(found, port)),
    hostRules: hostRules(aware ? (found.vlans.get(link.index) ?? NO_VLANS) : null),
    warnings: warningsOf(found),
  }
}

const NO_VLANS: PortVlans = { pvid: null, untagged: [], tagged: [] }

export function plannedPort({ settings, vlans, addresses }: FoundBridge, port: BridgePort): PlannedPort {
  const { link } = port
  const own = settings.vlanFiltering ? (vlans.get(link.index) ?? NO_VLANS) : null
  return {
    name: portName(link),
    device: link.name,
    index: link.index,
    tap: link.kind === 'tun',
    nic: link.kind === null,
    rules: portRules(port, own, addresses),
  }
}

/** A device may be called what no port can be. */
export function portName({ name, index }: Pick<Link, 'name' | 'index'>): string {
  return isName(name) ? name : `port-${index}`
}

function networkName({ name, index }: Link): string {
  return isName(name) ? name : `bridge-${index}`
}

function unsupported(message: string, action: string): SnapswitchError {
  return new SnapswitchError('BRIDGE_UNSUPPORTED', message, action)
}

/** Throws BRIDGE_UNSUPPORTED. */
export function refuseBridge({ link, settings, ports, devices }: FoundBridge): void {
  const { name } = link
  if (settings.stp !== 0) {
    throw unsupported(
      `${name} speaks STP, and the switch does not`,
      `Make sure that there is no loop, then: ip link set ${name} type bridge stp_state 0`,
    )
  }
  if (settings.vlanFiltering && settings.vlanProtocol !== TAG_8021Q) {
    throw unsupported(
      `${name} filters VLANs by service tags (802.1ad), which the switch cannot`,
      `Run: ip link set ${name} type bridge vlan_protocol 802.1Q   if that is what your VLANs are`,
    )
  }
  const master = devices.here.find(({ index }) => index === link.master)
  if (master !== undefined && master.kind !== 'vrf') {
    throw unsupported(`${name} belongs to ${master.name}`, `Take it out first: ip link set ${name} nomaster`)
  }
  const inner = ports.find((port) => port.link.kind === 'bridge')
  if (inner !== undefined) {
    throw unsupported(
      `${inner.link.name} in ${name} is a bridge itself`,
      `Take it out first, or take that one over: ip link set ${inner.link.name} nomaster`,
    )
  }
  const tunnel = ports.find((port) => port.vlanTunnel)
  if (tunnel !== undefined) {
    throw unsupported(
      `port ${tunnel.link.name} of ${name} maps VLANs to tunnels, which the switch cannot`,
      `Use a VXLAN device a VLAN, or run: bridge link set dev ${tunnel.link.name} vlan_tunnel off`,
    )
  }
}

export function noUplink(bridge: string, uplink: string, ports: readonly string[]): SnapswitchError {
  return new SnapswitchError(
    'DEVICE_MISSING',
    `${uplink}, which is to lead to peers, is no port of ${bridge}`,
    `Its ports: ${ports.join(', ') || 'none'}.`,
  )
}

function refuseFilters({ link, filters }: FoundBridge): void {
  const { bridgeTables, ingress, forwarded } = filters
  const found = [
    ...(bridgeTables.length === 0 ? [] : [`packet filters of bridges (${bridgeTables.join(', ')})`]),
    ...(ingress.length === 0 ? [] : [`ingress filters or limits at ${ingress.join(', ')}`]),
    ...(forwarded ? ['iptables, to which br_netfilter gives bridged frames'] : []),
  ]
  if (found.length === 0) return
  throw new SnapswitchError(
    'BRIDGE_FILTERED',
    `frames between the ports of ${link.name} pass ${found.join(', and ')}; the switch forwards them past these`,
    'Remove the filters (`nft list ruleset`, `tc filter show`, `virsh nwfilter-list`, `sysctl net.bridge` show them), or say --ignore-filters when nothing depends on them.',
  )
}

function warningsOf({ link, settings, ports }: FoundBridge): string[] {
  const named = (are: (port: BridgePort) => boolean) =>
    ports
      .filter(are)
      .map((port) => port.link.name)
      .join(', ')
  const warnings: string[] = []
  const suppressing = named((port) => port.neighborSuppress || port.proxyArp)
  if (suppressing !== '') warnings.push(`the switch answers no ARP for others, as ${link.name} does at ${suppressing}`)
  const copying = named((port) => port.multicastToUnicast)
  if (copying !== '') warnings.push(`multicast leaves ${copying} as multicast, not as a copy for each receiver`)
  const guarded = named((port) => port.guard)
  if (guarded !== '') warnings.push(`the switch does not guard ${guarded} against STP frames`)
  const forwarding = named((port) => (port.groupForwarding & ~settings.groupForwarding & ~STP_GROUP) !== 0)
  if (forwarding !== '') warnings.push(`link-local groups that only ${forwarding} may forward stop at the switch`)
  if (settings.ageing === 0) warnings.push(`${link.name} remembers no addresses; the switch does, for ${MIN_AGEING} s`)
  const other = ports.filter((port) => port.link.mtu !== link.mtu)
  if (other.length > 0) {
    const list = other.map((port) => `${port.link.name} ${port.link.mtu}`).join(', ')
    warnings.push(`longer frames than a port's MTU are dropped there, as before: ${link.name} ${link.mtu}, ${list}`)
  }
  return warnings
}
