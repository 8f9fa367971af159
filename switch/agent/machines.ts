// The machines of this host: how to reach each hypervisor process, and connections that last as long as they are
// needed.

import { type ErrorReport, SnapswitchError } from '../../src/errors/errors.js'
import {
  examples,
  type Hypervisors,
  isSameMachine,
  kindOf,
  kindOfDefinition,
  type LoadRecord,
  rehearsals,
} from '../../src/hypervisor/drivers.js'
import type {
  Deadline,
  LoadedMachine,
  LoadRequest,
  MachineControl,
  MachineDefinition,
  MachineSpec,
  Nic,
} from '../../src/hypervisor/hypervisor.js'

export class Machines {
  readonly #hypervisors: Hypervisors
  #configured: ReadonlyMap<string, MachineSpec>
  readonly #specs: Map<string, MachineSpec>

  constructor(hypervisors: Hypervisors, configured: ReadonlyMap<string, MachineSpec>) {
    this.#hypervisors = hypervisors
    this.#configured = configured
    this.#specs = new Map(configured)
  }

  get configured(): ReadonlyMap<string, MachineSpec> {
    return this.#configured
  }

  /** The configuration is another one; machines that restores have brought here stay as these say. */
  configure(configured: ReadonlyMap<string, MachineSpec>): void {
    const moved = this.moved()
    for (const vm of this.#configured.keys()) if (moved[vm] === undefined) this.#specs.delete(vm)
    for (const [vm, spec] of configured) if (moved[vm] === undefined) this.#specs.set(vm, spec)
    this.#configured = configured
  }

  /** Those that restores brought here: reached otherwise than the configuration says. */
  moved(): Record<string, MachineSpec> {
    const isConfigured = (vm: string, spec: MachineSpec) => {
      const configured = this.#configured.get(vm)
      return configured !== undefined && isSameMachine(configured, spec)
    }
    return Object.fromEntries([...this.#specs].filter(([vm, spec]) => !isConfigured(vm, spec)))
  }

  set(vm: string, spec: MachineSpec): void {
    this.#specs.set(vm, spec)
  }

  /** Nothing that a restore has brought here is known any more: what the configuration says of it stays. */
  delete(vm: string): void {
    const own = this.#configured.get(vm)
    if (own === undefined) this.#specs.delete(vm)
    else this.#specs.set(vm, own)
  }

  /** Runs `use` while the machine is known by this spec, unless it is already. */
  async knownAs<T>(vm: string, spec: MachineSpec | undefined, use: () => Promise<T>): Promise<T> {
    const known = this.#specs.get(vm)
    if (spec === undefined || (known !== undefined && isSameMachine(known, spec))) return use()
    this.#specs.set(vm, spec)
    try {
      return await use()
    } finally {
      if (this.#specs.get(vm) === spec) {
        if (known !== undefined) this.#specs.set(vm, known)
        else this.delete(vm)
      }
    }
  }

  spec(vm: string): MachineSpec | undefined {
    return this.#specs.get(vm)
  }

  names(): string[] {
    return [...this.#specs.keys()]
  }

  /** Connects. The caller closes. Throws MACHINE_UNKNOWN, HYPERVISOR_UNREACHABLE, … */
  async attach(vm: string, deadline: Deadline): Promise<MachineControl> {
    const spec = this.#specs.get(vm)
    if (spec === undefined) {
      throw new SnapswitchError(
        'MACHINE_UNKNOWN',
        `no machine ${vm} here`,
        `Add it under \`machines:\` in the switch’s configuration: ${examples.map((example) => `${vm}: ${example}`).join(' or ')}`,
      )
    }
    try {
      return await this.#hypervisors[kindOf(spec)].attach(vm, spec, deadline)
    } catch (thrown) {
      if ((await this.#runs(vm, spec)) || !(await this.#isBack(vm, spec))) throw thrown
      const own = this.#specs.get(vm) ?? spec
      return this.#hypervisors[kindOf(own)].attach(vm, own, deadline)
    }
  }

  /** What speaks against starting it here, besides its files and ports. */
  async examine(definition: MachineDefinition, deadline: Deadline): Promise<ErrorReport[]> {
    return (await this.#hypervisors[kindOfDefinition(definition)].examine?.(definition, deadline)) ?? []
  }

  /** Starts a machine from its image; its definition says by which driver. */
  load(request: LoadRequest, deadline: Deadline): Promise<LoadedMachine> {
    return this.#hypervisors[kindOfDefinition(request.definition)].load(request, deadline)
  }

  /** Ends what a killed daemon had started to load, unless it was told to run and does: then false. */
  endLoad(load: LoadRecord, mayRun: boolean, deadline: Deadline): Promise<boolean> {
    return this.#hypervisors[load.kind].endLoad({ ...load, mayRun }, deadline)
  }

  /** Ends a throw-away machine, of whatever kind it is. */
  async endRehearsal(directory: string, deadline: Deadline): Promise<void> {
    for (const load of rehearsals(directory)) await this.endLoad(load, false, deadline)
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

  /** Whether somebody runs the machine. When in doubt, somebody does. */
  async isThere(vm: string): Promise<boolean> {
    const spec = this.#specs.get(vm)
    return spec !== undefined && ((await this.#runs(vm, spec)) || this.#isBack(vm, spec))
  }

  #runs(vm: string, spec: MachineSpec): Promise<boolean> {
    return this.#hypervisors[kindOf(spec)].isThere(vm, spec)
  }

  /**
   * Whether a machine that a restore had brought here, and that has ended since, was started by its owner as the
   * configuration says. From then on it is reached so.
   */
  async #isBack(vm: string, ended: MachineSpec): Promise<boolean> {
    const own = this.#configured.get(vm)
    if (own === undefined || isSameMachine(own, ended) || !(await this.#runs(vm, own))) return false
    // A restore may have brought another one meanwhile.
    if (this.#specs.get(vm) === ended) this.#specs.set(vm, own)
    return true
  }
}

type Nics = Pick<MachineDefinition, 'nics' | 'bridgedNics'>

/** All NICs on TAPs, whoever has made these, as the hypervisor says. */
export const allNics = ({ nics, bridgedNics = [] }: Nics): Nic[] => [...nics, ...bridgedNics]

/** The one on this device. */
export function nicOn(machine: Nics, device: string): Nic | undefined {
  return allNics(machine).find((nic) => nic.device === device)
}
