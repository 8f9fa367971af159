// What a running QEMU consists of, asked of itself: devices that -device or device_add made, with where they sit;
// objects, character devices, processors. rebuild.ts compares it with the command line.

import { SnapswitchError } from '../../errors/errors.js'
import type { Deadline } from '../hypervisor.js'
import type { JsonObject, QmpClient } from '../shared/qmp.js'
import { checkCount, isObject } from '../shared/qmp-messages.js'

export type Value = string | number | boolean

export interface LiveDevice {
  /** null: it has none, and its place below peripheral-anon is its name. */
  readonly id: string | null
  readonly path: string
  /** The class's name, as -device takes it. */
  readonly driver: string
  /** Plugged into the running machine. */
  readonly hotplugged: boolean
  /** QOM path of the bus that it sits on; null when it sits on none. */
  readonly bus: string | null
  /** Where it sits on its bus, by the names that -device takes (addr, scsi-id, …). */
  readonly place: Readonly<Record<string, Value>>
  /** Of plugged ones: all properties that differ from the class's defaults. */
  readonly properties: Readonly<Record<string, Value>>
}

export interface LiveObject {
  readonly id: string
  readonly type: string
  readonly properties: Readonly<Record<string, Value>>
}

export interface Inventory {
  readonly devices: readonly LiveDevice[]
  readonly objects: readonly LiveObject[]
  readonly chardevs: ReadonlySet<string>
  /** Processors now, plugged ones among them; null when this QEMU does not tell. */
  readonly cpus: { readonly now: number; readonly initial: number } | null
}

/** Properties by which a bus tells its devices apart. QEMU chooses the ones that a command line leaves out. */
const placeNames = ['addr', 'scsi-id', 'lun', 'channel', 'port', 'nr'] as const

/** What -object takes of the types that devices are plugged with; one of another type cannot be told from outside. */
const memoryProperties = ['size', 'share', 'prealloc', 'merge', 'dump', 'policy', 'reserve'] as const
const objectProperties: Readonly<Record<string, readonly string[]>> = {
  'rng-builtin': [],
  'rng-random': ['filename'],
  iothread: ['poll-max-ns', 'poll-grow', 'poll-shrink', 'aio-max-batch', 'thread-pool-min', 'thread-pool-max'],
  'memory-backend-ram': memoryProperties,
  'memory-backend-memfd': [...memoryProperties, 'hugetlb', 'hugetlbsize', 'seal'],
  'memory-backend-file': [...memoryProperties, 'mem-path', 'align', 'pmem', 'readonly'],
}

/** Whether an object of this type can be made again from what QEMU tells of it. */
export const canRebuildObject = (type: string): boolean => type in objectProperties

interface Child {
  readonly name: string
  readonly type: string
}

/** Of one kind. Each is asked about with some commands. */
const MOST = 4000

const listOf = (answer: unknown, what: string): JsonObject[] => {
  const found = Array.isArray(answer) ? answer.filter(isObject) : []
  checkCount(what, found.length, MOST)
  return found
}

const childrenIn = (answer: unknown): Child[] =>
  listOf(answer, 'devices or objects').flatMap(({ name, type }) => {
    const match = /^child<(.*)>$/.exec(String(type))
    return match === null ? [] : [{ name: String(name), type: match[1]! }]
  })

/** What QEMU answers to each question; null for the ones that it refuses. */
async function askAll(
  qmp: QmpClient,
  commands: readonly (readonly [string, JsonObject])[],
  deadline: Deadline,
): Promise<unknown[]> {
  const results = await Promise.allSettled(qmp.executeAll(commands, deadline))
  return results.map((result) => {
    if (result.status === 'fulfilled') return result.value
    const { reason } = result
    if (reason instanceof SnapswitchError && reason.code === 'HYPERVISOR_REFUSED') return null
    throw reason
  })
}

const get = (path: string, property: string): readonly [string, JsonObject] => ['qom-get', { path, property }]

function asValue(value: unknown): Value | null {
  if (typeof value === 'string' || typeof value === 'boolean') return value
  return typeof value === 'number' && Number.isSafeInteger(value) ? value : null
}

function valuesOf(names: readonly string[], answers: readonly unknown[]): Record<string, Value> {
  const values: Record<string, Value> = {}
  for (const [i, name] of names.entries()) {
    const value = asValue(answers[i])
    if (value !== null) values[name] = value
  }
  return values
}

/** Slot and function as -device's text notation has them: a bare number would be read as a slot in hex. */
export function pciAddress(devfn: number): string {
  return `${(devfn >> 3).toString(16).padStart(2, '0')}.${(devfn & 7).toString(16)}`
}

/** `addr` of a PCI device is a number to QOM; a DIMM's is an address. */
function readable(place: Record<string, Value>, bus: string | null): Record<string, Value> {
  return bus !== null && typeof place.addr === 'number' ? { ...place, addr: pciAddress(place.addr) } : place
}

interface ClassProperty {
  readonly name: string
  readonly type: string
  readonly fallback: unknown
}

/** Told of every device, and refused by -device: of PCI ones since QEMU 9.2 (hw/pci/pci.c, prop_pci_busnr). */
const readOnly: readonly string[] = ['busnr']

const classProperties = (answer: unknown): ClassProperty[] =>
  listOf(answer, 'properties of a device')
    .map((entry) => ({ name: String(entry.name), type: String(entry.type), fallback: entry['default-value'] }))
    .filter(({ name, type }) => !name.startsWith('legacy-') && !type.startsWith('child<') && !readOnly.includes(name))

/** Classes whose further properties cannot be set, or follow from -cpu. */
const settable: readonly (readonly [RegExp, readonly string[]])[] = [
  [/-cpu$/, ['socket-id', 'die-id', 'cluster-id', 'core-id', 'thread-id', 'node-id']],
  [/dimm$/, ['memdev', 'addr', 'slot', 'node', 'label-size', 'uuid', 'unarmed']],
]

async function pluggedProperties(qmp: QmpClient, path: string, driver: string, deadline: Deadline) {
  const answer = await qmp.execute('device-list-properties', { typename: driver }, deadline)
  const few = settable.find(([pattern]) => pattern.test(driver))?.[1]
  const known = classProperties(answer).filter(({ name }) => few === undefined || few.includes(name))
  const values = await askAll(
    qmp,
    known.map(({ name }) => get(path, name)),
    deadline,
  )
  const properties: Record<string, Value> = {}
  for (const [i, { name, fallback }] of known.entries()) {
    const value = asValue(values[i])
    if (value === null || value === '' || value === fallback) continue
    properties[name] = value
  }
  return properties
}

async function readDevice(
  qmp: QmpClient,
  path: string,
  id: string | null,
  driver: string,
  deadline: Deadline,
): Promise<LiveDevice> {
  const [hotplugged, parent, ...places] = await askAll(
    qmp,
    ['hotplugged', 'parent_bus', ...placeNames].map((name) => get(path, name)),
    deadline,
  )
  const bus = typeof parent === 'string' && parent !== '' ? parent : null
  const place = readable(valuesOf(placeNames, places), bus)
  const properties = hotplugged === true ? readable(await pluggedProperties(qmp, path, driver, deadline), bus) : {}
  return { id, path, driver, hotplugged: hotplugged === true, bus, place, properties }
}

async function readObject(qmp: QmpClient, { name, type }: Child, deadline: Deadline): Promise<LiveObject> {
  const names = objectProperties[type] ?? []
  const answers = await askAll(
    qmp,
    names.map((property) => get(`/objects/${name}`, property)),
    deadline,
  )
  return { id: name, type, properties: valuesOf(names, answers) }
}

export async function takeInventory(qmp: QmpClient, deadline: Deadline): Promise<Inventory> {
  const [named, anonymous, objects, chardevs, cpus, smp] = await askAll(
    qmp,
    [
      ['qom-list', { path: '/machine/peripheral' }],
      ['qom-list', { path: '/machine/peripheral-anon' }],
      ['qom-list', { path: '/objects' }],
      ['query-chardev', {}],
      ['query-cpus-fast', {}],
      get('/machine', 'smp'),
    ],
    deadline,
  )
  const devices = await Promise.all([
    ...childrenIn(named).map(({ name, type }) => readDevice(qmp, `/machine/peripheral/${name}`, name, type, deadline)),
    ...childrenIn(anonymous).map(({ name, type }) =>
      readDevice(qmp, `/machine/peripheral-anon/${name}`, null, type, deadline),
    ),
  ])
  const initial = isObject(smp) && typeof smp.cpus === 'number' ? smp.cpus : null
  const labels = (Array.isArray(chardevs) ? chardevs.filter(isObject) : []).map(({ label }) => String(label))
  return {
    devices,
    objects: await Promise.all(childrenIn(objects).map((child) => readObject(qmp, child, deadline))),
    chardevs: new Set(labels),
    cpus: Array.isArray(cpus) && initial !== null ? { now: cpus.length, initial } : null,
  }
}
