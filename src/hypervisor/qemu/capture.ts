// One capture of one QEMU machine, from the preparation before its pause to the sealed image, or back out of it from
// any point. The order is what keeps the pause short: all that can fail or takes long comes before it.
//
//   prepare   overlays made and opened, image file and pipe made, limits lifted, capability set; where QEMU allows it,
//             the migration itself started and held at the gate (image-writer.ts), after it has touched all of guest
//             memory. One that cannot be saved in the background has most of its memory sent ahead (sent-ahead.ts)
//   pause     stop, and the transaction behind it (overlays slide in); the caller drains and flips its ports meanwhile
//   capture   gate opens -> QEMU saves the devices, write-protects memory, resumes
//   seal      memory streams out behind the running guest; fsync; digest
//
// Without a background save, the capture ends with the stream, and the guest runs on after that.

import { constants } from 'node:fs'
import { open, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { SnapswitchError } from '../../errors/errors.js'
import { syncFile } from '../../files/durable.js'
import { nowUs } from '../../runtime/clock.js'
import type {
  CaptureMode,
  CaptureTarget,
  Deadline,
  FrozenDisk,
  PauseInfo,
  ResumeInfo,
  SealInfo,
} from '../hypervisor.js'
import type { LiveDisk } from '../shared/block-drives.js'
import type { CaptureWork } from '../shared/capture-control.js'
import { explainFailure } from '../shared/capture-failure.js'
import type { Composition } from '../shared/composition.js'
import { by, deadlinePassed, within } from '../shared/deadline.js'
import { canHoldAtGate, makeFitForGate, standsAtGate, staysStopped } from '../shared/held-save.js'
import type { ImageSink, ImageWriter, SinkKind, WrittenImage } from '../shared/image-writer.js'
import { readyMemory } from '../shared/mapped-memory.js'
import { type Holdup, migrationHoldup, pauseLimitMs, watchProgress } from '../shared/pause-limit.js'
import { isAlive, type ProcessIdentity } from '../shared/process.js'
import { checkStopped } from '../shared/qemu-checks.js'
import { migrationEnd, migrationStatus } from '../shared/qemu-migration.js'
import { applySettings, type MigrationSettings } from '../shared/qemu-migration-settings.js'
import { type Overlay, openOverlay, snapshotTransaction, storeFull, takeBackOverlays } from '../shared/qemu-overlays.js'
import { stopMachine } from '../shared/qemu-stop.js'
import type { QmpClient } from '../shared/qmp.js'
import { protectedMemory, runOn, staysPaused } from '../shared/run-on.js'
import { runState, stateAfterMigration } from '../shared/run-state.js'
import { cancelMs, sendAhead } from '../shared/sent-ahead.js'
import { liftWriteProtection } from '../shared/write-protection.js'

/** How long putting a machine right again may take after a failure, whatever the deadline of the capture was. */
const recoveryMs = 15_000
/** A QEMU that has ended closes its socket within that. */
const endedMs = 500
/** How long a stream may take that nobody wants any more. The guest runs meanwhile. */
const drainMs = 120_000
/** How long a cancelled save may take to end: the guest stands still meanwhile. */
const cancelledMs = 3000
const descriptorName = 'snapswitch-image'

export interface CaptureContext {
  readonly machine: string
  readonly qmp: QmpClient
  readonly composition: Composition
  readonly process: ProcessIdentity | null
  readonly owner: { readonly uid: number; readonly gid: number }
  readonly writer: ImageWriter
  readonly mode: CaptureMode
  readonly startAhead: boolean
  /** Whether it ran before: it runs again afterwards, and only then. */
  readonly wasRunning: boolean
  readonly memoryBytes: number
  readonly disks: readonly LiveDisk[]
}

export class QemuCapture implements CaptureWork {
  readonly #context: CaptureContext
  readonly #file: string
  #sink!: ImageSink
  /** `precopy` becomes `stopped` where memory could not be sent ahead. */
  #mode: CaptureMode
  readonly touchesMemory: boolean
  /** Whether the machine runs at the end: it ran before, and has not stopped for good by itself. */
  #runsAfterwards: boolean
  #overlays: Overlay[] = []
  #settings: MigrationSettings | null = null
  #end: Promise<string | null> | null = null
  /** Whether the machine was stopped for its cut. */
  #stopped = false
  /** Whether the transaction was sent. */
  #frozen = false
  #pausedAtUs = 0
  /** When the overlays were in place. */
  #disks: Promise<number | null> = Promise.resolve(null)
  /** QEMU's run state when it was stopped. */
  #state: Promise<string> = Promise.resolve('')

  private constructor(context: CaptureContext, file: string, gated: boolean) {
    this.touchesMemory = !gated
    this.#context = context
    this.#mode = context.mode
    this.#runsAfterwards = context.wasRunning
    this.#file = file
  }

  static async prepare(context: CaptureContext, target: CaptureTarget, deadline: Deadline): Promise<QemuCapture> {
    const file = path.join(target.directory, 'memory.img')
    const gated = context.mode === 'background' && context.startAhead && canHoldAtGate(context.qmp.greeting)
    context.writer.start()
    const capture = new QemuCapture(context, file, gated)
    await capture.#makeImage(gated ? 'gated' : context.mode === 'precopy' ? 'ahead' : 'plain')
    try {
      await capture.#prepare(target, gated, deadline)
      return capture
    } catch (error) {
      await capture.abandon()
      throw error
    }
  }

  async #makeImage(kind: SinkKind): Promise<void> {
    const file = this.#file
    try {
      await (await open(file, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o600)).close()
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'ENOSPC') throw storeFull(path.dirname(file), error)
      throw new SnapswitchError('STORE_IO', `${file} cannot be made: ${code}`, 'Check the store’s directory.', error)
    }
    this.#sink = this.#context.writer.sink(file, kind)
  }

  async #prepare(target: CaptureTarget, gated: boolean, deadline: Deadline): Promise<void> {
    const { qmp, mode, process } = this.#context
    const sink = this.#sink.open(deadline)
    sink.catch(() => {})
    if (mode !== 'precopy') await this.#openOverlays(target, deadline)
    this.#settings = await applySettings(qmp, mode, deadline)
    if (mode === 'background' && process !== null) await readyMemory(process.pid, deadline)
    await sink
    await this.#passSink(deadline)
    if (gated) await this.#startGated(deadline)
    if (mode !== 'precopy') return
    await this.#sendAhead(target.calledOff, deadline)
    // Last: what they cover may change while memory is sent.
    await this.#openOverlays(target, deadline)
  }

  async #openOverlays(target: CaptureTarget, deadline: Deadline): Promise<void> {
    const { machine, qmp, disks, owner } = this.#context
    const files = { ...target, machine }
    const opened = await Promise.allSettled(disks.map((disk) => openOverlay(qmp, disk, files, owner, deadline)))
    this.#overlays = opened.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
    for (const result of opened) if (result.status === 'rejected') throw result.reason
  }

  async #passSink(deadline: Deadline): Promise<void> {
    const { qmp } = this.#context
    await qmp.executeWithDescriptor('getfd', { fdname: descriptorName }, this.#sink.writeFd, deadline)
    this.#sink.closeWriteEnd()
  }

  /** Where that comes to nothing, the machine is saved standing still: with an image and a migration of their own. */
  async #sendAhead(calledOff: AbortSignal | undefined, deadline: Deadline): Promise<void> {
    const { machine, qmp } = this.#context
    // Should this process die: QEMU stops the guest at the migration's end.
    this.#sink.pausing(qmp.path)
    await this.#migrate(deadline)
    const state = (limit: Deadline) => runState(qmp, limit)
    if (await sendAhead({ machine, sink: this.#sink, end: this.#end!, state, calledOff }, deadline)) return
    this.#mode = 'stopped'
    await this.#stopMigration()
    await this.#restoreRunState()
    this.#sink.running()
    this.#end = null
    await rm(this.#file, { force: true })
    await this.#makeImage('plain')
    await this.#sink.open(deadline)
    await this.#passSink(deadline)
  }

  /** If this QEMU did stand still at the gate, `abandon` opens it. */
  async #startGated(deadline: Deadline): Promise<void> {
    const { qmp, process, memoryBytes } = this.#context
    await this.#migrate(deadline)
    await standsAtGate(process, memoryBytes, (limit) => runState(qmp, limit), deadline)
  }

  async #migrate(deadline: Deadline): Promise<void> {
    const { qmp } = this.#context
    const end = migrationEnd(qmp)
    end.catch(() => {})
    // Whether the command went through is not known before its answer, but then it may have.
    this.#end = end
    try {
      await qmp.execute('migrate', { uri: `fd:${descriptorName}` }, deadline)
    } catch (error) {
      if (error instanceof SnapswitchError && error.code === 'HYPERVISOR_REFUSED') this.#end = null
      throw error
    }
  }

  get machine(): string {
    return this.#context.machine
  }

  get mode(): CaptureMode {
    return this.#mode
  }

  get memoryBytes(): number {
    return this.#context.memoryBytes
  }

  async progress(): Promise<number> {
    return (await stat(this.#file)).size
  }

  async holdup(): Promise<Holdup> {
    const { qmp } = this.#context
    const limit = within(250)
    const [{ status }, state] = await Promise.all([migrationStatus(qmp, limit), runState(qmp, limit)])
    return migrationHoldup(typeof status === 'string' ? status : null, state)
  }

  /** Undoes `prepare`. The machine runs on if it ran. */
  async abandon(onRunning: () => void = () => {}): Promise<void> {
    const { qmp } = this.#context
    // It runs first, while the save stands at its gate: what follows the gate is no time for a `cont`.
    const fit = await this.#makeFitForGate()
    if (this.#stopped && fit) await this.#restoreRunState(undefined, pauseLimitMs).catch(() => {})
    await this.#openGate()
    if (this.#end !== null) await protectedMemory(qmp, within(recoveryMs)).catch(() => {})
    await this.#restoreRunState().catch(() => {})
    onRunning()
    await this.#stopMigration()
    await this.#restoreRunState().catch(() => {})
    this.#sink.running()
    if (qmp.failure === null) await this.#settings?.restore()
    await this.#dropOverlays().catch(() => {})
    await rm(this.#file, { force: true })
  }

  /** Whether the guest had not stopped by itself. One that had, with its save at the gate, is paused now. */
  async #makeFitForGate(): Promise<boolean> {
    if (this.#end === null || !this.#sink.isGated) return true
    const found = await makeFitForGate(this.#context.qmp, within(recoveryMs)).catch(() => null)
    if (staysStopped(found)) this.#runsAfterwards = false
    return found === null
  }

  /** Nobody wants the image any more. Returns whether a save stood at the gate. */
  async #openGate(): Promise<boolean> {
    await this.#makeFitForGate()
    const { isGated } = this.#sink
    await this.#discard()
    return isGated && this.#end !== null
  }

  /**
   * Stops the machine. The overlays come in the same write behind it: QEMU does one after the other, without a round
   * trip.
   */
  async pause(deadline: Deadline): Promise<PauseInfo> {
    const transaction = this.#overlays.length === 0 ? [] : [snapshotTransaction(this.#overlays)]
    this.#stopped = true
    if (this.#context.wasRunning) this.#sink.pausing(this.#context.qmp.path)
    const { stopped, doneAtUs, state } = stopMachine(this.#context.qmp, transaction, deadline)
    // Not when it is answered: an answer that comes too late does not mean that nothing was done.
    this.#frozen = transaction.length > 0
    this.#disks = doneAtUs
    this.#state = state
    const paused = await stopped
    this.#pausedAtUs = paused.pausedAtUs
    return paused
  }

  /** Saves memory of the paused machine. `onResumed` is called once, when the guest runs again. */
  async run(onResumed: (info: ResumeInfo) => void, deadline: Deadline, late: Promise<never>): Promise<SealInfo> {
    let resumedAt: ResumeInfo | null = null
    const resumed = (info: ResumeInfo) => {
      this.#sink.running()
      resumedAt ??= info
      onResumed(resumedAt)
    }
    try {
      return await this.#save(resumed, deadline, late)
    } catch (error) {
      const { machine, qmp } = this.#context
      // That QEMU has ended may be known by the pipe first.
      if (qmp.failure === null) await qmp.execute('query-status', {}, within(endedMs, deadline)).catch(() => {})
      // Asked before the image is removed: afterwards there is space again.
      const about = { machine, file: this.#file, lost: qmp.failure, log: 'QEMU’s log' }
      const explained = await explainFailure(error, about, deadline)
      await this.#recover(resumed)
      throw explained
    }
  }

  async #save(resumed: (info: ResumeInfo) => void, deadline: Deadline, overdue: Promise<never>): Promise<SealInfo> {
    const { machine, qmp, composition } = this.#context
    const late = () => deadlinePassed(`Saving ${machine}`)
    const [disksAtUs, state] = await Promise.race([Promise.all([this.#disks, this.#state]), overdue])
    await checkStopped(machine, qmp, state, deadline)
    const image = this.#sink.receive()
    const stamps = { savingAtUs: nowUs(), ...(disksAtUs === null ? {} : { disksAtUs }) }
    if (this.mode === 'background') {
      const resumedAtUs = await Promise.race([this.#saveBehind(deadline, overdue), this.#failure(image), overdue])
      resumed({ resumedAtUs, ...stamps })
      const watch = watchProgress(machine, () => this.progress())
      const same = composition.check(machine, this.#pausedAtUs, deadline)
      const saved = Promise.race([Promise.all([this.#completed(), same]), this.#failure(image), watch.stalled])
      await by(deadline, saved, late).finally(watch.stop)
    } else {
      if (this.#end === null) await Promise.race([this.#migrate(deadline), overdue])
      await by(deadline, Promise.race([this.#completed(), this.#failure(image), overdue]), late)
      await this.#restoreRunState((info) => resumed({ ...info, ...stamps }))
      await composition.check(machine, this.#pausedAtUs, deadline)
    }
    const written = await by(deadline, image, late)
    await this.#syncFiles()
    await this.#settings?.restore()
    return {
      memoryFile: this.#file,
      memoryBytes: written.bytes,
      memoryDigest: written.digest,
      captureMode: this.#mode,
      disks: this.#overlays.map(
        ({ disk, file }): FrozenDisk => ({ name: disk.name, layers: disk.layers, overlay: file }),
      ),
    }
  }

  /** Has QEMU save the paused machine in the background. Returns when that runs again, or could, in microseconds. */
  async #saveBehind(deadline: Deadline, overdue: Promise<never>): Promise<number> {
    const { qmp, wasRunning } = this.#context
    const running = staysPaused(qmp) ? null : qmp.event(({ name }) => name === 'RESUME', 'migrate', deadline)
    running?.catch(() => {})
    if (this.#end === null) await Promise.race([this.#migrate(deadline), overdue])
    if (running === null) return runOn(qmp, wasRunning, deadline)
    const { atUs } = await running
    if (!wasRunning) await qmp.execute('stop', {}, deadline)
    return atUs
  }

  async #completed(): Promise<void> {
    const reason = await this.#end
    if (reason !== null) throw new Error(reason)
  }

  /** Never resolves; rejects with what went wrong in QEMU or in writing, whichever comes first. */
  #failure(image: Promise<WrittenImage>): Promise<never> {
    return new Promise((_, reject) => {
      image.catch(reject)
      this.#completed().catch(reject)
    })
  }

  /** The frozen layers and the names of all new files, onto the disk: QEMU with cache=unsafe does not flush. */
  async #syncFiles(): Promise<void> {
    const frozen = this.#overlays.flatMap(({ disk }) => {
      const { file, dataFile } = disk.layers[0]!
      return dataFile === undefined ? [file] : [file, dataFile]
    })
    const directories = new Set(
      [this.#file, ...this.#overlays.map(({ file }) => file)].map((file) => path.dirname(file)),
    )
    for (const file of [...frozen, ...directories]) await syncFile(file)
  }

  /** Back to how it was: first the guest runs, then settings, disks and files. Does what it can, and never throws. */
  async #recover(resumed: (info: ResumeInfo) => void): Promise<void> {
    if (await this.#openGate()) await protectedMemory(this.#context.qmp, within(recoveryMs)).catch(() => {})
    if (this.mode === 'background') await this.#restoreRunState(resumed).catch(() => {})
    await this.#stopMigration()
    await this.#restoreRunState(resumed).catch(() => {})
    await rm(this.#file, { force: true }).catch(() => {})
    // A guest that stopped on a full disk can go on now that the image is gone.
    await this.#restoreRunState(resumed).catch(() => {})
    if (this.#context.qmp.failure === null) await this.#settings?.restore()
    await this.#dropOverlays().catch(() => {})
    await this.#goOnAfterFullDisk().catch(() => {})
  }

  /** While overlays were merged on a disk that was nearly full, the guest may have met its end once more. */
  async #goOnAfterFullDisk(): Promise<void> {
    const { qmp } = this.#context
    if (!this.#runsAfterwards || qmp.failure !== null) return
    if ((await runState(qmp, within(recoveryMs))) === 'io-error') await qmp.execute('cont', {}, within(recoveryMs))
  }

  /** A migration that would stop the guest at its end is cancelled before anything is read of it that leads there. */
  async #discard(): Promise<void> {
    if (this.mode !== 'background' && this.#end !== null)
      await this.#context.qmp.execute('migrate_cancel', {}, within(cancelMs)).catch(() => {})
    this.#sink.discard()
  }

  /**
   * Ends a migration under way. One in the background is never cancelled, which would freeze the guest
   * (image-writer.ts): it runs to its end, unread.
   */
  async #stopMigration(): Promise<void> {
    const { qmp, process } = this.#context
    const { mode } = this
    await this.#discard()
    if (qmp.failure !== null) return
    if (this.#end === null) {
      await qmp.execute('closefd', { fdname: descriptorName }, within(2000)).catch(() => {})
      return
    }
    const limit = within(mode === 'background' ? drainMs : cancelledMs)
    const reason = await by(limit, this.#end, () => deadlinePassed('Ending the migration')).catch(String)
    if (mode === 'background' && reason !== null && process !== null && isAlive(process))
      liftWriteProtection(process.pid)
  }

  /** Runs the machine if it ran before, and stops it if it did not. */
  async #restoreRunState(resumed?: (info: ResumeInfo) => void, limitMs = recoveryMs): Promise<void> {
    const { qmp } = this.#context
    const limit = within(limitMs)
    const status = await stateAfterMigration((by) => runState(qmp, by), limit)
    if (staysStopped(status)) this.#runsAfterwards = false
    const wasRunning = this.#runsAfterwards
    if (wasRunning && status === 'running') {
      resumed?.({ resumedAtUs: nowUs() })
    } else if (wasRunning) {
      const running = qmp.event(({ name }) => name === 'RESUME', 'cont', limit)
      await qmp.execute('cont', {}, limit)
      resumed?.({ resumedAtUs: (await running).atUs })
    } else {
      // After a migration the disks are handed over; only running takes them back. Both in one write: the guest barely
      // runs.
      const commands = status === 'postmigrate' ? (['cont', 'stop'] as const) : (['stop'] as const)
      if (status === 'running' || status === 'postmigrate') {
        await Promise.all(
          qmp.executeAll(
            commands.map((command) => [command, {}]),
            limit,
          ),
        )
      }
      resumed?.({ resumedAtUs: nowUs() })
    }
  }

  async #dropOverlays(): Promise<void> {
    const { qmp, process } = this.#context
    const overlays = this.#overlays
    this.#overlays = []
    await takeBackOverlays(qmp, process, overlays, this.#frozen, within(recoveryMs))
  }
}
