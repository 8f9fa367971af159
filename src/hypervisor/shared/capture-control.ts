// One machine's captures, one at a time: what all drivers' machines do alike around the work that differs.

import { asSnapswitchError, SnapswitchError } from '../../errors/errors.js'
import { nowUs } from '../../runtime/clock.js'
import type { Capture, Deadline, PauseInfo, ResumeInfo, SealInfo } from '../hypervisor.js'
import type { CutPace } from './cut-pace.js'
import { by, deadlinePassed } from './deadline.js'
import { type PausedWork, PauseWatch } from './pause-limit.js'
import type { QmpEvent } from './qmp-messages.js'

/** Where a capture stands. `prepared` may be paused or not: that is the hypervisor's state, not ours. */
type Phase = 'idle' | 'preparing' | 'prepared' | 'capturing' | 'closed'

const next = {
  idle: ['preparing', 'closed'],
  preparing: ['prepared', 'idle', 'closed'],
  prepared: ['capturing', 'idle', 'closed'],
  capturing: ['idle', 'closed'],
  closed: [],
} satisfies Record<Phase, readonly Phase[]> as Record<Phase, readonly Phase[]>

/** A prepared capture of one driver. */
export interface CaptureWork extends PausedWork {
  pause(deadline: Deadline): Promise<PauseInfo>
  /**
   * Saves the paused machine. `onResumed` is called once, when the guest runs again, also when it fails. It fails at
   * the latest when `late` rejects: the guest has stood still for too long.
   */
  run(onResumed: (info: ResumeInfo) => void, deadline: Deadline, late: Promise<never>): Promise<SealInfo>
  /** Undoes the preparation. `onRunning` is called once, when the machine runs again if it ran before. */
  abandon(onRunning: () => void): Promise<void>
}

export class CaptureControl {
  readonly pace: CutPace
  readonly #machine: string
  #phase: Phase = 'idle'
  #work: CaptureWork | null = null
  #paused = false
  #watch: PauseWatch | null = null
  /** Settles when a machine whose capture is undone runs again, if it ran before. */
  #running: Promise<void> = Promise.resolve()
  /** Why a capture was undone before it was asked for, once that is done. */
  #overdue: Promise<SnapswitchError> | null = null

  constructor(machine: string, pace: CutPace) {
    this.#machine = machine
    this.pace = pace
  }

  async prepare(make: () => Promise<CaptureWork>): Promise<void> {
    this.#enter('preparing', 'prepare')
    try {
      this.#paused = false
      this.#overdue = null
      this.#work = await make()
      this.#enter('prepared', 'prepare')
    } catch (error) {
      if (this.#phase === 'preparing') this.#phase = 'idle'
      throw error
    }
  }

  async abandon(): Promise<void> {
    if (this.#phase !== 'prepared') return
    const work = this.#work
    this.#work = null
    if (work !== null) await this.#undo(work)
    this.#endWatch()
    if (this.#phase === 'prepared') this.#phase = 'idle'
  }

  #undo(work: CaptureWork): Promise<void> {
    let onRunning = () => {}
    this.#running = new Promise((resolve) => {
      onRunning = resolve
    })
    return work.abandon(onRunning).finally(onRunning)
  }

  /** `stop`: how to, when nothing is prepared. */
  async pause(stop: () => Promise<PauseInfo>, deadline: Deadline): Promise<PauseInfo> {
    const work = this.#work
    if (work !== null) {
      this.pace.begin()
      this.#limitPause(work)
    }
    try {
      const info = await (work?.pause(deadline) ?? stop())
      this.#paused = true
      return info
    } catch (error) {
      this.pace.end()
      this.#endWatch()
      throw error
    } finally {
      this.pace.stopped()
    }
  }

  /** A pause of a capture that nobody goes on with is undone, too. */
  #limitPause(work: CaptureWork): void {
    const watch = new PauseWatch(work)
    this.#watch = watch
    watch.late.catch((error) => {
      if (this.#work !== work) return
      this.#overdue = this.abandon()
        .catch(() => {})
        .then(() => asSnapswitchError(error))
    })
  }

  #endWatch(): void {
    this.#watch?.end()
    this.#watch = null
  }

  capture(deadline: Deadline): Capture {
    const work = this.#work
    if (work === null && this.#overdue !== null) {
      const resumed = this.#overdue.then(() => ({ resumedAtUs: nowUs() }))
      const sealed = this.#overdue.then((error) => Promise.reject(error))
      sealed.catch(() => {})
      return { resumed, sealed, callOff: () => {} }
    }
    if (!this.#paused || work === null) {
      const message = `${this.#machine}: capture without prepare and pause.`
      throw new SnapswitchError('INTERNAL', message, 'Please report this.')
    }
    this.#enter('capturing', 'capture')
    this.#work = null
    this.#paused = false
    let onResumed: (info: ResumeInfo) => void = () => {}
    let onStuck: (error: Error) => void = () => {}
    const resumed = new Promise<ResumeInfo>((resolve, reject) => {
      onResumed = resolve
      onStuck = reject
    })
    const watch = this.#watch ?? new PauseWatch(work)
    this.#watch = null
    let callOff: (error: SnapswitchError) => void = () => {}
    const calledOff = new Promise<never>((_, reject) => {
      if (work.mode !== 'background') callOff = reject
    })
    const late = Promise.race([watch.late, calledOff])
    late.catch(() => {})
    const runsAgain = (info: ResumeInfo) => {
      // What follows belongs to a guest that runs.
      callOff = () => {}
      watch.end()
      this.pace.end()
      onResumed(info)
    }
    const sealed = work.run(runsAgain, deadline, late).finally(() => {
      watch.end()
      this.pace.end()
      if (this.#phase === 'capturing') this.#phase = 'idle'
    })
    // Had the machine been brought to run again, `resumed` would be settled by now.
    sealed.catch((error) => onStuck(asSnapswitchError(error)))
    resumed.catch(() => {})
    return { resumed, sealed, callOff: (error) => callOff(error) }
  }

  /** `ask` tells the machine to run, and returns when it does; `onEvent` hears its events. */
  async resume(
    onEvent: (listener: (event: QmpEvent) => void) => () => void,
    ask: () => Promise<unknown>,
    deadline: Deadline,
  ) {
    // Two that tell it to run get in each other's way (run-on.ts, protectedMemory).
    await by(deadline, this.#running, () => deadlinePassed(`Undoing the capture of ${this.#machine}`))
    let resumedAtUs: number | null = null
    const stop = onEvent(({ name, atUs }) => {
      if (name === 'RESUME') resumedAtUs = atUs
    })
    try {
      await ask()
    } finally {
      stop()
    }
    this.#paused = false
    this.pace.end()
    this.#endWatch()
    return { resumedAtUs: resumedAtUs ?? nowUs() } satisfies ResumeInfo
  }

  async close(): Promise<void> {
    await this.abandon().catch(() => {})
    this.pace.end()
    this.#phase = 'closed'
  }

  #enter(phase: Phase, what: string): void {
    if (!next[this.#phase].includes(phase)) {
      throw new SnapswitchError(
        'SNAPSHOT_BUSY',
        `${this.#machine}: ${what} while ${this.#phase}`,
        'Wait for the snapshot under way to end.',
      )
    }
    this.#phase = phase
  }
}
