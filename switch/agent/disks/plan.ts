// Who needs which image file, and what may be merged or removed: decided from what was observed, without doing
// anything.
//
//   origin   the user's own image that a machine wrote to when its first snapshot was taken. Never merged below it,
//            never removed
//   pinned   named by a finished snapshot or by what undoes an unfinished one: never written, never removed
//   ours     on record as made by snapswitch, or fetched from another host: removed when nobody needs it
//
// All images above the lowest one that is neither pinned nor below the origin are merged into that one. In doubt a file
// is kept.

import type { DiskLayer } from '../../../src/hypervisor/hypervisor.js'

export interface MachineDisk {
  readonly name: string
  /** Top first. */
  readonly chain: readonly DiskLayer[]
}

export interface MachineView {
  readonly vm: string
  /**
   * `live`: it answers; `off`: nobody runs it; `unclear`: it is there and cannot be asked, or may not be merged
   * offline, or an image that it was on is missing.
   */
  readonly state: 'live' | 'off' | 'unclear'
  /** Why it is unclear, or why nothing of it may be touched now. */
  readonly reason: string | null
  readonly disks: readonly MachineDisk[]
  /** Whatever else its hypervisor has open. */
  readonly files: readonly string[]
}

/** Files are named in one way only: links and different names of one file are resolved before. */
export interface World {
  readonly machines: readonly MachineView[]
  /** file -> who names it. */
  readonly pins: ReadonlyMap<string, string>
  /** What must stay for another reason. */
  readonly kept: ReadonlyMap<string, string>
  /** Overlays and copies that snapswitch made. */
  readonly made: ReadonlySet<string>
  /** machine/disk -> images of the user's that may be merged into. What else is not ours is never written. */
  readonly origins: ReadonlyMap<string, ReadonlySet<string>>
  /** Copies of other hosts' files: as they were fetched, for ever. */
  readonly fetched: ReadonlySet<string>
  /** Files that exist. */
  readonly present: ReadonlySet<string>
  /** file -> what its header says that it stands on. Also of files that nobody has on record. */
  readonly backing: ReadonlyMap<string, readonly string[]>
  /** file -> numbers of the processes that have it open. */
  readonly open: ReadonlyMap<string, readonly number[]>
}

export interface Collapse {
  readonly vm: string
  readonly disk: string
  readonly live: boolean
  /** The chain as it was observed. */
  readonly chain: readonly DiskLayer[]
  /** `chain[depth]` is merged into. */
  readonly depth: number
}

/** A chain that has become too long: what is between its active image and `chain[depth]` is to be copied up. */
export type Shortening = Omit<Collapse, 'live'>

export interface Kept {
  readonly file: string
  readonly reason: string
}

export interface Plan {
  /** Needed by nobody. */
  readonly removals: readonly string[]
  readonly collapses: readonly Collapse[]
  readonly shortenings: readonly Shortening[]
  /** Files of ours that stay although no snapshot needs them, and why. */
  readonly kept: readonly Kept[]
}

export function plan(world: World): Plan {
  const needs = needed(world)
  const removals = [...world.made, ...world.fetched].filter((file) => world.present.has(file) && !needs.has(file))
  const gone = new Set(removals)
  const collapses: Collapse[] = []
  const kept = new Map<string, string>()
  for (const machine of world.machines) {
    for (const disk of machine.disks) {
      const wanted = wantedDepth(world, `${machine.vm}/${disk.name}`, disk.chain)
      const { depth, reason } = possibleDepth(world, machine, disk, wanted, gone)
      if (depth > 0)
        collapses.push({ vm: machine.vm, disk: disk.name, live: machine.state === 'live', chain: disk.chain, depth })
      if (reason !== null) for (const { file } of disk.chain.slice(depth, wanted)) kept.set(file, reason)
    }
  }
  for (const [file, reason] of world.kept) if (world.present.has(file)) kept.set(file, reason)
  return {
    removals: removals.sort(),
    collapses,
    shortenings: shortenings(world, LONGEST_CHAIN),
    kept: [...kept].map(([file, reason]) => ({ file, reason })),
  }
}

/** A chain of more images is shortened by itself. */
export const LONGEST_CHAIN = 16

/**
 * Chains of running machines with more than `longest` images that can be made short: nothing is written but the active
 * image, so that may be done whatever snapshots stand on the rest. It goes down to the user's own image, or to the
 * lowest one.
 */
export function shortenings(world: World, longest: number): Shortening[] {
  return world.machines.flatMap(({ vm, state, disks }) =>
    disks.flatMap(({ name, chain }) => {
      const active = chain[0]?.file
      if (state !== 'live' || active === undefined) return []
      if (!world.made.has(active) || world.pins.has(active)) return []
      const origin = chain.findIndex(({ file }) => world.origins.get(`${vm}/${name}`)?.has(file))
      if (chain.length <= longest && !isBackHome(world, chain.slice(0, origin + 1))) return []
      const depth = origin < 0 ? chain.length - 1 : origin
      return depth < 2 ? [] : [{ vm, disk: name, chain, depth }]
    }),
  )
}

/**
 * A machine that came back to its own disk from another host, when no snapshot needs any of it: what it brought along,
 * in files that are never written, is in the way of its disk's being what it was.
 */
function isBackHome(world: World, own: readonly DiskLayer[]): boolean {
  const between = own.slice(1, -1)
  return own.every(({ file }) => !world.pins.has(file)) && between.some(({ file }) => !world.made.has(file))
}

/** Every file that somebody needs, with all that it stands on, and why. */
export function needed(world: World): ReadonlyMap<string, string> {
  const needs = new Map<string, string>()
  const need = (first: string, reason: string) => {
    for (const waiting = [first]; waiting.length > 0; ) {
      const file = waiting.pop()!
      if (needs.has(file)) continue
      needs.set(file, reason)
      waiting.push(...(world.backing.get(file) ?? []))
    }
  }
  const isOurs = (file: string) => world.made.has(file) || world.fetched.has(file)
  for (const [file, who] of world.pins) need(file, who)
  for (const { vm, disks, files } of world.machines) {
    for (const { chain } of disks) for (const { file } of chain) need(file, `machine ${vm} runs on it`)
    for (const file of files) need(file, `machine ${vm} runs on it`)
  }
  for (const [file, reason] of world.kept) need(file, reason)
  for (const [file, pids] of world.open) if (pids.length > 0) need(file, `process ${pids.join(', ')} has it open`)
  // An image that is not ours is its owner's, and so is what it stands on.
  for (const file of world.backing.keys())
    if (!isOurs(file) && world.present.has(file)) need(file, 'it is nothing of ours')
  return needs
}

/**
 * The lowest image that the chain may be merged into as far as snapshots are concerned: its index, 0 when all stays.
 */
export function wantedDepth(
  world: Pick<World, 'pins' | 'made' | 'fetched' | 'origins'>,
  disk: string,
  chain: readonly DiskLayer[],
): number {
  for (let at = 0; at < chain.length; at++) {
    const { file } = chain[at]!
    if (world.pins.has(file) || world.fetched.has(file)) return Math.max(0, at - 1)
    // A machine that a restore brought here stands on files that are others' as much as its own.
    if (!world.made.has(file)) return world.origins.get(disk)?.has(file) ? at : Math.max(0, at - 1)
  }
  return Math.max(0, chain.length - 1)
}

/** How far down it can be merged now, and why not as far as wanted. */
function possibleDepth(
  world: World,
  machine: MachineView,
  { chain }: MachineDisk,
  wanted: number,
  gone: ReadonlySet<string>,
): { depth: number; reason: string | null } {
  if (wanted === 0) return { depth: 0, reason: null }
  if (machine.state === 'unclear')
    return { depth: 0, reason: machine.reason ?? `machine ${machine.vm} cannot be asked` }
  const users = new Set(machine.state === 'live' ? (world.open.get(chain[0]!.file) ?? []) : [])
  if (users.size > 1) return { depth: 0, reason: `processes ${[...users].join(', ')} write to ${chain[0]!.file}` }
  for (let at = 0; at <= wanted; at++) {
    const reason = obstacleAt(world, machine, chain, at, users, gone)
    if (reason !== null) return { depth: Math.max(0, at - 1), reason }
  }
  return { depth: wanted, reason: null }
}

/** Why the chain cannot be merged into its image `at`, or past it. */
function obstacleAt(
  world: World,
  machine: MachineView,
  chain: readonly DiskLayer[],
  at: number,
  users: ReadonlySet<number>,
  gone: ReadonlySet<string>,
): string | null {
  const { file } = chain[at]!
  if (!world.present.has(file)) return `${file} is missing`
  const strangers = (world.open.get(file) ?? []).filter((pid) => !users.has(pid))
  if (strangers.length > 0) return `process ${strangers.join(', ')} has ${file} open`
  for (const other of world.machines) {
    if (other.vm !== machine.vm && other.disks.some((disk) => disk.chain.some((layer) => layer.file === file)))
      return `machine ${other.vm} stands on ${file}, too`
  }
  const above = at === 0 ? null : chain[at - 1]!.file
  for (const [other, bases] of world.backing) {
    if (other === above || gone.has(other) || !world.present.has(other) || !bases.includes(file)) continue
    // A chain's own upper images name their base, also by way of a description of the whole chain.
    if (chain.slice(0, at).some((layer) => layer.file === other)) continue
    return `${other} stands on ${file}`
  }
  return null
}
