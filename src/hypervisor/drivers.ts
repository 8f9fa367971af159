// The list of drivers, the only one: what the configuration, the records, the API and the agent know of kinds of
// machines comes from here. A driver knows nothing of another, nor of this list.

import { type Static, type TObject, type TOptional, type TProperties, type TSchema, Type } from '@sinclair/typebox'
import { SnapswitchError } from '../errors/errors.js'
import type { Driver, TapNeed } from './driver.js'
import { exec } from './exec/driver.js'
import type { HolderProcess } from './holder.js'
import type { CaptureMode, Hypervisor, MachineDefinition, MachineSpec } from './hypervisor.js'
import { libvirt } from './libvirt/driver.js'
import { qemu } from './qemu/driver.js'

const drivers = { qemu, libvirt, exec }
type Drivers = typeof drivers
export type Kind = keyof Drivers

/** By kind. What is neutral here is each driver's own: it is asked about its own addresses and definitions only. */
const list: { readonly [K in Kind]: Driver & { readonly kind: K } } = drivers
const all: readonly Driver[] = Object.values(list)
export const kinds = Object.keys(drivers) as readonly Kind[]

/** A driver for each kind of machine, at work. */
export type Hypervisors = { readonly [K in Kind]: Hypervisor }

// --- schemas ---------------------------------------------------------------------------------------------------------

type Addresses = { [K in Kind as Drivers[K]['key']]: TOptional<Drivers[K]['address']> }

/** How a machine is reached: one of these keys. */
export const addresses = Object.fromEntries(all.map(({ key, address }) => [key, Type.Optional(address)])) as Addresses

/** The same in the API's answers, where `qmp` is null for machines of the other drivers. */
export const addressesShown = { ...addresses, qmp: Type.Union([qemu.address, Type.Null()]) }

type WithOptions = {
  [K in Kind as Drivers[K]['options'] extends TSchema ? Drivers[K]['key'] : never]: Drivers[K]['options']
}

/** What a host's configuration says of its hypervisors, by driver's key. */
export const hostOptions = Object.fromEntries(
  all.flatMap(({ key, options }) => (options === null ? [] : [[key, options]])),
) as WithOptions

/** A spec on disk: exactly one key. */
export const SpecRecord = Type.Unsafe<MachineSpec>(
  Type.Union(all.map(({ key, address }) => Type.Object({ [key]: address }))),
)

/** A load on disk; `more`: what the record says of it besides. */
export function loadRecord<More extends TProperties>(more: More) {
  const records = all.map(({ kind, marks }) =>
    Type.Object({ ...more, kind: Type.Literal(kind), directory: Type.String(), ...marks }),
  )
  return Type.Unsafe<Static<TObject<More>> & LoadRecord>(Type.Union(records))
}

/** What tells a load from others: its directory and what its driver marks it by. */
export interface LoadRecord {
  readonly kind: Kind
  readonly directory: string
}

// --- addresses -------------------------------------------------------------------------------------------------------

function reached(spec: object): { readonly driver: Driver; readonly address: unknown } {
  for (const driver of all) {
    const address = (spec as MachineSpec)[driver.key] ?? null
    if (address !== null) return { driver, address }
  }
  throw new SnapswitchError('INTERNAL', `no driver for ${JSON.stringify(spec)}`, 'Please report this.')
}

export const kindOf = (spec: MachineSpec): Kind => reached(spec).driver.kind as Kind

export const keys: readonly string[] = all.map(({ key }) => key)

/** How to write a machine's address, for each driver. */
export const examples: readonly string[] = all.map(({ key, example }) => `{ ${key}: ${example} }`)

/** `spec` may have more keys than its driver's. */
export function reachedBy(spec: object): string {
  const { driver, address } = reached(spec)
  return driver.inWords(address)
}

export function whatToLookAt(spec: MachineSpec): string {
  const { driver, address } = reached(spec)
  return driver.whatToLookAt(address)
}

export function resumeByHand(spec: MachineSpec): string {
  const { driver, address } = reached(spec)
  return driver.resumeByHand(address)
}

export function isSameMachine(one: MachineSpec, other: MachineSpec): boolean {
  const [a, b] = [reached(one), reached(other)]
  return a.driver === b.driver && a.driver.isSame(a.address, b.address)
}

/** The directory in the state directory that the machine was loaded in; null when that cannot be told. */
export function directoryOf(spec: MachineSpec): string | null {
  const { driver, address } = reached(spec)
  return driver.directoryOf(address)
}

/** Why the images of a machine that is off are not merged; null when they are. */
export function whyNotMergedOff(machine: string, spec: MachineSpec): string | null {
  return reached(spec).driver.whyNotMergedOff(machine)
}

// --- processes -------------------------------------------------------------------------------------------------------

/** Whoever starts machines of another's kind is asked before that one. */
const recognizers: readonly Driver[] = [libvirt, qemu]

/** What a process that holds a TAP is, as the driver says that knows it best. */
export interface RecognizedMachine {
  readonly kind: Kind
  readonly title: string | null
  readonly identity: string | null
  /** The best first; empty when `problem` says why it cannot be driven. */
  readonly specs: readonly MachineSpec[]
  readonly problem: SnapswitchError | null
}

/** Whether machines that are reached so can be found without being configured. */
export const isFound = (spec: MachineSpec): boolean => recognizers.includes(reached(spec).driver)

export function recognize(holder: HolderProcess): RecognizedMachine | null {
  for (const driver of recognizers) {
    const found = driver.recognize?.(holder) ?? null
    if (found === null) continue
    const { title, identity, addresses, problem } = found
    const specs = addresses.map((address) => ({ [driver.key]: address }))
    return { kind: driver.kind as Kind, title, identity, specs, problem }
  }
  return null
}

// --- definitions -----------------------------------------------------------------------------------------------------

function driverOf(definition: MachineDefinition): Driver {
  const driver = all.find(({ kind }) => kind === definition.kind)
  if (driver !== undefined) return driver
  throw new SnapswitchError(
    'MACHINE_UNSUPPORTED',
    `${definition.name} is a ${definition.kind} machine, which this version does not know`,
    'Use the version that took the snapshot, or a newer one.',
  )
}

export const kindOfDefinition = (definition: MachineDefinition): Kind => driverOf(definition).kind as Kind

/** Why the machine cannot be there twice: loaded beside its former self, or tried; null when it can. */
export function whyNotTwice(definition: MachineDefinition): string | null {
  const { beside } = driverOf(definition)
  return 'impossible' in beside ? beside.impossible : null
}

/** How its TAPs are to be opened, in the order of its NICs; none where the driver opens them itself. */
export function tapNeeds(definition: MachineDefinition): readonly TapNeed[] {
  const { beside } = driverOf(definition)
  return 'impossible' in beside ? [] : beside.tapNeeds(definition)
}

/** What keeps it from being loaded beside its former self, in the words of its definition. */
export function heldAlone(definition: MachineDefinition): readonly string[] {
  const { beside } = driverOf(definition)
  return 'impossible' in beside ? [] : beside.heldAlone(definition)
}

export function loadOf(definition: MachineDefinition, directory: string): LoadRecord {
  const driver = driverOf(definition)
  return { kind: driver.kind as Kind, ...driver.marksOf(definition), directory }
}

/** What throw-away machines in a directory may be, since those that can be there twice are told by it alone. */
export function rehearsals(directory: string): LoadRecord[] {
  return all.flatMap((driver) =>
    'impossible' in driver.beside ? [] : [{ kind: driver.kind as Kind, ...driver.beside.rehearsed, directory }],
  )
}

// --- at work ---------------------------------------------------------------------------------------------------------

/** One of each kind. */
export function hypervisorsBy(make: (kind: Kind) => Hypervisor): Hypervisors {
  return Object.fromEntries(kinds.map((kind) => [kind, make(kind)])) as Hypervisors
}

/** Starts nothing. `options`: by driver's key. `memory`: how it is saved at best. */
export function createHypervisors(
  options: Readonly<Record<string, unknown>>,
  memory: CaptureMode = 'background',
): Hypervisors {
  return hypervisorsBy((kind) => list[kind].create(options[list[kind].key], memory))
}
