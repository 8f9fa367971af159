// What a driver says of itself: data and pure functions, and how to make it work. The rest of the program asks these,
// and knows no driver by name; drivers.ts has the list.

import type { TProperties, TSchema } from '@sinclair/typebox'
import type { HolderProcess, Recognized } from './holder.js'
import type { CaptureMode, Hypervisor, MachineDefinition } from './hypervisor.js'

/** How a TAP is to be opened for a NIC. */
export interface TapNeed {
  readonly queues: number
  readonly vnetHeader: boolean
}

/** Of machines that can be there twice: loaded beside their former selves, and into throw-away machines. */
export interface Beside<Definition, Marks> {
  /** For the definition's NICs, in order: what `load` takes descriptors of. */
  tapNeeds(definition: Definition): readonly TapNeed[]
  /** What two of the machine cannot both have, in the words of its definition; empty when nothing keeps them apart. */
  heldAlone(definition: Definition): readonly string[]
  /** A throw-away machine's marks: its directory tells it, whatever machine was tried. */
  readonly rehearsed: Marks
}

export interface Driver<
  Address = unknown,
  Definition extends MachineDefinition = MachineDefinition,
  Marks extends object = object,
  Options = unknown,
> {
  /** In definitions and records. */
  readonly kind: Definition['kind']
  /** Of a machine in the configuration, in records and in the API: `NAME: { KEY: ADDRESS }`. */
  readonly key: string
  readonly address: TSchema
  /** An address as one writes it, for people who look for the words. */
  readonly example: string
  /** What the host's configuration has under the same key; null: nothing. */
  readonly options: TSchema | null
  /** `memory`: how it is saved at best. A driver that has no choice saves as it can. */
  create(options: Options, memory: CaptureMode): Hypervisor
  /** What it makes of a process that holds a TAP; null: none of its machines. Left out: it cannot tell. */
  recognize?(holder: HolderProcess): Recognized<Address> | null
  /** Whether both addresses lead to one machine. */
  isSame(one: Address, other: Address): boolean
  /** How it is reached, in a few words. */
  inWords(address: Address): string
  /** What may keep a machine from answering, for a person to look at. */
  whatToLookAt(address: Address): string
  /** How a person has a paused machine run on. */
  resumeByHand(address: Address): string
  /** Why a machine cannot be there twice: then its former self is ended before it is loaded, and no image is tried. */
  readonly beside: Beside<Definition, Marks> | { readonly impossible: string }
  /** What tells a load of the machine from others, beside its directory: on record before it begins. */
  readonly marks: TProperties
  marksOf(definition: Definition): Marks
  /**
   * The directory in the state directory that a machine reached so was loaded in; null when its address does not tell.
   */
  directoryOf(address: Address): string | null
  /** Why the images of a machine that is off are not merged; null: nobody but QEMU knows of them, and they are. */
  whyNotMergedOff(machine: string): string | null
}
