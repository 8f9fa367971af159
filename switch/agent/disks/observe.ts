// What there is to know of this host's image files: snapshots, machines, records, open files, headers. Reads all of it
// for plan.ts; what cannot be read makes files needed, never free.

import { readdir } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { asSnapswitchError } from '../../../src/errors/errors.js'
import { whyNotMergedOff } from '../../../src/hypervisor/drivers.js'
import type { DiskLayer } from '../../../src/hypervisor/hypervisor.js'
import { filesOfBacking, readQcow2Header } from '../../../src/hypervisor/shared/qcow2-header.js'
import { onCommandLines, openFiles } from '../../../src/linux/open-files.js'
import type { DaemonHost } from '../host.js'
import { diskFrozen, onFrozen } from './frozen.js'
import { FileNames } from './names.js'
import type { MachineView, World } from './plan.js'
import { fetchedFiles, restoredImages } from './state-files.js'

const INSPECT_MS = 10_000

export interface Observation {
  readonly world: World
  readonly names: FileNames
  /** What finished snapshots have frozen. */
  readonly frozen: ReadonlySet<string>
  /**
   * What machines stand on that restores brought here: others' files, which must not change under them, also while they
   * are off.
   */
  readonly lent: ReadonlySet<string>
  /** Why nothing at all may be touched; null when that is not so. */
  readonly blind: string | null
  /** Whether what was seen of a machine holds: nothing has gone on with it since before the look. */
  readonly isQuiet: (vm: string | null) => boolean
  /** The chain of a machine's disk by the names that its hypervisor or the record has for its files. */
  chainAsNamed(vm: string, disk: string): readonly DiskLayer[]
}

export interface ObserveOptions {
  /** Whether no snapshot or restore of a machine was under way when the look began, or has begun since. */
  readonly isQuiet: (vm: string | null) => boolean
  /** A part that is to go: what it names is not needed by it. */
  readonly without?: { readonly network: string; readonly snapshot: string }
  /** Whether what is learned of machines' chains is written down. */
  readonly learn: boolean
  /** Whether strays count as needed. */
  readonly keepStrays: boolean
}

/** What an observation asks of its host. */
export type ObservedHost = Pick<DaemonHost, 'name' | 'store' | 'disks' | 'journal' | 'machines' | 'log'>

export async function observe(host: ObservedHost, options: ObserveOptions): Promise<Observation> {
  const names = new FileNames()
  const chains = new Map<string, readonly DiskLayer[]>()
  const { parts, damaged } = await host.store.allParts()
  const pins = new Map<string, string>()
  const frozen = new Set<string>()
  const pin = async (file: string, who: string) => {
    const name = await names.of(file)
    if (!pins.has(name)) pins.set(name, who)
  }
  for (const part of parts) {
    if (part.network === options.without?.network && part.snapshot === options.without.snapshot) continue
    const who = `snapshot ${part.network}/${part.snapshot} needs it`
    for (const file of referencedFiles(part)) await pin(file, who)
    for (const { layers } of part.members.flatMap((member) => member.disks))
      for (const { file } of layers) frozen.add(await names.of(file.path))
  }
  const undoing = new Set<string>()
  for (const { network, snapshot, machines } of await host.journal.unfinished()) {
    for (const { vm, record } of machines) {
      undoing.add(vm)
      for (const { layers } of record.disks)
        for (const { file } of layers) await pin(file, `it may be needed to undo ${network}/${snapshot}`)
    }
  }
  const kept = new Map<string, string>()
  const keep = async (file: string, reason: string) => {
    const name = await names.of(file)
    if (!kept.has(name)) kept.set(name, reason)
  }
  const made = new Map<string, string | null>(host.disks.made)
  for (const { file, vm } of await restoredImages(host.store)) made.set(file, vm)
  for (const { directories, vms } of [await restoresUnderWay(host)]) {
    for (const vm of vms) undoing.add(vm)
    for (const file of made.keys())
      if (directories.some((directory) => file.startsWith(`${directory}/`)))
        await keep(file, 'a restore is under way that needs it')
  }
  const fetched = await fetchedFiles(host.store)
  for (const { path, reason } of fetched) if (reason !== null) await keep(path, reason)
  if (options.keepStrays) {
    for (const [file, reason] of host.disks.strays)
      await keep(file, `it ${reason}; \`snapswitch snapshot prune --orphans\` removes it`)
  }

  const machines: MachineView[] = []
  for (const vm of new Set([...host.machines.names(), ...host.disks.machines()])) {
    const isQuiet = () => options.isQuiet(vm) && !undoing.has(vm)
    const view = await lookAt(host, vm, isQuiet, options.learn, names, chains)
    machines.push(view)
    const unknown = host.disks.chains(vm) === null && view.state !== 'live'
    if (view.state !== 'unclear' && !unknown) continue
    const reason = unknown ? `it is not known yet which disks ${vm} uses` : (view.reason ?? '')
    for (const [file, owner] of made) if (owner === vm) await keep(file, reason)
  }
  for (const [file, owner] of made) {
    if (owner !== null && !machines.some(({ vm }) => vm === owner))
      await keep(file, `it is not known which disks ${owner} uses`)
  }

  const madeNames = await names.all(made.keys())
  const origins = new Map<string, ReadonlySet<string>>()
  for (const [disk, files] of Object.entries(host.disks.origins)) origins.set(disk, await names.all(files))
  const fetchedNames = await names.all(fetched.map(({ path }) => path))
  for (const path of await onCommandLines(fetched.map(({ path }) => path)))
    await keep(path, 'a process was started with it')
  const lent = new Set<string>()
  for (const { vm, disks } of machines) {
    for (const { name, chain } of disks) {
      if (chain.some(({ file }) => origins.get(`${vm}/${name}`)?.has(file))) continue
      for (const { file } of chain.slice(1)) if (!madeNames.has(file) && host.disks.chains(vm) !== null) lent.add(file)
    }
  }
  const backing = await headers(names, madeNames, fetchedNames, machines)
  const ids = new Map([...names.present()].map((name) => [names.idOf(name)!, name]))
  const { holders, hidden } = await openFiles(new Set(ids.keys()))
  const open = new Map([...holders].map(([id, pids]) => [ids.get(id)!, pids]))
  const world = {
    machines,
    pins,
    kept,
    made: madeNames,
    origins,
    fetched: fetchedNames,
    present: names.present(),
    backing,
    open,
  }
  const blind =
    damaged.length > 0 ? `${damaged[0]} cannot be read, and what it needs cannot be told` : (hidden[0] ?? null)
  const chainAsNamed = (vm: string, disk: string) => chains.get(`${vm}/${disk}`) ?? []
  return { world, names, frozen, lent, blind, isQuiet: options.isQuiet, chainAsNamed }
}

async function restoresUnderWay(host: ObservedHost): Promise<{ directories: string[]; vms: string[] }> {
  const machines = (await host.journal.restores()).flatMap((record) => record.machines)
  return { directories: machines.map(({ directory }) => directory), vms: machines.map(({ vm }) => vm) }
}

async function lookAt(
  host: ObservedHost,
  vm: string,
  isQuiet: () => boolean,
  learn: boolean,
  names: FileNames,
  chains: Map<string, readonly DiskLayer[]>,
): Promise<MachineView> {
  const view = async (
    state: MachineView['state'],
    reason: string | null,
    files: readonly string[] = [],
  ): Promise<MachineView> => {
    const disks = []
    for (const [name, chain] of Object.entries(host.disks.chains(vm) ?? {})) {
      if (!chains.has(`${vm}/${name}`)) chains.set(`${vm}/${name}`, chain)
      disks.push({ name, chain: await named(chains.get(`${vm}/${name}`)!, names) })
    }
    return { vm, state, reason, disks, files: [...(await names.all(files))] }
  }
  const there = host.machines.spec(vm) !== undefined && (await host.machines.isThere(vm))
  const underWay = `a snapshot or restore of ${vm} is under way`
  if (!isQuiet()) return view('unclear', underWay)
  if (!there) {
    const spec = host.machines.spec(vm)
    const reason = spec === undefined ? null : whyNotMergedOff(vm, spec)
    const off = await view(reason === null ? 'off' : 'unclear', reason)
    const missing = off.disks.flatMap(({ chain }) => chain).find(({ file }) => !names.exists(file))
    if (reason !== null || missing === undefined) return off
    // What it lies on is mounted later, or the state directory was moved: others that are here may be its disks, too.
    return { ...off, state: 'unclear', reason: `${missing.file}, which ${vm} was on, cannot be found` }
  }
  try {
    const deadline = performance.now() + INSPECT_MS
    const info = await host.machines.using(vm, deadline, (control) => control.inspect(deadline))
    // What it should run on must not be forgotten.
    const wrong = await onFrozen(host, vm, info.disks)
    const right = info.disks.filter(({ name }) => !wrong.some(({ disk }) => disk === name))
    // Its answer may be from before a cut.
    if (!isQuiet()) return view('unclear', underWay)
    if (learn) await host.disks.learn(vm, Object.fromEntries(right.map(({ name, layers }) => [name, layers])))
    const recorded = wrong.flatMap(({ disk }) => host.disks.chains(vm)?.[disk] ?? []).map(({ file }) => file)
    for (const { name, layers } of info.disks) chains.set(`${vm}/${name}`, layers)
    for (const one of wrong) host.log.error({ err: diskFrozen(vm, one), vm }, 'a machine runs on a frozen image')
    if (learn) return view('live', null, [...info.files, ...recorded])
    const disks = []
    for (const { name, layers } of info.disks) disks.push({ name, chain: await named(layers, names) })
    return { vm, state: 'live', reason: null, disks, files: [...(await names.all([...info.files, ...recorded]))] }
  } catch (thrown) {
    return view('unclear', `${vm} runs and cannot be asked for its disks: ${asSnapswitchError(thrown).message}`)
  }
}

async function named(chain: readonly DiskLayer[], names: FileNames): Promise<DiskLayer[]> {
  const found: DiskLayer[] = []
  for (const { file, format } of chain) found.push({ file: await names.of(file), format })
  return found
}

/**
 * What files say that they stand on: those on record, those of the machines, and all others beside them, for a user may
 * have put an image of his own on one of them. Fetched files say where things lay on another host.
 */
async function headers(
  names: FileNames,
  made: ReadonlySet<string>,
  fetched: ReadonlySet<string>,
  machines: readonly MachineView[],
): Promise<Map<string, readonly string[]>> {
  const layers = machines.flatMap(({ disks }) => disks.flatMap(({ chain }) => chain.map(({ file }) => file)))
  const files = new Set([...made, ...layers])
  for (const directory of new Set([...files].map((file) => dirname(file)))) {
    for (const entry of await readdir(directory, { withFileTypes: true }).catch(() => []))
      if (entry.isFile() || entry.isSymbolicLink()) files.add(await names.of(join(directory, entry.name)))
  }
  const backing = new Map<string, readonly string[]>()
  for (const file of files) {
    if (fetched.has(file) || !names.isRegular(file)) continue
    const header = await readQcow2Header(file).catch(() => null)
    if (header?.backing == null) continue
    backing.set(file, [...(await names.all(filesOfBacking(header.backing, file)))])
  }
  return backing
}

/** All files that a record names by path and digest, wherever in it. */
export function referencedFiles(value: unknown): string[] {
  if (Array.isArray(value)) return value.flatMap(referencedFiles)
  if (typeof value !== 'object' || value === null) return []
  const { path, digest } = value as { path?: unknown; digest?: unknown }
  const own = typeof path === 'string' && typeof digest === 'string' ? [path] : []
  return [...own, ...Object.values(value).flatMap(referencedFiles)]
}
