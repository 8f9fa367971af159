// What of the host stops working on a device that becomes a port: its addresses, its default route, and devices that
// stand on it (macvlan, VLAN, …). The filter that keeps the host out of a port (src/linux/ingress.ts) keeps all of
// these from hearing anything. Pure: devices and addresses in, what to refuse and what to warn of out.
//
// A bridge refuses a device whose frames somebody takes before it could (EBUSY: macvlan, ipvlan, macsec), takes one
// with addresses without a word, and leaves their frames to VLANs on it. Here the first is refused as well, and the
// last, for it would not work; the rest works as badly as with a bridge, and is said.

import { SnapswitchError } from '../../src/errors/errors.js'
import type { HostAddress } from '../../src/linux/addresses.js'
import type { Link } from '../../src/linux/link-message.js'

/** They take frames off the device that they stand on; without these they are deaf. */
const TAKERS = ['macvlan', 'macvtap', 'ipvlan', 'ipvtap', 'macsec', 'vlan']
/** Their `peer` is the other end of a cable. */
const PAIRS = ['veth', 'vxcan', 'netkit']

const WAY_IN =
  'Give the host a cable into the network instead: a veth with one end as a plain port, and on the other what was here.'

/** What the host has, besides devices. */
export interface HostState {
  readonly addresses: readonly HostAddress[]
  readonly defaultRoutes: readonly number[]
}

/** The devices there are: here, and in other namespaces those that stand on one of here. */
export interface Devices {
  readonly here: readonly Link[]
  readonly elsewhere: readonly Link[]
}

interface Above {
  readonly kind: string
  /** Where to remove it, too, when that is not here. */
  readonly name: string
}

/** Devices that stand on the one with this index. */
export function standingOn(index: number, { here, elsewhere }: Devices): Above[] {
  const stands = ({ peer, kind }: Link) => peer === index && !PAIRS.includes(kind ?? '')
  const named = ({ kind, name }: Link, where: string) => ({ kind: kind ?? 'device', name: `${name}${where}` })
  return [
    ...here
      .filter((link) => stands(link) && link.peerNamespace === null && link.index !== index)
      .map((link) => named(link, '')),
    ...elsewhere.filter(stands).map((link) => named(link, ' (in another namespace)')),
  ]
}

/** Indexes of veths at whose other end a generic XDP program is. */
export function withXdpBehind({ here, elsewhere }: Devices): Set<number> {
  const ends = [...here.filter(({ peerNamespace }) => peerNamespace === null), ...elsewhere]
  return new Set(
    ends.flatMap(({ kind, genericXdp, peer }) => (kind === 'veth' && genericXdp && peer !== null ? [peer] : [])),
  )
}

/** Throws DEVICE_BUSY when devices on it would be cut off. */
export function refuseUsed(link: Link, devices: Devices): void {
  const takers = standingOn(link.index, devices).filter(({ kind }) => TAKERS.includes(kind))
  if (takers.length === 0) return
  throw new SnapswitchError(
    'DEVICE_BUSY',
    `${link.name} has ${namesOf(takers)} on it, which would hear nothing any more`,
    `Remove ${takers.length === 1 ? 'it' : 'them'} first: ${takers.map(({ name }) => `ip link delete ${name}`).join('; ')}. ${WAY_IN}`,
  )
}

/** What of the host hears nothing through a device that is a port. `lost`: addresses that went when it became one. */
export function sharedWarnings(
  link: Link,
  devices: Devices,
  { addresses, defaultRoutes }: HostState,
  lost: readonly HostAddress[],
): SnapswitchError[] {
  const { index, name } = link
  const warnings: SnapswitchError[] = []
  const warn = (message: string, action: string) => warnings.push(new SnapswitchError('DEVICE_SHARED', message, action))
  const above = standingOn(index, devices)
  if (above.length > 0) {
    warn(`${name} is a port and has ${namesOf(above)} on it, which hears nothing`, `Remove what is on it. ${WAY_IN}`)
  }
  const own = addresses.filter((address) => address.index === index && !address.linkLocal)
  if (own.length > 0) {
    const remove = own.map(({ text }) => `ip address delete ${text} dev ${name}`).join('; ')
    warn(`${name} is a port: the host is not reached at ${listOf(own)} through it`, `${WAY_IN} Here: ${remove}`)
  }
  if (lost.length > 0) {
    warn(
      `${name} is a port: the host’s ${listOf(lost)} is off, as IPv6 is, until the device is given back`,
      `${WAY_IN} Then delete it here before the switch starts.`,
    )
  }
  if (defaultRoutes.includes(index)) {
    warn(`${name} is a port, and the host’s default route leads through it: no answers come back`, WAY_IN)
  }
  return warnings
}

/** Ours comes first, and lets nothing through. */
export function filteredWarning(name: string): SnapswitchError {
  return new SnapswitchError(
    'DEVICE_SHARED',
    `${name} is a port: ingress filters that others have there, such as libvirt’s limit <outbound>, see nothing`,
    `\`tc filter show dev ${name} ingress\` shows them. Limit what leaves at the other ports (libvirt’s <inbound>, ` +
      '`tc qdisc add … root`), or in the machine.',
  )
}

/**
 * A device that is not called as its port says any more: after a restart the port would wait for it, or take another
 * one.
 */
export function renamedError(port: { readonly name: string; readonly device: string }, now: string): SnapswitchError {
  return new SnapswitchError(
    'DEVICE_RENAMED',
    `the device of port ${port.name} is called ${now} now, and ${port.device} in the configuration`,
    `Rename it back, or write ${now} in the configuration before the switch starts again.`,
  )
}

/** Machines are started on a TAP by its own name: one that a configuration calls otherwise would not be found again. */
export function otherNameError(port: { readonly name: string; readonly device: string }, own: string): SnapswitchError {
  return new SnapswitchError(
    'DEVICE_RENAMED',
    `port ${port.name} has its device by another name, ${port.device}; a restore has to make it by its own, ${own}`,
    `Write ${own} in the configuration.`,
  )
}

function namesOf(above: readonly Above[]): string {
  return above.map(({ kind, name }) => `${kind} ${name}`).join(', ')
}

function listOf(addresses: readonly HostAddress[]): string {
  return addresses.map(({ text }) => text).join(', ')
}
