// A domain of libvirt: how it is reached, all that is needed to start it again, and what tells a load of it from
// others.

import type { MachineDefinition, StartedLoad } from '../hypervisor.js'

export interface DomainAddress {
  readonly domain: string
  /** The driver's own when it is left out. */
  readonly uri?: string
}

export type LibvirtSpec = { readonly libvirt: DomainAddress }

export interface LibvirtDefinition extends MachineDefinition {
  readonly kind: 'libvirt'
  /** The domain's name; `name` is the machine's in snapswitch. */
  readonly domain: string
  readonly uuid: string
  /** The running domain's XML, without secrets (passwords of displays): those are in the image alone. */
  readonly xml: string
  /** Whether libvirt keeps its configuration when it does not run. */
  readonly persistent: boolean
  /** Size of the file that its firmware keeps variables in. */
  readonly varsBytes?: number
  readonly libvirtVersion: string
}

export interface DomainLoad extends StartedLoad {
  readonly domain: string
}
