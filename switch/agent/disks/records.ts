// Where the disks of this host's machines are, and which image files snapswitch made: <state>/disks.json. It is written
// before a file is made and after a chain has changed, so that a machine's disk is known while the machine is off, and
// nothing of the user's is ever taken for ours.

import { join } from 'node:path'
import { type Static, Type } from '@sinclair/typebox'
import { Name } from '../../../src/api/schemas.js'
import { validator } from '../../../src/api/validate.js'
import { SnapswitchError } from '../../../src/errors/errors.js'
import { writeDurable } from '../../../src/files/durable.js'
import { readJson } from '../../../src/files/json.js'
import type { DiskLayer } from '../../../src/hypervisor/hypervisor.js'
import { fileId } from '../../../src/linux/open-files.js'
import { type FormerMode, ImageMode } from './image-mode.js'

const Layer = Type.Object({ file: Type.String(), format: Type.Union([Type.Literal('qcow2'), Type.Literal('raw')]) })

const DiskFile = Type.Object({
  format: Type.Literal(1),
  /** The state directory. Files in it are named by it, here and in all other records. Former versions did not say. */
  state: Type.Optional(Type.String()),
  /** machine -> disk -> its chain as last known, top first. */
  machines: Type.Record(Name, Type.Record(Type.String(), Type.Array(Layer))),
  /** Overlays and copies that snapswitch made beside users' disks, and for which machine. */
  made: Type.Record(Type.String(), Type.Object({ vm: Name })),
  /**
   * machine/disk -> the user's own images that it wrote to when a snapshot was taken of it here: nothing else is merged
   * into.
   */
  origins: Type.Record(Type.String(), Type.Array(Type.String())),
  /**
   * Files of ours that left a machine's chain without our doing: they may hold what somebody misses. file -> what is
   * known.
   */
  strays: Type.Record(Type.String(), Type.String()),
  /** Merges that were begun: machine, disk, and what it is merged into. */
  merging: Type.Optional(Type.Record(Type.String(), Type.String())),
  /** What frozen images had before they were made read-only, and what former versions knew of it. */
  readOnly: Type.Optional(Type.Record(Type.String(), ImageMode)),
  modes: Type.Optional(Type.Record(Type.String(), Type.Integer())),
})
type DiskFile = Static<typeof DiskFile>

/** What a state directory of an older version proves. */
export interface Derived {
  readonly made: readonly { readonly file: string; readonly vm: string }[]
  /** What machines wrote to when snapshots were taken of them. */
  readonly actives: readonly { readonly vm: string; readonly disk: string; readonly file: string }[]
}

export type Chains = Readonly<Record<string, readonly DiskLayer[]>>

const fits = validator(DiskFile)
const name = 'disks.json'

export class DiskRecords {
  readonly #path: string
  readonly #state: string
  #content: DiskFile
  #writes: Promise<void> = Promise.resolve()

  private constructor(state: string, content: DiskFile) {
    this.#state = state
    this.#path = join(state, name)
    this.#content = content
  }

  /**
   * `derive`: what a state directory of an older version proves, which has no such file. Throws STORE_DAMAGED,
   * STORE_IO.
   */
  static async open(state: string, derive: () => Promise<Derived>): Promise<DiskRecords> {
    const found = await readJson(join(state, name), fits)
    if (found !== null) {
      await refuseMoved(state, found.state ?? state)
      return new DiskRecords(state, { ...found, state: found.state ?? state })
    }
    const derived = await derive()
    const made = Object.fromEntries(derived.made.map(({ file, vm }) => [file, { vm }]))
    const records = new DiskRecords(state, { format: 1, state, machines: {}, made, origins: {}, strays: {} })
    for (const { vm, disk, file } of derived.actives) records.#addOrigin(vm, disk, file)
    await records.#write()
    return records
  }

  /** What snapswitch made, by the names under which it was made. */
  get made(): ReadonlyMap<string, string> {
    return new Map(Object.entries(this.#content.made).map(([file, { vm }]) => [file, vm]))
  }

  get strays(): ReadonlyMap<string, string> {
    return new Map(Object.entries(this.#content.strays))
  }

  get modes(): ReadonlyMap<string, ImageMode | FormerMode> {
    return new Map(Object.entries({ ...this.#content.modes, ...this.#content.readOnly }))
  }

  machines(): string[] {
    return Object.keys(this.#content.machines)
  }

  /** As last known; null when nothing is known of the machine. */
  chains(vm: string): Chains | null {
    return this.#content.machines[vm] ?? null
  }

  #isOrigin(vm: string, disk: string, file: string): boolean {
    return this.#content.origins[`${vm}/${disk}`]?.includes(file) ?? false
  }

  get origins(): Readonly<Record<string, readonly string[]>> {
    return this.#content.origins
  }

  /** Call before overlays are made, with the chains as they are. */
  async noteOrigins(vm: string, chains: Chains): Promise<void> {
    const added = Object.entries(chains).map(
      ([disk, chain]) => chain[0] !== undefined && this.#addOrigin(vm, disk, chain[0].file),
    )
    if (added.includes(true)) await this.#write()
  }

  #addOrigin(vm: string, disk: string, file: string): boolean {
    if (this.isOurs(file) || this.#isOrigin(vm, disk, file)) return false
    this.#content.origins[`${vm}/${disk}`] = [...(this.#content.origins[`${vm}/${disk}`] ?? []), file]
    return true
  }

  /** Call before an image file is made. */
  noteMade(vm: string, file: string): Promise<void> {
    this.#content.made[file] = { vm }
    return this.#write()
  }

  /** Call when files are gone. */
  async forget(files: readonly string[]): Promise<void> {
    const known = files.filter((file) => file in this.#content.made || file in this.#content.strays)
    if (known.length === 0) return
    for (const file of known) {
      delete this.#content.made[file]
      delete this.#content.strays[file]
    }
    await this.#write()
  }

  /**
   * The chains that a machine is on now, by what its hypervisor says. An image of ours that was in its chain and is not
   * any more becomes a stray: somebody else has changed the chain.
   */
  async learn(vm: string, chains: Chains): Promise<void> {
    const before = this.#content.machines[vm] ?? {}
    const now = new Set(Object.values(chains).flatMap((chain) => chain.map(({ file }) => file)))
    let changed = false
    for (const [disk, chain] of Object.entries(before)) {
      const top = chains[disk]?.[0]?.file
      // What was copied up into the same image lies below it no more, and nothing is lost.
      if (top === chain[0]?.file) continue
      // Our own merge, whose daemon was killed before it could write that down.
      if (top === undefined || this.#content.merging?.[`${vm}/${disk}`] === top) continue
      for (const { file } of chain) {
        if (now.has(file) || !this.isOurs(file) || file in this.#content.strays) continue
        this.#content.strays[file] = `was the disk ${disk} of ${vm} when ${vm} was started on ${top} without it`
        changed = true
      }
    }
    for (const [disk, chain] of Object.entries(chains)) {
      const base = this.#content.merging?.[`${vm}/${disk}`]
      if (base === undefined) continue
      // Over, or never come to its end.
      if (chain[0]?.file === base || chain[0]?.file === before[disk]?.[0]?.file) await this.endMerge(vm, disk)
    }
    // A disk that is not named now may be unsupported for a while only: what is known of it stays.
    const next = { ...before, ...copyOf(chains) }
    if (!changed && JSON.stringify(next) === JSON.stringify(before)) return
    this.#content.machines[vm] = next
    await this.#write()
  }

  /** The chains that a machine is on by our own doing: a merge, or a restore, which leaves what was before behind. */
  async replace(vm: string, chains: Chains): Promise<void> {
    this.#content.machines[vm] = copyOf(chains)
    await this.#write()
  }

  /** Call before a merge begins, with the image that the disk will be on. */
  async noteMerge(vm: string, disk: string, base: string): Promise<void> {
    this.#content.merging = { ...this.#content.merging, [`${vm}/${disk}`]: base }
    await this.#write()
  }

  /** The merge has failed: the chain is as it was. */
  async endMerge(vm: string, disk: string): Promise<void> {
    if (this.#content.merging?.[`${vm}/${disk}`] === undefined) return
    delete this.#content.merging[`${vm}/${disk}`]
    await this.#write()
  }

  /** One disk of it. */
  async replaceDisk(vm: string, disk: string, chain: readonly DiskLayer[]): Promise<void> {
    this.#content.machines[vm] = { ...this.#content.machines[vm], ...copyOf({ [disk]: chain }) }
    if (this.#content.merging !== undefined) delete this.#content.merging[`${vm}/${disk}`]
    await this.#write()
  }

  /** The machine lives on another host from now on, and needs nothing here. */
  async moveAway(vm: string): Promise<void> {
    if (vm in this.#content.machines) await this.replace(vm, {})
  }

  /** Whether snapswitch made the file of that name, or it lies in the state directory. */
  isOurs(file: string): boolean {
    const states = [this.#state, this.#content.state ?? this.#state]
    return file in this.#content.made || states.some((state) => file.startsWith(`${state}/`))
  }

  /** `mode` null: it has its own again. */
  async noteMode(file: string, mode: ImageMode | null): Promise<void> {
    const readOnly = { ...this.#content.readOnly }
    if (mode === null) delete readOnly[file]
    else readOnly[file] = mode
    this.#content.readOnly = readOnly
    if (this.#content.modes !== undefined) delete this.#content.modes[file]
    await this.#write()
  }

  /** One write after the other: what was asked for last is what stands in the end. */
  #write(): Promise<void> {
    const written = this.#writes.then(() => writeDurable(this.#path, JSON.stringify(this.#content, null, 1)))
    this.#writes = written.catch(() => undefined)
    return written
  }
}

/** Throws STORE_DAMAGED when the records are those of another directory: restored machines' disks would be nobody's. */
async function refuseMoved(state: string, former: string): Promise<void> {
  if (former === state) return
  const [now, then] = [await fileId(state), await fileId(former)]
  if (now !== null && now === then) return
  throw new SnapswitchError(
    'STORE_DAMAGED',
    `${join(state, name)} is from the state directory ${former}, and its records name files there`,
    `Mount ${state} at ${former}, or make ${former} a link to it, and leave \`state: ${former}\` in the configuration.`,
  )
}

const copyOf = (chains: Chains) =>
  Object.fromEntries(
    Object.entries(chains).map(([disk, chain]) => [disk, chain.map(({ file, format }) => ({ file, format }))]),
  )
