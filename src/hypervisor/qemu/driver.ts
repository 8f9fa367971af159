// The `qemu` driver: machines that run as plain QEMU processes with a QMP socket.

import { SnapswitchError } from '../../errors/errors.js'
import type { Deadline, Hypervisor, LoadRequest, MachineSpec } from '../hypervisor.js'
import { ImageWriter } from '../shared/image-writer.js'
import { endLoad, loadMachine } from './load.js'
import { QemuMachine } from './machine.js'

export interface QemuOptions {
  /** Saves memory with the guest stopped even where it could be saved in the background. */
  readonly alwaysStopped?: boolean
  /** False: the migration is not started ahead of the pause, even where QEMU allows it. For comparison and tests. */
  readonly startAhead?: boolean
}

/** Needs root, or the same user as the machines. Starts nothing until it is used. */
export function createQemuHypervisor(options: QemuOptions = {}): Hypervisor {
  const writer = new ImageWriter()
  const settings = { writer, alwaysStopped: options.alwaysStopped ?? false, startAhead: options.startAhead ?? true }
  return {
    kind: 'qemu',
    async attach(name: string, spec: MachineSpec, deadline: Deadline) {
      if ('qmp' in spec) return QemuMachine.attach(name, spec.qmp, settings, deadline)
      throw new SnapswitchError('INTERNAL', `${name} is no plain QEMU`, 'Please report this.')
    },
    load: (request: LoadRequest, deadline: Deadline) => loadMachine(request, settings, deadline),
    endLoad,
  }
}
