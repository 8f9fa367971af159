// The cable between a bridge that was taken over and the switch: a veth pair. The host's addresses, routes and servers
// stay on the bridge, and reach the network by it.

import { SnapswitchError } from '../../src/errors/errors.js'
import { bridgePorts, createPair, setPortFlags, trunkAllVlans } from '../../src/linux/bridge.js'
import type { Links } from '../../src/linux/link.js'
import type { Link } from '../../src/linux/link-message.js'
import { DeviceSysctl } from '../../src/linux/sysctl.js'
import { removeWithUs, type Watchdog } from './watchdog.js'

const NAME_LIMIT = 15

/** Devices that stand for a bridge's two ends of the cable: their names tell which. */
export function pairNames({ name, index }: Pick<Link, 'name' | 'index'>): { hostEnd: string; switchEnd: string } {
  const long = `ssh-${name}`.length > NAME_LIMIT
  const known = long ? String(index) : name
  return { hostEnd: `ssh-${known}`, switchEnd: `ssw-${known}` }
}

/** Of a device whose MTU was never set. */
const ETHERNET_MTU = 1500
/** The longest that a veth has. */
const LONGEST_MTU = 65535

/**
 * What the cable must carry: all that a port of the bridge may, or the bridge device, whose MTU may have been set by
 * hand. A bridge whose MTU was not has that of its lowest port (br_mtu_auto_adjust in net/bridge/br_if.c), which the
 * cable then never is; without ports it has Ethernet's.
 */
export function pairMtu(ports: readonly { readonly mtu: number }[]): number {
  return ports.length === 0 ? ETHERNET_MTU : Math.min(LONGEST_MTU, Math.max(...ports.map(({ mtu }) => mtu)))
}

/** Of a bridge whose last port has left (br_stp_recalculate_bridge_id in net/bridge/br_stp_if.c): it has none then. */
const LOST_MAC = '00:00:00:00:00:00'

/**
 * Makes the pair and puts one end into the bridge. Nothing is flooded to it yet but what the host itself sends to all,
 * whatever a port's flags say (br_flood in net/bridge/br_forward.c). A bridge without an address set by
 * hand has the lowest one of its ports', so this end has a high one; where there are no others, the bridge's own.
 * The answer removes it when this process dies.
 */
export function makePair(
  links: Links,
  bridge: Link,
  names: { hostEnd: string; switchEnd: string },
  aware: boolean,
): Watchdog {
  const ports = bridgePorts(links, bridge.index)
  const [one, other] = [randomTail(), randomTail()]
  const hostEnd = {
    name: names.hostEnd,
    mac: ports.length === 0 && bridge.mac !== null && bridge.mac !== LOST_MAC ? bridge.mac : `fe:ff:ff:${one}`,
  }
  if (links.find(names.hostEnd) !== null) throw nameUsed(names.hostEnd)
  const watchdog = removeWithUs(names.hostEnd)
  try {
    createPair(
      links,
      hostEnd,
      { name: names.switchEnd, mac: `fe:ff:fe:${other}` },
      pairMtu(ports.map(({ link }) => link)),
    )
    const end = links.get(names.hostEnd)
    watchdog.made(end.index)
    // The bridge speaks for the host; its ports have nothing to say.
    new DeviceSysctl('ipv6', 'disable_ipv6', () => links.nameOf(end.index)).write('1')
    links.change(end.index, { master: bridge.index })
    setPortFlags(links, end.index, { floods: false })
    if (aware) trunkAllVlans(links, end.index)
    links.change(end.index, { up: true })
  } catch (thrown) {
    watchdog.end()
    throw thrown
  }
  return watchdog
}

function nameUsed(name: string): SnapswitchError {
  return new SnapswitchError(
    'DEVICE_BUSY',
    `there is a device ${name} already, which is what the bridge's cable to the switch is called`,
    `Rename it, or remove it when nobody needs it: ip link delete ${name}`,
  )
}

/** One end goes with the other. Harmless when they are gone, or when the name is somebody else's device. */
export function removePair(links: Links, names: { hostEnd: string; switchEnd: string }): void {
  for (const name of [names.hostEnd, names.switchEnd]) {
    const link = links.find(name)
    if (link?.kind === 'veth' && link.mac?.startsWith('fe:ff:fe:') !== false) links.remove(link.index)
  }
}

function randomTail(): string {
  return Array.from({ length: 3 }, () =>
    Math.floor(Math.random() * 256)
      .toString(16)
      .padStart(2, '0'),
  ).join(':')
}
