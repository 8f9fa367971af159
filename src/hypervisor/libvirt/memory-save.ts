// A running domain's memory, saved behind libvirt's back: through the monitor, into a passed pipe, as QEMU's background
// snapshot or, where that cannot be had, with most of it sent ahead (sent-ahead.ts). libvirt ignores the events of a
// migration that it did not start (qemu_process.c, "got MIGRATION event without a migration job") and takes the RESUME
// at its begin as it comes. The file begins with libvirt's own head (save-image.ts).

import { randomBytes } from 'node:crypto'
import { closeSync } from 'node:fs'
import { rm, writeFile } from 'node:fs/promises'
import { asSnapswitchError, SnapswitchError } from '../../errors/errors.js'
import { storeError } from '../../files/durable.js'
import { nowUs } from '../../runtime/clock.js'
import type { CaptureMode, Deadline, ResumeInfo } from '../hypervisor.js'
import { by, deadlinePassed, pauseFor, remaining, within } from '../shared/deadline.js'
import { makePipe } from '../shared/descriptors.js'
import { canHoldAtGate, makeFitForGate, standsAtGate } from '../shared/held-save.js'
import type { ImageSink, ImageWriter, WrittenImage } from '../shared/image-writer.js'
import { readyMemory } from '../shared/mapped-memory.js'
import { isAlive, type ProcessIdentity } from '../shared/process.js'
import { isUnderWay, migrationStatus } from '../shared/qemu-migration.js'
import { applySettings, type MigrationSettings } from '../shared/qemu-migration-settings.js'
import { cont, protectedMemory, runOn, staysPaused } from '../shared/run-on.js'
import { runState, stateAfterMigration } from '../shared/run-state.js'
import { cancelMs, sendAhead } from '../shared/sent-ahead.js'
import { liftWriteProtection } from '../shared/write-protection.js'
import type { DomainLink } from './domain-link.js'
import { encodeHead, type SaveImageHead } from './save-image.js'

/** How long an image that nobody wants may take to be read to its end. */
const drainMs = 60_000
/** How often a migration is asked whether it has ended: in general, while a guest waits for it, and ahead of a cut. */
const lookMs = 20
const pausedLookMs = 2
const aheadLookMs = 100

export interface SaveContext {
  readonly machine: string
  readonly link: DomainLink
  readonly writer: ImageWriter
  readonly process: ProcessIdentity | null
  readonly memoryBytes: number
  readonly wasRunning: boolean
  readonly mode: CaptureMode
}

/** Why QEMU cannot be passed a pipe of ours, found out by trying; null when it can. A security driver may refuse it. */
export async function descriptorObstacle(link: DomainLink, deadline: Deadline): Promise<string | null> {
  const fdname = `snapswitch-${randomBytes(4).toString('hex')}`
  const { readFd, writeFd } = makePipe(4096)
  try {
    await link.executeWithDescriptor('getfd', { fdname }, writeFd, deadline)
    await link.execute('closefd', { fdname }, deadline)
    return null
  } catch (thrown) {
    const { code, message } = asSnapswitchError(thrown)
    if (code !== 'HYPERVISOR_REFUSED' && code !== 'PERMISSION') throw thrown
    return `QEMU may not take a descriptor (a security driver?): ${message}`
  } finally {
    closeSync(readFd)
    closeSync(writeFd)
  }
}

export class MemorySave {
  readonly #context: SaveContext
  readonly #file: string
  readonly #descriptorName = `snapswitch-${randomBytes(4).toString('hex')}`
  #sink: ImageSink | null = null
  #settings: MigrationSettings | null = null
  /** Whether QEMU was told to migrate, and may have taken it. */
  #migrating = false

  constructor(context: SaveContext, file: string) {
    this.#context = context
    this.#file = file
  }

  /**
   * All that can be done before the pause. On failure `end` undoes it. Returns whether it is done: memory that cannot
   * be sent ahead is saved in another way, and nothing is left of this one.
   */
  async prepare(head: SaveImageHead, deadline: Deadline, calledOff?: AbortSignal): Promise<boolean> {
    const { link, writer, process, memoryBytes } = this.#context
    const gated = this.#isBehind && canHoldAtGate(link.greeting)
    try {
      await writeFile(this.#file, encodeHead(head), { flag: 'wx', mode: 0o600 })
    } catch (error) {
      throw storeError(`cannot write ${this.#file}`, error)
    }
    if (process !== null && this.#isBehind) await readyMemory(process.pid, deadline)
    writer.start()
    const sink = writer.sink(this.#file, !this.#isBehind ? 'ahead' : gated ? 'gated' : 'plain')
    this.#sink = sink
    await sink.open(deadline)
    this.#settings = await applySettings(link, this.#context.mode, deadline)
    await link.executeWithDescriptor('getfd', { fdname: this.#descriptorName }, sink.writeFd, deadline)
    sink.closeWriteEnd()
    if (!this.#isBehind) return this.#sendAhead(sink, calledOff, deadline)
    if (!gated) return true
    await this.#migrate(deadline)
    await standsAtGate(process, memoryBytes, (limit) => runState(link, limit), deadline)
    return true
  }

  /** Whether it is a background snapshot: QEMU's, behind the running guest. */
  get #isBehind(): boolean {
    return this.#context.mode === 'background'
  }

  async #sendAhead(sink: ImageSink, calledOff: AbortSignal | undefined, deadline: Deadline): Promise<boolean> {
    const { link, machine } = this.#context
    await this.#migrate(deadline)
    let waiting = true
    const end = this.#migrationEnd(deadline, aheadLookMs, () => waiting)
    end.catch(() => {})
    const state = (limit: Deadline) => this.#state(limit)
    const isHeld = await sendAhead({ machine, sink, end, state, calledOff }, deadline).finally(() => {
      waiting = false
    })
    if (isHeld) return true
    await this.discard()
    await this.end()
    // A migration that came to its end has stopped its guest.
    if ((await stateAfterMigration(state, deadline)) === 'postmigrate') await link.execute('cont', {}, deadline)
    this.#sink = null
    this.#migrating = false
    await rm(this.#file, { force: true })
    return false
  }

  async #migrate(deadline: Deadline): Promise<void> {
    this.#migrating = true
    try {
      await this.#context.link.execute('migrate', { uri: `fd:${this.#descriptorName}` }, deadline)
    } catch (error) {
      if (error instanceof SnapswitchError && error.code === 'HYPERVISOR_REFUSED') this.#migrating = false
      throw error
    }
  }

  /** Saves the paused machine: `running` resolves when the guest runs again, `written` when its memory is on disk. */
  start(deadline: Deadline): { readonly running: Promise<ResumeInfo>; readonly written: Promise<WrittenImage> } {
    const image = this.#sink!.receive()
    const started = this.#migrating ? Promise.resolve() : this.#migrate(deadline)
    const told = this.#running(started, deadline)
    told.catch(() => {})
    const broken = Promise.all([started, image]).then(() => new Promise<never>(() => {}))
    const written = this.#complete(image, deadline)
    written.catch(() => {})
    return { running: Promise.race([told, broken]), written }
  }

  async #complete(image: Promise<WrittenImage>, deadline: Deadline): Promise<WrittenImage> {
    const written = await by(deadline, image, () => deadlinePassed(`Saving ${this.#context.machine}`))
    const reason = await this.#migrationEnd(deadline)
    if (reason !== null) throw new Error(reason)
    await this.#settings?.restore()
    return written
  }

  /** By QEMU's event, or by asking, since an event is lost with the connection. */
  async #running(started: Promise<void>, deadline: Deadline): Promise<ResumeInfo> {
    const { link, machine, wasRunning } = this.#context
    if (!this.#isBehind) {
      await started
      const reason = await this.#migrationEnd(deadline, pausedLookMs)
      if (reason !== null) throw new Error(reason)
      await stateAfterMigration((limit) => this.#state(limit), deadline)
      return { resumedAtUs: await link.patiently(() => cont(link, deadline), deadline) }
    }
    if (staysPaused(link)) {
      await started
      const resumedAtUs = await link.patiently(() => runOn(link, wasRunning, deadline), deadline)
      return { resumedAtUs }
    }
    let listening = true
    let stop = () => {}
    const seen = new Promise<ResumeInfo>((resolve) => {
      stop = link.onEvent(({ name, atUs }) => {
        if (name === 'RESUME') resolve({ resumedAtUs: atUs })
      })
    })
    const asked = async (): Promise<ResumeInfo> => {
      while (listening) {
        await pauseFor(50, deadline)
        const state = listening ? await this.#state(deadline) : ''
        if (state === 'running') break
        if (remaining(deadline) === 0) throw deadlinePassed(`Resuming ${machine}`)
      }
      return { resumedAtUs: nowUs() }
    }
    try {
      return await Promise.race([seen, asked()])
    } finally {
      listening = false
      stop()
    }
  }

  /** However often libvirtd is started anew meanwhile. */
  #state(deadline: Deadline): Promise<string> {
    const { link } = this.#context
    return link.patiently(() => runState(link, deadline), deadline)
  }

  /** Null when the migration has completed, or nobody waits for it any more; else QEMU's reason. */
  async #migrationEnd(deadline: Deadline, everyMs = lookMs, isWaitedFor = () => true): Promise<string | null> {
    const { link, machine } = this.#context
    for (;;) {
      if (!isWaitedFor()) return null
      const status = await link.patiently(() => migrationStatus(link, deadline), deadline)
      if (!isUnderWay(status)) {
        if (status.status === 'completed') return null
        const reason = status['error-desc']
        return typeof reason === 'string' ? reason : `the migration ${String(status.status)}`
      }
      if (remaining(deadline) === 0) throw deadlinePassed(`Saving ${machine}`)
      await pauseFor(everyMs, deadline)
    }
  }

  /** A guest with its save at the gate that has stopped by itself is paused now. Returns its state before, or null. */
  async makeFitForGate(deadline: Deadline): Promise<string | null> {
    const { link } = this.#context
    if (!this.#migrating || this.#sink?.isGated !== true) return null
    return makeFitForGate(link, deadline)
  }

  /**
   * Nobody wants the image: it is read to its end, since a guest whose stream breaks stays frozen (image-writer.ts).
   * A migration that would stop its guest there is cancelled first. Returns whether the save stood at the gate.
   */
  async discard(): Promise<boolean> {
    if (this.#migrating && !this.#isBehind)
      await this.#context.link.execute('migrate_cancel', {}, within(cancelMs)).catch(() => {})
    const isGated = this.#migrating && this.#sink?.isGated === true
    this.#sink?.discard()
    return isGated
  }

  /** After `discard`: waits until a save under way does not stop its guest by itself any more. */
  async mayRun(deadline: Deadline): Promise<void> {
    const { link } = this.#context
    if (this.#migrating && this.#isBehind) await link.patiently(() => protectedMemory(link, deadline), deadline)
  }

  /** After `discard`: waits for the end of the migration and puts the settings back. */
  async end(): Promise<void> {
    await this.#endMigration().catch(() => {})
    await this.#settings?.restore()
  }

  async #endMigration(): Promise<void> {
    const { link, process } = this.#context
    if (this.#sink === null) return
    if (!this.#migrating) {
      await link.execute('closefd', { fdname: this.#descriptorName }, within(2000)).catch(() => {})
      return
    }
    const reason = await this.#migrationEnd(within(drainMs)).catch(String)
    if (this.#isBehind && reason !== null && process !== null && isAlive(process)) liftWriteProtection(process.pid)
  }
}
