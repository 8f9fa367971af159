// The `libvirt` driver: domains of a libvirtd on this host. All of libvirt's code runs in a process of its own
// (libvirt/main.ts): what goes wrong in there costs a snapshot, never the network.

import { SnapswitchError } from '../../errors/errors.js'
import type { Deadline, Hypervisor, LoadRequest, MachineDefinition, MachineSpec, StartedLoad } from '../hypervisor.js'
import { ImageWriter } from '../shared/image-writer.js'
import { endLoad, examine, loadDomain } from './load.js'
import { LibvirtMachine, type LibvirtSettings } from './machine.js'
import { LibvirtProcess } from './process-handle.js'

export const defaultUri = 'qemu:///system'

export interface LibvirtOptions {
  /** Of domains whose spec has none, and of those that are loaded. Default: qemu:///system. */
  readonly uri?: string
  /** Saves memory with the guest stopped even where it could be saved in the background. */
  readonly alwaysStopped?: boolean
  /** False: libvirt's disk snapshot comes into the pause even where disks can be copied. For comparison and tests. */
  readonly copyDisks?: boolean
}

export interface LibvirtHypervisor extends Hypervisor {
  readonly kind: 'libvirt'
  /** The process that has libvirt loaded, while it runs. */
  readonly pid: number | null
}

/** Needs root. Starts nothing until it is used; what it starts then ends with this process. */
export function createLibvirtHypervisor(options: LibvirtOptions = {}): LibvirtHypervisor {
  const settings: LibvirtSettings = {
    process: new LibvirtProcess(),
    writer: new ImageWriter(),
    uri: options.uri ?? defaultUri,
    alwaysStopped: options.alwaysStopped ?? false,
    copyDisks: options.copyDisks ?? true,
  }
  return {
    kind: 'libvirt',
    get pid() {
      return settings.process.pid
    },
    async attach(name: string, spec: MachineSpec, deadline: Deadline) {
      if ('libvirt' in spec) return LibvirtMachine.attach(name, spec.libvirt, settings, deadline)
      throw new SnapswitchError('INTERNAL', `${name} is no domain of libvirt`, 'Please report this.')
    },
    load: (request: LoadRequest, deadline: Deadline) => loadDomain(request, settings, deadline),
    examine: async (definition: MachineDefinition, deadline: Deadline) =>
      definition.kind === 'libvirt' ? examine(definition, settings, deadline) : [],
    endLoad: (load: StartedLoad, deadline: Deadline) => endLoad(load, settings, deadline),
  }
}
