// A machine that the user's own command drives (docs/reference/exec-driver.md): how it is reached, all that is needed
// to start it again, and what tells a load of it from others.

import type { MachineDefinition, StartedLoad } from '../hypervisor.js'

export interface ExecAddress {
  /** The program that is called, an absolute path. */
  readonly command: string
  /** The machine's name for that program; left out: its name here. */
  readonly machine?: string
  /** Where it was loaded by a restore. */
  readonly directory?: string
}

export type ExecSpec = { readonly exec: ExecAddress }

export interface ExecDefinition extends MachineDefinition {
  readonly kind: 'exec'
  readonly command: string
  /** The machine's name for the command; `name` is the one here. */
  readonly machine: string
  /** What the command wants to know when it loads the machine; means nothing to anybody else. */
  readonly details: string
}

export interface ExecLoad extends StartedLoad {
  readonly command: string
  readonly machine: string
}
