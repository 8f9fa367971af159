// One capture of one domain, from the preparation before its pause to the sealed image, or back out of it from any point.
//
//   fast (`background`)  libvirt pauses, snapshots the disks and keeps the books; memory leaves behind its back, through the
//                        monitor, as QEMU's background snapshot into a passed pipe: a migration that libvirt did not start
//                        and whose events it ignores (qemu_process.c, "got MIGRATION event without a migration job"); the
//                        RESUME at its begin libvirt takes as it comes. The file begins with libvirt's own head.
//   plain (`stopped`)    libvirt's external snapshot with memory, the machine standing still meanwhile
//
// libvirtd may go away and come back at any point: what must be asked is asked again, and what counts is QEMU's answer.

import { randomBytes } from 'node:crypto'
import { rm, stat, statfs, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { SnapswitchError } from '../../errors/errors.js'
import { digestFile, storeError, syncFile } from '../../files/durable.js'
import { nowUs } from '../clock.js'
import { CutPace } from '../cut-pace.js'
import { by, deadlinePassed, pauseFor, remaining, within } from '../deadline.js'
import { restoreHugePages } from '../huge-pages.js'
import type { CaptureTarget, Deadline, ResumeInfo, SealInfo } from '../hypervisor.js'
import type { ImageSink, ImageWriter, WrittenImage } from '../image-writer.js'
import { findProcesses, isAlive, type ProcessIdentity, waitsForPipe } from '../process.js'
import { canHoldAtGate } from '../qemu-capture.js'
import { applySettings, isUnderWay, type MigrationSettings, migrationStatus } from '../qemu-migration.js'
import { storeFull } from '../qemu-overlays.js'
import type { QmpClient } from '../qmp.js'
import { liftWriteProtection } from '../write-protection.js'
import { type DomainLink, runState } from './domain-link.js'
import { type DomainDescription, saveCookie, snapshotXml } from './domain-xml.js'
import { type DomainOverlay, makeOverlay, takeBack } from './overlays.js'
import { snapshotFlags, xmlFlags } from './protocol.js'
import { encodeHead } from './save-image.js'

/** How long putting a machine right again may take after a failure; a restart of libvirtd fits in. */
const recoveryMs = 20_000
/** How long an image that nobody wants may take to be read to its end. */
const drainMs = 60_000

/** qemu-migration.ts uses of a QmpClient what a DomainLink has too. */
export const asQmp = (link: DomainLink): QmpClient => link as unknown as QmpClient

/** The QEMU process of a domain; null when it cannot be seen from here. */
export function findQemu(uuid: string): ProcessIdentity | null {
  const found = findProcesses((argv) => {
    const at = argv.indexOf('-uuid')
    return at > 0 && argv[at + 1] === uuid
  })
  return found[0] ?? null
}

export interface CaptureContext {
  readonly machine: string
  readonly link: DomainLink
  readonly writer: ImageWriter
  readonly mode: 'background' | 'stopped'
  /** Whether it ran before: it runs again afterwards, and only then. */
  readonly wasRunning: boolean
  readonly domain: DomainDescription
  readonly liveXml: string
}

export class DomainCapture {
  readonly #context: CaptureContext
  readonly #file: string
  readonly #descriptorName = `snapswitch-${randomBytes(4).toString('hex')}`
  readonly #process: ProcessIdentity | null
  readonly #pace: CutPace
  #sink: ImageSink | null = null
  #overlays: DomainOverlay[] = []
  #settings: MigrationSettings | null = null
  /** Whether QEMU was told to migrate, and may have taken it. */
  #migrating = false
  /** Whether libvirt was told to put the overlays in use. */
  #frozen = false

  private constructor(context: CaptureContext, file: string) {
    this.#context = context
    this.#file = file
    this.#process = findQemu(context.domain.uuid)
    this.#pace = new CutPace(this.#process?.pid ?? null)
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
    const { link, domain, mode, writer } = this.#context
    const made = await Promise.allSettled(domain.disks.map((disk) => makeOverlay(link, disk, target.label, deadline)))
    this.#overlays = made.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
    for (const result of made) if (result.status === 'rejected') throw result.reason
    if (mode === 'stopped') return
    const gated = canHoldAtGate(link.greeting)
    await this.#writeHead(deadline)
    if (this.#process !== null) await restoreHugePages(this.#process.pid, deadline)
    writer.start()
    const sink = writer.sink(this.#file, gated)
    this.#sink = sink
    await sink.open(deadline)
    this.#settings = await applySettings(asQmp(link), true, deadline)
    await link.executeWithDescriptor('getfd', { fdname: this.#descriptorName }, sink.writeFd, deadline)
    sink.closeWriteEnd()
    if (gated) await this.#startGated(deadline)
  }

  async #writeHead(deadline: Deadline): Promise<void> {
    const { link, liveXml, wasRunning } = this.#context
    const xml = await link.xml(xmlFlags.secure | xmlFlags.migratable, deadline)
    const head = encodeHead({ xml, cookie: saveCookie(liveXml), wasRunning })
    try {
      await writeFile(this.#file, head, { flag: 'wx', mode: 0o600 })
    } catch (error) {
      throw storeError(`cannot write ${this.#file}`, error)
    }
  }

  /** Starts the migration and waits until it stands at the gate: see image-writer.ts. */
  async #startGated(deadline: Deadline): Promise<void> {
    await this.#migrate(deadline)
    await runState(this.#context.link, within(2000, deadline))
    const limit = within(1000, deadline)
    while (remaining(limit) > 0) {
      const waits = this.#process === null ? null : waitsForPipe(this.#process.pid)
      if (waits === true) return
      await pauseFor(waits === null ? 50 : 2, limit)
      if (waits === null) return
    }
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

  hasten(): void {
    this.#pace.begin()
  }

  /** Undoes `prepare`. The machine runs on if it ran. */
  async abandon(): Promise<void> {
    await this.#undo(() => {})
  }

  /** Saves disks and memory of the paused machine. `onResumed` is called once, when the guest runs again. */
  async run(onResumed: (info: ResumeInfo) => void, deadline: Deadline): Promise<SealInfo> {
    let resumedAt: ResumeInfo | null = null
    const resumed = (info: ResumeInfo) => {
      if (resumedAt !== null) return
      resumedAt = info
      onResumed(info)
    }
    try {
      const image =
        this.#context.mode === 'background'
          ? await this.#saveFast(resumed, deadline)
          : await this.#savePlain(resumed, deadline)
      await this.#syncFiles()
      await this.#settings?.restore()
      return {
        memoryFile: this.#file,
        memoryBytes: image.bytes,
        memoryDigest: image.digest,
        disks: this.#overlays.map(({ target, layers, file }) => ({ name: target, layers, overlay: file })),
      }
    } catch (error) {
      // Asked before the image is removed: afterwards there is space again.
      const explained = await this.#explain(error, deadline)
      await this.#undo(resumed)
      throw explained
    }
  }

  async #snapshot(memoryFile: string | null, deadline: Deadline): Promise<void> {
    const { link, domain } = this.#context
    if (memoryFile === null && this.#overlays.length === 0) return
    const { noMetadata, reuseExternal, diskOnly, atomic } = snapshotFlags
    const flags = noMetadata | reuseExternal | (memoryFile === null ? diskOnly | atomic : 0)
    // Set first: an answer that comes too late does not mean that nothing was done.
    this.#frozen = true
    await link.call('snapshot', { xml: snapshotXml(this.#overlays, domain.readOnly, memoryFile), flags }, deadline)
  }

  async #saveFast(resumed: (info: ResumeInfo) => void, deadline: Deadline): Promise<WrittenImage> {
    const { link, wasRunning } = this.#context
    await this.#snapshot(null, deadline)
    const image = this.#sink!.receive()
    const running = this.#running(deadline)
    if (!this.#migrating) await this.#migrate(deadline)
    const broken = new Promise<never>((_, reject) => image.catch(reject))
    const info = await Promise.race([running, broken])
    if (!wasRunning) await link.call('suspend', {}, deadline)
    resumed(info)
    const written = await by(deadline, image, () => deadlinePassed(`Saving ${this.#context.machine}`))
    const reason = await this.#migrationEnd(deadline)
    if (reason !== null) throw new Error(reason)
    return written
  }

  /** When the guest runs again: by QEMU's event, or by asking, since an event is lost with the connection. */
  async #running(deadline: Deadline): Promise<ResumeInfo> {
    const { link } = this.#context
    let seen: ResumeInfo | null = null
    const stop = link.onEvent(({ name, atUs }) => {
      if (name === 'RESUME') seen = { resumedAtUs: atUs }
    })
    try {
      for (let wait = 1; seen === null; wait = Math.min(50, wait * 2)) {
        await pauseFor(wait, deadline)
        if (seen !== null || wait < 50) continue
        const state = await link.patiently(() => runState(link, deadline), deadline)
        if (state === 'running') return seen ?? { resumedAtUs: nowUs() }
        if (remaining(deadline) === 0) throw deadlinePassed(`Resuming ${this.#context.machine}`)
      }
      return seen
    } finally {
      stop()
    }
  }

  /** Null when the migration has completed, else QEMU's reason. */
  async #migrationEnd(deadline: Deadline): Promise<string | null> {
    const { link } = this.#context
    for (;;) {
      const status = await link.patiently(() => migrationStatus(asQmp(link), deadline), deadline)
      if (!isUnderWay(status)) {
        if (status.status === 'completed') return null
        return typeof status['error-desc'] === 'string'
          ? status['error-desc']
          : `the migration ${String(status.status)}`
      }
      if (remaining(deadline) === 0) throw deadlinePassed(`Saving ${this.#context.machine}`)
      await pauseFor(20, deadline)
    }
  }

  async #savePlain(resumed: (info: ResumeInfo) => void, deadline: Deadline): Promise<WrittenImage> {
    await this.#snapshot(this.#file, deadline)
    await this.#restoreRunState(resumed, deadline)
    const [{ size }, digest] = await Promise.all([stat(this.#file), digestFile(this.#file)])
    return { bytes: size, digest }
  }

  /** The image, the frozen layers and the names of all new files, onto the disk. */
  async #syncFiles(): Promise<void> {
    const frozen = this.#overlays.map(({ layers }) => layers[0]!.file)
    const made = [this.#file, ...this.#overlays.map(({ file }) => file)]
    for (const file of [this.#file, ...frozen, ...new Set(made.map((name) => path.dirname(name)))]) await syncFile(file)
  }

  async #explain(thrown: unknown, deadline: Deadline): Promise<SnapswitchError> {
    const { machine } = this.#context
    const directory = path.dirname(this.#file)
    const code = (thrown as NodeJS.ErrnoException | null)?.code
    const space = await statfs(directory).catch(() => null)
    const full = space !== null && space.bavail * space.bsize < 1 << 20
    if (code === 'ENOSPC' || code === 'EDQUOT' || full) return storeFull(directory, thrown)
    if (remaining(deadline) === 0) return deadlinePassed(`Saving ${machine}`)
    if (thrown instanceof SnapswitchError && thrown.code !== 'HYPERVISOR_REFUSED') return thrown
    return new SnapswitchError(
      'CAPTURE_FAILED',
      `${machine} could not be saved: ${thrown instanceof Error ? thrown.message : String(thrown)}`,
      'The machine runs on as before. See its log in /var/log/libvirt/qemu/ for the reason, then try again.',
      thrown,
    )
  }

  /** Back to how it was: first the guest runs, then settings, disks and files. Does what it can, and never throws. */
  async #undo(resumed: (info: ResumeInfo) => void): Promise<void> {
    const { link } = this.#context
    // Whatever stream there is, it is read to its end: a guest whose stream breaks stays frozen (image-writer.ts).
    this.#sink?.discard()
    await this.#restoreRunState(resumed, within(recoveryMs)).catch(() => {})
    await this.#endMigration().catch(() => {})
    await this.#restoreRunState(resumed, within(recoveryMs)).catch(() => {})
    await rm(this.#file, { force: true }).catch(() => {})
    await this.#settings?.restore()
    const overlays = this.#overlays
    this.#overlays = []
    await takeBack(link, overlays, this.#frozen, within(recoveryMs)).catch(() => {})
  }

  async #endMigration(): Promise<void> {
    const { link } = this.#context
    if (this.#sink === null) return
    if (!this.#migrating) {
      await link.execute('closefd', { fdname: this.#descriptorName }, within(2000)).catch(() => {})
      return
    }
    const reason = await this.#migrationEnd(within(drainMs)).catch(String)
    const process = this.#process
    if (reason !== null && process !== null && isAlive(process)) liftWriteProtection(process.pid)
  }

  /** Runs the machine if it ran before. */
  async #restoreRunState(resumed: (info: ResumeInfo) => void, deadline: Deadline): Promise<void> {
    const { link, wasRunning } = this.#context
    const state = await link.patiently(() => runState(link, deadline), deadline)
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
