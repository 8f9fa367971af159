// A plain QEMU: how it is reached, and all that is needed to start it again.

import type { MachineDefinition } from '../hypervisor.js'

export type QemuSpec = {
  /** Path of the QMP socket. */
  readonly qmp: string
}

export interface QemuDefinition extends MachineDefinition {
  readonly kind: 'qemu'
  /** The hypervisor's command line, split into arguments; argv[0] is the binary. */
  readonly argv: readonly string[]
  /** Absolute path of the binary, when argv[0] is none. */
  readonly binary?: string
  /** The working directory that relative names in argv start from. */
  readonly directory?: string
  /** The control socket that it was reached by. */
  readonly qmp?: string
  /** Its process was root's. Former versions did not say so. */
  readonly ofRoot?: true
  /** It shows itself in a window, or on a terminal. */
  readonly window?: true
  /** Which element of argv brings each disk in. */
  readonly drives?: readonly { readonly name: string; readonly argument: number }[]
}
