// The machines of this host: how to reach each hypervisor process, and connections that last as long as they are needed.

import { connect } from 'node:net'
import type { PortRecord } from '../../src/api/schemas.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import type { Deadline, Hypervisor, MachineControl } from '../../src/hypervisor/hypervisor.js'

export interface MachineSpec {
  readonly qmp: string
}

const PROBE_MS = 500

export class Machines {
  readonly hypervisor: Hypervisor
  private readonly configured: ReadonlyMap<string, MachineSpec>
  private readonly specs: Map<string, MachineSpec>

  constructor(hypervisor: Hypervisor, configured: ReadonlyMap<string, MachineSpec>) {
    this.hypervisor = hypervisor
    this.configured = configured
    this.specs = new Map(configured)
  }

  /** Those that restores brought here: reached otherwise than the configuration says. */
  moved(): Record<string, MachineSpec> {
    return Object.fromEntries([...this.specs].filter(([vm, spec]) => this.configured.get(vm)?.qmp !== spec.qmp))
  }

  set(vm: string, spec: MachineSpec): void {
    this.specs.set(vm, spec)
  }

  delete(vm: string): void {
    this.specs.delete(vm)
  }

  spec(vm: string): MachineSpec | undefined {
    return this.specs.get(vm)
  }

  names(): string[] {
    return [...this.specs.keys()]
  }

  /** Connects. The caller closes. Throws MACHINE_UNKNOWN, HYPERVISOR_UNREACHABLE, … */
  attach(vm: string, deadline: Deadline): Promise<MachineControl> {
    const spec = this.specs.get(vm)
    if (spec === undefined) {
      throw new SnapswitchError(
        'MACHINE_UNKNOWN',
        `no machine ${vm} here`,
        `Add it under \`machines:\` in the switch’s configuration: ${vm}: { qmp: /path/of/its/qmp.sock }`,
      )
    }
    return this.hypervisor.attach(vm, spec, deadline)
  }

  /** Runs `use` on a connection that is closed after. */
  async using<T>(vm: string, deadline: Deadline, use: (control: MachineControl) => Promise<T>): Promise<T> {
    const control = await this.attach(vm, deadline)
    try {
      return await use(control)
    } finally {
      await control.close()
    }
  }

  /** Whether a hypervisor process answers for the machine: nobody listens on the socket of one that has ended. */
  isThere(vm: string): Promise<boolean> {
    const spec = this.specs.get(vm)
    if (spec === undefined) return Promise.resolve(false)
    return new Promise((resolve) => {
      const socket = connect({ path: spec.qmp })
      const answer = (there: boolean) => {
        socket.destroy()
        resolve(there)
      }
      // A full backlog or a socket that hangs belongs to a process that is there.
      socket.setTimeout(PROBE_MS, () => answer(true))
      socket.on('connect', () => answer(true))
      socket.on('error', (error: NodeJS.ErrnoException) =>
        answer(error.code !== 'ENOENT' && error.code !== 'ECONNREFUSED'),
      )
    })
  }
}

/** The MAC that a NIC on this device has, as the hypervisor says. */
export function macOf(nics: readonly { device: string; mac: string | null }[], device: string): string | null {
  return nics.find((nic) => nic.device === device)?.mac ?? null
}

/** The TAPs of a definition's NICs on the host of a restore: a port's device, or the NIC's own where no port has it. */
export function tapsFor(nics: readonly { device: string }[], ports: readonly PortRecord[]): string[] {
  return nics.map((nic) => ports.find((port) => port.device === nic.device)?.device ?? nic.device)
}
