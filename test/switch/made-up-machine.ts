// A machine made up for a test: the daemon's own Machines over a hypervisor that does what the test gives it, and
// refuses the rest.

import { hypervisorsBy } from '../../src/hypervisor/drivers.js'
import type { Hypervisor, MachineControl, MachineInfo, MachineSpec } from '../../src/hypervisor/hypervisor.js'
import { Machines } from '../../switch/agent/machines.js'

/** For what a test needs not. */
export const unasked = (what: string) => (): never => {
  throw new Error(`nobody should be asked to ${what} in this test`)
}

export const bareInfo: MachineInfo = {
  name: 'vm',
  state: 'running',
  stateDetail: null,
  memoryBytes: 0,
  disks: [],
  media: [],
  unsupported: [],
  files: [],
  warnings: [],
  nics: [],
  captureMode: 'background',
  captureModeReason: null,
  hypervisorVersion: '0',
}

const bareControl: MachineControl = {
  name: 'vm',
  incarnation: '1:1',
  inspect: async () => bareInfo,
  definition: unasked('define itself'),
  prepare: unasked('prepare'),
  settings: unasked('tell its settings'),
  putBack: unasked('put settings back'),
  abandon: unasked('abandon'),
  hasten: unasked('hasten'),
  pause: unasked('pause'),
  capture: unasked('be captured'),
  resume: unasked('resume'),
  destroy: unasked('end'),
  collapse: unasked('collapse'),
  shorten: unasked('shorten'),
  checkCollapse: unasked('check a collapse'),
  dropOverlay: unasked('drop an overlay'),
  close: async () => {},
}

export const controlOf = (does: Partial<MachineControl>): MachineControl => ({ ...bareControl, ...does })

/** The machines of a host, by name; all are reached by the one hypervisor, and all are there. */
export function machinesBy(
  specs: Readonly<Record<string, MachineSpec>>,
  does: Pick<Hypervisor, 'attach'> & Partial<Hypervisor>,
): Machines {
  const hypervisor = {
    isThere: async () => true,
    load: unasked('be loaded'),
    endLoad: unasked('end a load'),
    ...does,
  }
  return new Machines(
    hypervisorsBy(() => hypervisor),
    new Map(Object.entries(specs)),
  )
}
