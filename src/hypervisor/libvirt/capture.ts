// One capture of one domain, from the preparation before its pause to the sealed image, or back out of it from any
// point.
//
//   fast (`background`)  overlays by libvirt's own disk snapshot before the pause, so that libvirt's view is right
//                        throughout; at the cut QEMU begins to copy them (disk-copies.ts) and saves memory
//                        (memory-save.ts), both behind the guest, which stands still for some milliseconds. Where QEMU
//                        may not open the copies (AppArmor), libvirt's snapshot comes into the pause instead.
//   ahead (`precopy`)    the same, with libvirt's disk snapshot and the rest of memory in the pause
//   plain (`stopped`)    libvirt's external snapshot with memory, the machine standing still meanwhile
//
// libvirtd may go away and come back at any point: what must be asked is asked again, and what counts is QEMU's answer.

import { rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { digestFile, syncFile } from '../../files/durable.js'
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
import type { CaptureWork } from '../shared/capture-control.js'
import { explainFailure } from '../shared/capture-failure.js'
import type { Composition } from '../shared/composition.js'
import { within } from '../shared/deadline.js'
import { canHoldAtGate, staysStopped } from '../shared/held-save.js'
import type { ImageWriter, WrittenImage } from '../shared/image-writer.js'
import { type Holdup, migrationHoldup, pauseLimitMs } from '../shared/pause-limit.js'
import type { ProcessIdentity } from '../shared/process.js'
import { checkStopped } from '../shared/qemu-checks.js'
import { migrationStatus } from '../shared/qemu-migration.js'
import type { NewFiles } from '../shared/qemu-overlays.js'
import { stopMachine } from '../shared/qemu-stop.js'
import type { JsonObject } from '../shared/qmp.js'
import { runState } from '../shared/run-state.js'
import { copyTransaction, type DiskCopy, discardCopy, finishCopy, openCopy } from './disk-copies.js'
import { placeDisks, snapshotXml } from './domain-edits.js'
import type { DomainLink } from './domain-link.js'
import { type DomainDescription, saveCookie } from './domain-xml.js'
import { MemorySave } from './memory-save.js'
import { type DomainOverlay, makeOverlay, takeBack } from './overlays.js'
import { snapshotFlags, xmlFlags } from './protocol.js'

/** How long putting a machine right again may take after a failure; a restart of libvirtd fits in. */
const recoveryMs = 20_000
/**
 * How long a guest at its gate is asked for its state. A libvirtd that has just begun waits for QEMU, which waits for
 * the gate to open: the guest would stand still for as long as we asked.
 */
const fitMs = 1000

export interface CaptureContext {
  readonly machine: string
  readonly link: DomainLink
  readonly composition: Composition
  readonly process: ProcessIdentity | null
  readonly writer: ImageWriter
  readonly mode: CaptureMode
  /** Whether disks may be copied; else libvirt's snapshot comes into the pause. */
  readonly copyDisks: boolean
  /** Whether it ran before: it runs again afterwards, and only then. */
  readonly wasRunning: boolean
  readonly domain: DomainDescription
  readonly liveXml: string
  readonly memoryBytes: number
  /** Breaks off the job that libvirt has under way. */
  readonly abortJob: () => Promise<void>
}

/** `all` as they settle; on the first failure what came of the others is in `made`, too. */
async function collect<T>(made: T[], all: readonly Promise<T>[]): Promise<void> {
  for (const result of await Promise.allSettled(all)) if (result.status === 'fulfilled') made.push(result.value)
  await Promise.all(all)
}

export class DomainCapture implements CaptureWork {
  readonly #context: CaptureContext
  readonly #file: string
  readonly #memory: MemorySave
  /** `precopy` becomes `stopped` where memory could not be sent ahead. */
  #mode: CaptureMode
  /** Whether the domain runs at the end: it ran before, and has not stopped for good by itself. */
  #runsAfterwards: boolean
  #overlays: DomainOverlay[] = []
  #copies: DiskCopy[] = []
  #copying: readonly [string, JsonObject] | null = null
  /** Whether the domain was stopped for its cut. */
  #stopped = false
  /** Whether libvirt was told to put the overlays in use. */
  #frozen = false
  #pausedAtUs = 0
  /** When the copies began. */
  #disks: Promise<number | null> = Promise.resolve(null)
  /** QEMU's run state when it was stopped. */
  #state: Promise<string> = Promise.resolve('')

  private constructor(context: CaptureContext, file: string) {
    this.#context = context
    this.#mode = context.mode
    this.#runsAfterwards = context.wasRunning
    this.#file = file
    this.#memory = new MemorySave(context, file)
  }

  static async prepare(context: CaptureContext, target: CaptureTarget, deadline: Deadline): Promise<DomainCapture> {
    const file = path.join(target.directory, 'memory.img')
    const capture = new DomainCapture(context, file)
    try {
      await capture.#prepare(target, deadline)
      return capture
    } catch (error) {
      await capture.abandon()
      throw error
    }
  }

  async #prepare(target: CaptureTarget, deadline: Deadline): Promise<void> {
    const { machine, link, domain, mode, copyDisks } = this.#context
    const files = { ...target, machine }
    await collect(
      this.#overlays,
      domain.disks.map((disk) => makeOverlay(link, disk, files, deadline)),
    )
    if (mode === 'stopped') return
    // QEMU ends a migration that is not behind the guest by closing its disks for a moment: nothing may be copied then.
    if (copyDisks && mode === 'background') await this.#openCopies(files, deadline)
    if (!(await this.#memory.prepare(await this.#head(deadline), deadline, target.calledOff))) this.#mode = 'stopped'
    if (this.#copies.length === 0) return
    // Last: what the guest writes from here to the cut has to be copied.
    await this.#snapshot(null, deadline)
    this.#copying = await copyTransaction(link, this.#copies, this.#overlays, deadline)
  }

  async #openCopies(files: NewFiles, deadline: Deadline): Promise<void> {
    const { link, domain } = this.#context
    try {
      await collect(
        this.#copies,
        domain.disks.map((disk) => openCopy(link, disk, files, deadline)),
      )
    } catch {
      await this.#discardCopies()
    }
  }

  /** What stands before QEMU's stream: the domain on the disks that the cut freezes. */
  async #head(deadline: Deadline) {
    const { link, liveXml, wasRunning } = this.#context
    const xml = await link.xml(xmlFlags.secure | xmlFlags.migratable, deadline)
    const frozen = this.#frozenDisks().map(({ name, layers }) => ({ target: name, layers }))
    return { xml: placeDisks(xml, frozen), cookie: saveCookie(liveXml), wasRunning }
  }

  #frozenDisks(): FrozenDisk[] {
    return this.#overlays.map(({ target, layers, file: overlay }) => {
      const copy = this.#copies.find((one) => one.target === target)
      if (copy === undefined) return { name: target, layers, overlay }
      return { name: target, layers: [{ file: copy.file, format: 'qcow2' as const }, ...layers], overlay, copied: true }
    })
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

  get touchesMemory(): boolean {
    return !canHoldAtGate(this.#context.link.greeting)
  }

  async progress(): Promise<number> {
    return (await stat(this.#file)).size
  }

  async holdup(): Promise<Holdup> {
    const { link } = this.#context
    // In `stopped` mode libvirt has the monitor for itself.
    if (this.#mode === 'stopped')
      return { what: 'libvirt’s save makes no progress', action: 'See `virsh domjobinfo` and libvirtd’s log.' }
    const limit = within(250)
    const { status } = await migrationStatus(link, limit)
    return migrationHoldup(typeof status === 'string' ? status : null, await runState(link, limit))
  }

  /** Undoes `prepare`. The machine runs on if it ran. */
  async abandon(onRunning: () => void = () => {}): Promise<void> {
    // As in a plain QEMU's (qemu/capture.ts): it runs first, while the save stands at its gate.
    const fit = await this.#makeFitForGate()
    if (this.#stopped && fit) await this.#restoreRunState(() => {}, within(pauseLimitMs)).catch(() => {})
    await this.#makeFitForGate()
    await this.#memory.discard()
    await this.#memory.mayRun(within(recoveryMs)).catch(() => {})
    await this.#undo(onRunning)
  }

  /** As in a plain QEMU's: whether the guest had not stopped by itself. */
  async #makeFitForGate(): Promise<boolean> {
    const found = await this.#memory.makeFitForGate(within(fitMs)).catch(() => null)
    if (staysStopped(found)) this.#runsAfterwards = false
    return found === null
  }

  /** Stops the machine. The copies begin behind it, without the daemon being asked in between. */
  async pause(deadline: Deadline): Promise<PauseInfo> {
    const { link } = this.#context
    this.#stopped = true
    const { stopped, doneAtUs, state } = stopMachine(link, this.#copying === null ? [] : [this.#copying], deadline)
    this.#disks = doneAtUs
    this.#state = state
    const paused = await stopped
    this.#pausedAtUs = paused.pausedAtUs
    return paused
  }

  async run(onResumed: (info: ResumeInfo) => void, deadline: Deadline, late: Promise<never>): Promise<SealInfo> {
    let resumedAt: ResumeInfo | null = null
    const resumed = (info: ResumeInfo) => {
      if (resumedAt !== null) return
      resumedAt = info
      onResumed(info)
    }
    const { machine } = this.#context
    try {
      await this.#checkStopped(deadline, late)
      const image = await (this.#mode === 'stopped'
        ? this.#savePlain(resumed, deadline, late)
        : this.#saveFast(resumed, deadline, late))
      await this.#syncFiles()
      return {
        memoryFile: this.#file,
        memoryBytes: image.bytes,
        memoryDigest: image.digest,
        captureMode: this.#mode,
        disks: this.#frozenDisks(),
      }
    } catch (error) {
      // Asked before the image is removed: afterwards there is space again.
      const about = { machine, file: this.#file, lost: null, log: 'its log in /var/log/libvirt/qemu/' }
      const explained = await explainFailure(error, about, deadline)
      await this.#undo(resumed)
      throw explained
    }
  }

  /** The answer may be lost with libvirtd. */
  async #checkStopped(deadline: Deadline, late: Promise<never>): Promise<void> {
    const { machine, link } = this.#context
    const again = () => link.patiently(() => runState(link, deadline), deadline)
    await checkStopped(machine, link, await Promise.race([this.#state.catch(again), late]), deadline)
  }

  async #snapshot(memoryFile: string | null, deadline: Deadline): Promise<void> {
    const { link, domain } = this.#context
    if (memoryFile === null && this.#overlays.length === 0) return
    const { noMetadata, reuseExternal, diskOnly, atomic } = snapshotFlags
    const flags = noMetadata | reuseExternal | (memoryFile === null ? diskOnly | atomic : 0)
    // Set first: an answer that comes too late does not mean that nothing was done.
    this.#frozen = true
    await link.call(
      'snapshot',
      {
        xml: snapshotXml(
          this.#overlays,
          domain.media.map(({ name }) => name),
          memoryFile,
        ),
        flags,
      },
      deadline,
    )
  }

  async #saveFast(
    resumed: (info: ResumeInfo) => void,
    deadline: Deadline,
    late: Promise<never>,
  ): Promise<WrittenImage> {
    const { link, wasRunning } = this.#context
    let disksAtUs = await Promise.race([this.#disks, late])
    if (!this.#frozen) {
      await Promise.race([this.#snapshot(null, deadline), late])
      disksAtUs = nowUs()
    }
    const stamps = { savingAtUs: nowUs(), ...(disksAtUs === null ? {} : { disksAtUs }) }
    const { running, written } = this.#memory.start(deadline)
    const info = await Promise.race([running, late])
    if (!wasRunning) await link.call('suspend', {}, deadline)
    resumed({ ...info, ...stamps })
    await Promise.all([this.#checkSame(deadline), ...this.#copies.map((copy) => finishCopy(link, copy, deadline))])
    return written
  }

  async #savePlain(
    resumed: (info: ResumeInfo) => void,
    deadline: Deadline,
    late: Promise<never>,
  ): Promise<WrittenImage> {
    const savingAtUs = nowUs()
    const saved = this.#snapshot(this.#file, deadline)
    try {
      await Promise.race([saved, late])
    } catch (error) {
      await this.#context.abortJob().catch(() => {})
      throw error
    }
    await this.#restoreRunState((info) => resumed({ ...info, savingAtUs }), deadline)
    await this.#checkSame(deadline)
    const [{ size }, digest] = await Promise.all([stat(this.#file), digestFile(this.#file)])
    return { bytes: size, digest }
  }

  #checkSame(deadline: Deadline): Promise<void> {
    const { machine, link, composition } = this.#context
    return link.patiently(() => composition.check(machine, this.#pausedAtUs, deadline), deadline)
  }

  /** The image, the frozen layers and the names of all new files, onto the disk. */
  async #syncFiles(): Promise<void> {
    const disks = this.#frozenDisks()
    const frozen = disks
      .flatMap(({ layers, copied }) => layers.slice(0, copied === true ? 2 : 1))
      .map(({ file }) => file)
    const made = [this.#file, ...frozen, ...disks.map(({ overlay }) => overlay)]
    for (const file of [this.#file, ...frozen, ...new Set(made.map((name) => path.dirname(name)))]) await syncFile(file)
  }

  /** Back to how it was: first the guest runs, then settings, disks and files. Does what it can, and never throws. */
  async #undo(resumed: (info: ResumeInfo) => void): Promise<void> {
    const { link } = this.#context
    await this.#makeFitForGate()
    if (await this.#memory.discard()) await this.#memory.mayRun(within(recoveryMs)).catch(() => {})
    await this.#restoreRunState(resumed, within(recoveryMs)).catch(() => {})
    await this.#memory.end()
    await this.#restoreRunState(resumed, within(recoveryMs)).catch(() => {})
    await rm(this.#file, { force: true }).catch(() => {})
    await this.#discardCopies()
    const overlays = this.#overlays
    this.#overlays = []
    await takeBack(link, overlays, this.#frozen, within(recoveryMs)).catch(() => {})
  }

  async #discardCopies(): Promise<void> {
    const { link } = this.#context
    await Promise.all(this.#copies.splice(0).map((copy) => discardCopy(link, copy, within(recoveryMs))))
  }

  /** Runs the machine if it ran before. */
  async #restoreRunState(resumed: (info: ResumeInfo) => void, deadline: Deadline): Promise<void> {
    const { link } = this.#context
    const state = await link.patiently(() => runState(link, deadline), deadline)
    if (staysStopped(state)) this.#runsAfterwards = false
    const wasRunning = this.#runsAfterwards
    if (wasRunning && state !== 'running') {
      let at: number | null = null
      const stop = link.onEvent(({ name, atUs }) => {
        if (name === 'RESUME') at = atUs
      })
      try {
        await link.patiently(() => link.call('resume', {}, deadline), deadline)
      } finally {
        stop()
      }
      resumed({ resumedAtUs: at ?? nowUs() })
      return
    }
    if (!wasRunning && state === 'running') await link.patiently(() => link.call('suspend', {}, deadline), deadline)
    resumed({ resumedAtUs: nowUs() })
  }
}
