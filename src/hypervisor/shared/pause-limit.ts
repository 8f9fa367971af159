// How long a guest may stand still for a capture, whatever the capture's own deadline is: a snapshot may take minutes,
// and a frozen guest loses its connections in seconds. `background`: a fixed time from STOP to RESUME. Otherwise: as
// long as the save gets on, since it takes what its memory takes.

import { SnapswitchError } from '../../errors/errors.js'
import type { CaptureMode } from '../hypervisor.js'

/**
 * A background save needs some milliseconds; on a host whose cores are all busy, some hundreds. Shorter, and a busy
 * host would lose good snapshots; longer, and a stuck save would outlast what peers and watchdogs of the guest forgive.
 */
export const pauseLimitMs = 2000
/** Write-protecting memory in small pages takes 17 ms per GiB: a very large guest needs that on top. */
const protectMsPerGiB = 20
/** Reading a byte of each small page first, where QEMU does that within the pause (held-save.ts). */
const touchMsPerGiB = 100
/** A save that has written nothing for so long is taken to be stuck. */
export const stallLimitMs = 2000
/**
 * The same for a guest that runs while its memory is saved: it waits only when it writes to a page that is not saved
 * yet, but then for as long as the save does. Disks that are busy writing back stand still for seconds.
 */
export const backgroundStallMs = 15_000
const lookEveryMs = 100
/** The guest waits while the hypervisor is asked what is wrong. */
const reasonMs = 300

export interface PauseLimits {
  readonly mode: CaptureMode
  readonly memoryBytes: number
  /** Whether a background save touches all memory within the pause. */
  readonly touchesMemory?: boolean
  /** Other limits than a QEMU's: of a standstill in a stopped save, and from pause to resume in a background one. */
  readonly stallMs?: number
  readonly pauseMs?: number
}

/** What is watched. */
export interface PausedWork extends PauseLimits {
  readonly machine: string
  /** Changes as long as a stopped save gets on, like the bytes written. */
  progress(): Promise<number>
  /** What holds the save up and what to do, by the hypervisor's own word; null when it says nothing. */
  holdup(): Promise<Holdup | null>
}

export interface Holdup {
  readonly what: string
  readonly action: string
}

/** The longest time from STOP to RESUME; without an end where the save's progress decides. */
export function pauseLimit({ mode, memoryBytes, touchesMemory = false, pauseMs }: PauseLimits): number {
  if (mode !== 'background') return Number.POSITIVE_INFINITY
  const msPerGiB = protectMsPerGiB + (touchesMemory ? touchMsPerGiB : 0)
  return pauseMs ?? pauseLimitMs + (memoryBytes / 2 ** 30) * msPerGiB
}

/**
 * Whether a guest that stands still since `pausedMs` ago, its save's last progress `stalledMs` ago, has to run again.
 */
export function isOverdue(limits: PauseLimits, pausedMs: number, stalledMs: number): boolean {
  return limits.mode === 'background' ? pausedMs > pauseLimit(limits) : stalledMs > (limits.stallMs ?? stallLimitMs)
}

export function overdue(machine: string, milliseconds: number, holdup: Holdup | null): SnapswitchError {
  return new SnapswitchError(
    'CAPTURE_FAILED',
    `${machine} could not be saved: it stood still for ${(milliseconds / 1000).toFixed(1)} s, ` +
      `and ${holdup?.what ?? 'its hypervisor does not say why'}`,
    `${holdup?.action ?? 'See the hypervisor’s log and the host’s load.'} The machine runs on as before; a longer deadline does not help.`,
  )
}

/** Watches one pause, from its begin on. `late` never resolves, and rejects when the guest has to run again. */
export class PauseWatch {
  readonly late: Promise<never>
  #reject!: (error: SnapswitchError) => void
  readonly #work: PausedWork
  readonly #begun = performance.now()
  #timer: NodeJS.Timeout | null = null
  #ended = false
  #progress = -1
  #progressAt = performance.now()

  constructor(work: PausedWork) {
    this.#work = work
    this.late = new Promise((_, reject) => {
      this.#reject = reject
    })
    this.late.catch(() => {})
    this.#look()
  }

  /** It runs again, or is somebody else's care. */
  end(): void {
    this.#ended = true
    if (this.#timer !== null) clearTimeout(this.#timer)
  }

  #look(): void {
    this.#timer = setTimeout(() => void this.#judge(), lookEveryMs)
  }

  async #judge(): Promise<void> {
    const work = this.#work
    if (work.mode !== 'background') {
      const progress = await work.progress().catch(() => -1)
      if (progress !== this.#progress) {
        this.#progress = progress
        this.#progressAt = performance.now()
      }
    }
    if (this.#ended) return
    const now = performance.now()
    if (!isOverdue(work, now - this.#begun, now - this.#progressAt)) return this.#look()
    const silence = new Promise<null>((resolve) => setTimeout(() => resolve(null), reasonMs))
    const holdup = await Promise.race([work.holdup().catch(() => null), silence])
    if (!this.#ended) this.#reject(overdue(work.machine, performance.now() - this.#begun, holdup))
  }
}

/** Rejects when a save in the background gets on no more; never resolves. `stop` ends the watch. */
export function watchProgress(machine: string, progress: () => Promise<number>, limitMs = backgroundStallMs) {
  let last = -1
  let since = performance.now()
  let timer: NodeJS.Timeout | null = null
  const stalled = new Promise<never>((_, reject) => {
    timer = setInterval(async () => {
      // What cannot be told is not taken for a standstill.
      const now = await progress().catch(() => Number.NaN)
      if (now !== last) since = performance.now()
      last = now
      if (performance.now() - since > limitMs) reject(stuck(machine, limitMs))
    }, lookEveryMs * 5)
  })
  stalled.catch(() => {})
  const stop = () => {
    if (timer !== null) clearInterval(timer)
  }
  return { stalled, stop }
}

function stuck(machine: string, limitMs: number): SnapswitchError {
  return new SnapswitchError(
    'CAPTURE_FAILED',
    `${machine} could not be saved: for ${limitMs / 1000} s nothing of its memory could be written, and its guest waits for that`,
    'See whether the disk that holds the state directory answers. The machine runs on as before; a longer deadline does not help.',
  )
}

const saveAgain = 'Take the snapshot again when it is over.'

/**
 * What QEMU's migration waits for, by its status (qapi/migration.json, MigrationStatus). Snapshots turn all
 * capabilities off that lead to most of these; a tool that turns one on in the middle, or a newer QEMU, gets here all
 * the same.
 */
const waits: Readonly<Record<string, Holdup>> = {
  none: { what: 'QEMU has not begun to save it', action: 'See what keeps the host and QEMU busy.' },
  setup: {
    what: 'QEMU does not get beyond the setup of the save',
    action: 'See QEMU’s log, and what other tools do with this machine’s migration.',
  },
  'pre-switchover': {
    what: 'QEMU waits for somebody’s `migrate-continue` (capability pause-before-switchover)',
    action: 'Turn pause-before-switchover off: another tool has set it.',
  },
  'wait-unplug': {
    what: 'QEMU waits for the guest to let go of a failover NIC (wait-unplug)',
    action: 'Unplug the failover pair’s primary NIC (device_del) before the snapshot.',
  },
  device: { what: 'QEMU is stuck in saving its devices', action: 'See QEMU’s log for the device.' },
  active: {
    what: 'QEMU’s save makes no progress',
    action: 'See whether the disk that holds the state directory answers, and what keeps the host busy.',
  },
  colo: { what: 'QEMU is in COLO replication', action: 'End the replication before the snapshot.' },
  cancelling: { what: 'QEMU’s save is being cancelled by somebody else', action: saveAgain },
  cancelled: { what: 'QEMU’s save was cancelled by somebody else', action: saveAgain },
  'postcopy-active': { what: 'QEMU is in a postcopy migration', action: saveAgain },
  'postcopy-paused': {
    what: 'QEMU’s postcopy migration has lost its other end',
    action: 'Recover or end that migration first.',
  },
  'postcopy-recover': { what: 'QEMU recovers a postcopy migration', action: saveAgain },
}

/** By the answer of `query-migrate` and the machine's run state. */
export function migrationHoldup(migration: string | null, runState: string | null): Holdup {
  const status = migration ?? 'none'
  const known = waits[status] ?? {
    what: `QEMU’s migration is in the state ${status}`,
    action: 'See QEMU’s log, and what other tools do with this machine’s migration.',
  }
  return runState === null || runState === 'paused' || runState === 'finish-migrate'
    ? known
    : { ...known, what: `${known.what} (run state: ${runState})` }
}
