// The machines of this host: how to reach each hypervisor process, and connections that last as long as they are needed.

import { connect } from 'node:net'
import { asSnapswitchError, type ErrorReport, SnapswitchError } from '../../src/errors/errors.js'
import type {
  Deadline,
  Hypervisor,
  LoadedMachine,
  LoadRequest,
  MachineControl,
  MachineDefinition,
  MachineSpec,
  StartedLoad,
} from '../../src/hypervisor/hypervisor.js'

/** A driver for each kind of machine. */
export type Drivers = { readonly [kind in Hypervisor['kind']]: Hypervisor }

const driverOf = (spec: MachineSpec): Hypervisor['kind'] => ('qmp' in spec ? 'qemu' : 'libvirt')

const same = (a: MachineSpec | undefined, b: MachineSpec): boolean => {
  if (a === undefined) return false
  if ('qmp' in a) return 'qmp' in b && a.qmp === b.qmp
  return 'libvirt' in b && a.libvirt.domain === b.libvirt.domain && a.libvirt.uri === b.libvirt.uri
}

const PROBE_MS = 500
/** The first question starts the process that talks to libvirt. */
const LIBVIRT_PROBE_MS = 5000

export class Machines {
  private readonly drivers: Drivers
  private readonly configured: ReadonlyMap<string, MachineSpec>
  private readonly specs: Map<string, MachineSpec>

  constructor(drivers: Drivers, configured: ReadonlyMap<string, MachineSpec>) {
    this.drivers = drivers
    this.configured = configured
    this.specs = new Map(configured)
  }

  /** Those that restores brought here: reached otherwise than the configuration says. */
  moved(): Record<string, MachineSpec> {
    return Object.fromEntries([...this.specs].filter(([vm, spec]) => !same(this.configured.get(vm), spec)))
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
        `Add it under \`machines:\` in the switch’s configuration: ${vm}: { qmp: /path/of/its/qmp.sock } or ${vm}: { libvirt: { domain: NAME } }`,
      )
    }
    return this.drivers[driverOf(spec)].attach(vm, spec, deadline)
  }

  /** What speaks against starting it here, besides its files and ports. */
  async examine(definition: MachineDefinition, deadline: Deadline): Promise<ErrorReport[]> {
    return (await this.drivers[definition.kind].examine?.(definition, deadline)) ?? []
  }

  /** Starts a machine from its image; its definition says by which driver. */
  load(request: LoadRequest, deadline: Deadline): Promise<LoadedMachine> {
    return this.drivers[request.definition.kind].load(request, deadline)
  }

  /** Ends what a killed daemon had started to load, unless it was told to run and does: then false. */
  endLoad(kind: Hypervisor['kind'], load: StartedLoad, deadline: Deadline): Promise<boolean> {
    return this.drivers[kind].endLoad(load, deadline)
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

  /** Whether a hypervisor process is there for the machine. When in doubt, it is. */
  async isThere(vm: string): Promise<boolean> {
    const spec = this.specs.get(vm)
    if (spec === undefined) return false
    if ('qmp' in spec) return this.answers(spec.qmp)
    try {
      await this.using(vm, performance.now() + LIBVIRT_PROBE_MS, async () => {})
      return true
    } catch (thrown) {
      const { code } = asSnapswitchError(thrown)
      return code !== 'MACHINE_UNKNOWN' && code !== 'MACHINE_NOT_RUNNING'
    }
  }

  /** Nobody listens on the socket of a process that has ended. */
  private answers(qmp: string): Promise<boolean> {
    return new Promise((resolve) => {
      const socket = connect({ path: qmp })
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
