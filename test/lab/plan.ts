// What a lab is to be, and what a machine of it is.

import { GuestConsole } from './console.js'
import type { Guest, GuestJob } from './guest.js'
import type { Host } from './host.js'
import type { GuestImage } from './image.js'

export interface MachinePlan {
  readonly name: string
  readonly host: string
  readonly job: GuestJob
  /** More arguments of its QEMU; the function gives paths on its host. */
  readonly more?: (inside: Host['inside']) => readonly string[]
  /** Its `-netdev` without an id; the machine's own TAP unless said. */
  readonly netdev?: (inside: Host['inside']) => string
}

export interface LabPlan {
  readonly network: string
  readonly hosts: readonly string[]
  readonly machines: readonly MachinePlan[]
  readonly memoryMiB?: number
  /** What the machines boot; the tiny guest's image unless said. */
  readonly image?: GuestImage
  readonly memberMtu?: number
  /** 4 above the members' at least: the color tag needs the room. */
  readonly trunkMtu?: number
  /**
   * A LAN instead of trunks: a bridge in a namespace of its own, with an outside host on it (namespace `out`, device
   * eth0).
   */
  readonly lan?: { readonly outsideAddress: string }
}

type FileKind = 'qcow2' | 'qmp' | 'console' | 'shell' | 'log'
export type MachineFiles = Readonly<Record<FileKind, string>>

const filesAt = (at: (kind: FileKind) => string): MachineFiles => ({
  qcow2: at('qcow2'),
  qmp: at('qmp'),
  console: at('console'),
  shell: at('shell'),
  log: at('log'),
})

export class LabMachine {
  readonly plan: MachinePlan
  readonly mac: string
  readonly tap: string
  /**
   * Its files as its host has them: disk, QMP socket, console, socket of a shell inside the guest, QEMU's own words.
   */
  readonly files: MachineFiles
  /** The console since the machine was last started or restored. */
  console: GuestConsole
  guest: Guest | undefined
  #host: Host

  constructor(plan: MachinePlan, index: number, host: Host) {
    this.plan = plan
    this.mac = `52:54:00:77:00:${(index + 1).toString(16).padStart(2, '0')}`
    this.tap = `${plan.name}-tap`
    this.files = filesAt((kind) => host.inside('vm', `${plan.name}.${kind}`))
    this.#host = host
    this.console = new GuestConsole(this.outside.console)
  }

  /** Where it is: where it was started, or put by a restore. */
  get host(): Host {
    return this.#host
  }

  /** The same files, where it is, seen from outside. */
  get outside(): MachineFiles {
    return filesAt((kind) => this.#host.outside(this.files[kind]))
  }

  /** It is started, or restored, on `host`: only what its console says from now on counts. */
  startsOn(host: Host): void {
    this.#host = host
    const { console } = this.outside
    this.console = new GuestConsole(console, GuestConsole.lengthOf(console))
  }
}
