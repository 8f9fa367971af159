// What a snapshot or a restore has left in the middle, put right: its records (journal.ts) say what it was about to
// touch. When a daemon was killed the next one does it, at its start; what could not be put right then, or by the
// session itself, is tried again (undoing.ts). Gates and hold queues went with the killed one's datapath.

import { rm, stat } from 'node:fs/promises'
import { basename } from 'node:path'
import { asSnapswitchError, SnapswitchError } from '../../src/errors/errors.js'
import { whyNotMergedOff } from '../../src/hypervisor/drivers.js'
import type { Disk, MachineControl } from '../../src/hypervisor/hypervisor.js'
import { commitOverlay } from '../../src/hypervisor/shared/qemu-img.js'
import { overlayStem } from '../../src/hypervisor/shared/qemu-overlays.js'
import type { Host } from './host.js'
import type { Moves } from './host-records.js'
import type { CutRecord, RestoreRecord, UnfinishedSnapshot } from './journal.js'
import { hasEnded, resumeMachine } from './resume.js'

/** A save under way comes to its end first, unread. */
const RECOVER_MS = 60_000
const END_MS = 10_000

/** What undoing a snapshot asks of its host. */
export type UndoHost = Pick<Host, 'clock' | 'log' | 'machines' | 'journal' | 'store' | 'disks'>
/** The same of undoing a restore. */
type LoadsHost = UndoHost & Pick<Host, 'ports' | 'records'>

/**
 * Machines that the snapshot has paused run on, its overlays are merged back, its files go. A machine that somebody
 * else has paused stays so: before the snapshot it was refused, and after it had run again this says so. What cannot be
 * put right now is logged and stays on record: undoing.ts tries again.
 */
export async function undoSnapshot(host: UndoHost, { network, snapshot, machines }: UnfinishedSnapshot): Promise<void> {
  host.log.warn({ network, snapshot }, 'undoing an unfinished snapshot')
  const deadline = host.clock.now().ms + RECOVER_MS
  const results = await Promise.allSettled(
    machines.map(async ({ vm, record, mayBePaused }) => {
      try {
        await undoCut(host, vm, record, mayBePaused, deadline)
      } catch (thrown) {
        host.log.error({ err: thrown, vm, snapshot }, 'cannot put the machine right')
        // Nobody may delete what is left of the snapshot until it is.
        await host.journal.noteStuck(network, snapshot, vm)
        throw thrown
      }
    }),
  )
  if (results.every(({ status }) => status === 'fulfilled')) await host.journal.removeUnfinished(network, snapshot)
}

/**
 * A machine that was found, and not configured, may not have been found again yet; and the one of that name may be
 * another by now.
 */
async function undoCut(host: UndoHost, vm: string, record: CutRecord, mayBePaused: boolean, deadline: number) {
  const { machines } = host
  const undo = () => undoKnown(host, vm, record, mayBePaused, deadline)
  const isKnown = machines.spec(vm) !== undefined
  const isUndone = await machines.knownAs(vm, record.spec, async () => {
    if (isKnown && !(await machines.isThere(vm))) return false
    await undo()
    return true
  })
  if (!isUndone) await undo()
}

async function undoKnown(host: UndoHost, vm: string, record: CutRecord, mayBePaused: boolean, deadline: number) {
  if (!(await host.machines.isThere(vm))) return undoCutOffline(host, vm, record, deadline)
  await host.machines.using(vm, deadline, async (control) => {
    // Also waits for the end of a save under way.
    const { state, disks } = await control.inspect(deadline)
    const same = record.incarnation === null || record.incarnation === control.incarnation
    if (same && mayBePaused && state === 'paused') {
      host.log.warn({ vm }, 'resuming a machine that a snapshot has paused')
      await resumeMachine(host, vm, control, deadline)
    }
    if (same && record.settings !== undefined) await control.putBack(record.settings, deadline)
    await undoOverlays(host, vm, control, record, disks, deadline)
  })
}

/**
 * Overlays of a capture that failed are merged back, or removed where no disk uses them. `live`: disks as they are now.
 */
export async function undoOverlays(
  host: UndoHost,
  vm: string,
  control: MachineControl,
  record: CutRecord,
  live: readonly Disk[],
  deadline: number,
): Promise<void> {
  const { frozen, overlays } = await finishedImages(host)
  await mergeBack(control, record, live, frozen, deadline)
  const { disks: now } = await control.inspect(deadline)
  const used = now.flatMap((disk) => disk.layers.map((layer) => layer.file))
  for (const { file, isSeen } of await strayOverlays(host, vm, record, [...frozen, ...overlays, ...used]))
    if (isSeen) await control.dropOverlay(file, deadline)
  await host.disks.replace(vm, chainsOf(now))
}

async function mergeBack(
  control: MachineControl,
  { label, disks }: CutRecord,
  live: readonly Disk[],
  frozen: readonly string[],
  deadline: number,
): Promise<void> {
  for (const { name, layers } of disks) {
    const [top, below] = live.find((disk) => disk.name === name)?.layers ?? []
    if (top === undefined || below?.file !== layers[0]?.file || !isOverlay(basename(top.file), label)) continue
    // Merging writes to the layer below: not to one that a finished snapshot has frozen.
    if (below === undefined || frozen.includes(below.file)) continue
    await control.collapse(name, below.file, deadline)
    await rm(top.file, { force: true })
  }
}

/**
 * The machine has ended, too. An overlay that is newer than its disk has what was written after the cut; an older one
 * was never used, or the disk was used without it since, and then it belongs to nothing any more.
 */
async function undoCutOffline(host: UndoHost, vm: string, record: CutRecord, deadline: number): Promise<void> {
  const spec = host.machines.spec(vm)
  const mergesOff = spec !== undefined && whyNotMergedOff(vm, spec) === null
  const { frozen, overlays } = await finishedImages(host)
  const strays = await strayOverlays(host, vm, record, [...frozen, ...overlays])
  const unseen = mergesOff ? strays.find(({ isSeen }) => !isSeen) : undefined
  if (unseen !== undefined) throw outOfReach(vm, unseen.base)
  for (const { file, base } of strays) {
    if (!mergesOff) {
      host.log.warn({ vm, file }, 'an overlay of an unfinished snapshot stays: whoever runs the machine may name it')
      continue
    }
    if ((await stat(file)).mtimeMs >= (await stat(base)).mtimeMs) await commitOverlay(file, base, deadline)
    await rm(file, { force: true })
  }
  if (spec === undefined || mergesOff) await host.disks.replace(vm, chainsOf(record.disks))
}

const outOfReach = (vm: string, disk: string) =>
  new SnapswitchError(
    'STORE_IO',
    `${disk} cannot be found, and what ${vm} wrote in its last snapshot may lie in an overlay beside it`,
    'Mount what it lies on: this is tried again. If the disk is gone for good, remove the snapshot’s directory below `snapshots` in the state directory.',
  )

const chainsOf = (disks: CutRecord['disks'] | readonly Disk[]) =>
  Object.fromEntries(disks.map(({ name, layers }) => [name, layers]))

/** Whether overlays of a capture are there, or may be, that no finished snapshot names. */
export async function hasOverlays(host: UndoHost, vm: string, record: CutRecord): Promise<boolean> {
  const { frozen, overlays } = await finishedImages(host)
  return (await strayOverlays(host, vm, record, [...frozen, ...overlays])).length > 0
}

/** Disk images that finished snapshots of this host have frozen, and the overlays that were put on them. */
async function finishedImages(host: UndoHost): Promise<{ frozen: string[]; overlays: string[] }> {
  const disks = (await host.store.parts()).flatMap((part) => part.members).flatMap((member) => member.disks)
  return {
    frozen: disks.flatMap(({ layers }) => layers.map((layer) => layer.file.path)),
    overlays: disks.map(({ overlay }) => overlay),
  }
}

interface StrayOverlay {
  readonly file: string
  readonly base: string
  /** False: nor is the disk that it was put on. What both lie on may be mounted later. */
  readonly isSeen: boolean
}

/** Overlays of this capture, but those to be kept. They are on record as made for this machine. */
async function strayOverlays(host: UndoHost, vm: string, { label, disks }: CutRecord, kept: readonly string[]) {
  const found: StrayOverlay[] = []
  for (const [file, owner] of host.disks.made) {
    const name = basename(file)
    if (owner !== vm || !isOverlay(name, label) || kept.includes(file)) continue
    const disk = disks.find((one) => name.startsWith(`${overlayStem(vm, one.name)}.${label}`))
    const base = disk?.layers[0]?.file
    if (base === undefined) continue
    const isSeen = await isThere(file)
    const isGone = isSeen === false && (await isThere(base)) === true
    if (!isGone) found.push({ file, base, isSeen: isSeen === true })
  }
  return found
}

/** null: that cannot be told. */
async function isThere(file: string): Promise<boolean | null> {
  try {
    await stat(file)
    return true
  } catch (thrown) {
    return (thrown as NodeJS.ErrnoException).code === 'ENOENT' ? false : null
  }
}

/** The drivers name overlays MACHINE-DISK.LABEL.qcow2, or MACHINE-DISK.LABEL-2.qcow2 and on when that exists. */
function isOverlay(name: string, label: string): boolean {
  const at = name.lastIndexOf(`.${label}`)
  return at > 0 && /^(-\d+)?\.qcow2$/.test(name.slice(at + 1 + label.length))
}

/**
 * Machines that a restore had loaded and that never ran are ended, with their ports, TAPs and overlays: the restore can
 * be repeated. Those that run stay. Call before the ports are opened; returns the moves as they are then. `configured`:
 * names of the configuration's ports.
 */
export async function endLoads(
  host: LoadsHost,
  moves: Moves,
  configured: Pick<ReadonlySet<string>, 'has'>,
): Promise<Moves> {
  let known = moves
  for (const record of await host.journal.restores()) {
    const { network, snapshot } = record
    host.log.warn({ network, snapshot }, 'undoing a restore whose daemon was killed')
    const { ended, failures } = await endMachines(host, record)
    const stuck = await resumeFormers(host, record)
    known = without(known, record, ended, configured)
    for (const { device, vm } of record.taps) if (ended.has(vm)) host.ports.removeTap(device)
    for (const { name } of record.standIns ?? []) host.ports.removeTap(name)
    const result = known
    await host.records.writeMoves(() => result)
    if (failures.length + stuck.length === 0) await host.journal.removeRestore(network)
  }
  return known
}

/**
 * What a restore of this daemon has left on record when it was called off: former machines that stand still, loaded
 * ones that may still be there. Its ports and TAPs are given back already. The record goes when all is put right; else
 * the answer is the first reason why not, and undoing.ts tries again.
 */
export async function undoRestore(host: UndoHost, record: RestoreRecord): Promise<SnapswitchError | null> {
  const { network, snapshot } = record
  host.log.warn({ network, snapshot }, 'undoing what a restore has left')
  const stuck = await resumeFormers(host, record)
  const { failures } = await endMachines(host, record)
  const [first = null] = [...stuck, ...failures]
  if (first === null) await host.journal.removeRestore(network)
  return first
}

/** Machines that stood still until they were ended, and have not been. Answers why some stand still yet. */
async function resumeFormers(host: UndoHost, { formers }: RestoreRecord): Promise<SnapswitchError[]> {
  const results = await Promise.all((formers ?? []).map((former) => resumeFormer(host, former)))
  return results.filter((failure) => failure !== null)
}

type FormerRecord = NonNullable<RestoreRecord['formers']>[number]

async function resumeFormer(host: UndoHost, { vm, incarnation, spec }: FormerRecord): Promise<SnapswitchError | null> {
  const { machines } = host
  try {
    await machines.knownAs(vm, spec, async () => {
      if (!(await machines.isThere(vm))) return
      const deadline = host.clock.now().ms + END_MS
      await machines.using(vm, deadline, async (control) => {
        const same = incarnation === null || incarnation === control.incarnation
        if (!same || (await control.inspect(deadline)).state !== 'paused') return
        host.log.warn({ vm }, 'resuming a machine that a restore has paused')
        await resumeMachine(host, vm, control, deadline)
      })
    })
    return null
  } catch (thrown) {
    host.log.error({ err: thrown, vm }, 'cannot resume a machine that a restore has paused')
    const error = asSnapswitchError(thrown)
    return hasEnded(error) ? null : error
  }
}

async function endMachines(host: UndoHost, { machines, resuming }: RestoreRecord) {
  const ended = new Set<string>()
  const failures: SnapswitchError[] = []
  await Promise.all(
    machines.map(async ({ vm, ...load }) => {
      try {
        if (!(await host.machines.endLoad(load, resuming, host.clock.now().ms + END_MS))) return
        await host.store.removeMachineDirectory(load.directory)
        ended.add(vm)
      } catch (thrown) {
        host.log.error({ err: thrown, vm }, 'cannot end a machine that a restore has loaded')
        failures.push(asSnapswitchError(thrown))
      }
    }),
  )
  return { ended, failures }
}

function without(
  moves: Moves,
  { ports }: RestoreRecord,
  ended: ReadonlySet<string>,
  configured: Pick<ReadonlySet<string>, 'has'>,
): Moves {
  const lost = new Set(ports.filter(({ vm }) => ended.has(vm)).map(({ name }) => name))
  const gone = [...lost].filter((name) => configured.has(name))
  return {
    machines: Object.fromEntries(Object.entries(moves.machines).filter(([vm]) => !ended.has(vm))),
    ports: moves.ports.filter(({ name }) => !lost.has(name)),
    gone: [...new Set([...moves.gone, ...gone])],
  }
}
