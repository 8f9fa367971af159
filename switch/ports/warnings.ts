// What is not right with ports that carry frames all the same: said in `port list` for as long as it is so, and once in
// the log.

import type { Logger } from 'pino'
import type { SnapswitchError } from '../../src/errors/errors.js'
import { defaultRouteDevices, listAddresses } from '../../src/linux/addresses.js'
import { isCalled } from '../../src/linux/link-message.js'
import type { NetlinkSocket } from '../../src/linux/netlink.js'
import type { Attachment } from './attachment.js'
import { type Devices, filteredWarning, type HostState, renamedError, sharedWarnings } from './host-use.js'
import { findLoops } from './loops.js'
import { loopError, trunksWithoutRoom } from './problems.js'
import type { PortEntry } from './table.js'

/**
 * Addresses that the device had before it became a port, why the host is not kept out of it any more, and whether
 * others have filters there.
 */
type Attached = Pick<Attachment, 'lost' | 'trouble' | 'filtersBehind'>

export class PortWarnings {
  readonly #log: Logger
  #warnings = new Map<string, readonly SnapswitchError[]>()

  constructor(log: Logger) {
    this.#log = log
  }

  of(port: string): readonly SnapswitchError[] {
    return this.#warnings.get(port) ?? []
  }

  /** Looks at everything anew. `attached`: what a port has done to its device. */
  look(
    socket: NetlinkSocket,
    devices: Devices,
    ports: readonly PortEntry[],
    attached: (port: string) => Attached | undefined,
  ): void {
    try {
      const state = { addresses: listAddresses(socket), defaultRoutes: defaultRouteDevices(socket) }
      const found = warningsOf(ports, devices, state, attached)
      for (const port of ports) this.#tell(port, found.get(port.name) ?? [])
      this.#warnings = found
    } catch (thrown) {
      this.#log.warn({ err: thrown }, 'the host’s addresses and routes cannot be looked at')
    }
  }

  #tell({ name: port, device }: PortEntry, now: readonly SnapswitchError[]): void {
    const before = this.of(port)
    for (const warning of now) {
      if (!before.some(({ message }) => message === warning.message))
        this.#log.warn({ err: warning, port, device }, 'something is not right with a port')
    }
    for (const { code, message } of before) {
      if (!now.some((warning) => warning.message === message))
        this.#log.info({ port, device, code, was: message }, 'a port is right again')
    }
  }
}

/** By port. Pure. */
export function warningsOf(
  ports: readonly PortEntry[],
  devices: Devices,
  state: HostState,
  attached: (port: string) => Attached | undefined,
): Map<string, SnapswitchError[]> {
  const found = new Map<string, SnapswitchError[]>()
  const add = (port: string, ...warnings: SnapswitchError[]) => {
    if (warnings.length > 0) found.set(port, [...(found.get(port) ?? []), ...warnings])
  }
  const links = devices.here
  const byIndex = new Map(links.map((link) => [link.index, link]))
  for (const port of ports) {
    const link = byIndex.get(port.ifindex)
    if (link === undefined) continue
    if (!isCalled(link, port.device)) add(port.name, renamedError(port, link.name))
    const { lost = [], trouble = null, filtersBehind = false } = attached(port.name) ?? {}
    if (trouble !== null) add(port.name, trouble)
    add(port.name, ...sharedWarnings(link, devices, state, lost))
    if (filtersBehind) add(port.name, filteredWarning(link.name))
  }
  const here = ports.filter(({ ifindex }) => byIndex.has(ifindex))
  for (const loop of findLoops(here, links)) for (const { name } of loop.ports) add(name, loopError(loop))
  for (const network of new Set(ports.map((port) => port.network)))
    for (const { port, error } of trunksWithoutRoom(here, network)) add(port, error)
  return found
}
