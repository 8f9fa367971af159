// One running domain under control: MachineControl over libvirt.

import { rm } from 'node:fs/promises'
import { asSnapswitchError, SnapswitchError } from '../../errors/errors.js'
import type {
  Capture,
  CaptureMode,
  CaptureTarget,
  CollapseOptions,
  Deadline,
  DiskLayer,
  HypervisorSettings,
  MachineControl,
  MachineInfo,
  PauseInfo,
  ResumeInfo,
} from '../hypervisor.js'
import { CaptureControl } from '../shared/capture-control.js'
import { Composition } from '../shared/composition.js'
import { CutPace } from '../shared/cut-pace.js'
import { within } from '../shared/deadline.js'
import type { ImageWriter } from '../shared/image-writer.js'
import { findProcesses, incarnationOf, type ProcessIdentity } from '../shared/process.js'
import { settleMigration } from '../shared/qemu-checks.js'
import { notInChain, refuseObstacles } from '../shared/qemu-collapse.js'
import { isUnderWay, migrationStatus } from '../shared/qemu-migration.js'
import { backgroundObstacle, putBack, settingsToPutBack } from '../shared/qemu-migration-settings.js'
import { stopMachine } from '../shared/qemu-stop.js'
import { runState } from '../shared/run-state.js'
import { captureModeFor, notInBackground } from '../shared/sent-ahead.js'
import { isFrozen, liftWriteProtection } from '../shared/write-protection.js'
import { type CaptureContext, DomainCapture } from './capture.js'
import { discardCopy, endForgottenCopies, isCopy } from './disk-copies.js'
import { chainOf } from './domain-disks.js'
import { externalFiles } from './domain-files.js'
import { DomainLink } from './domain-link.js'
import { parse } from './domain-tree.js'
import { describeDomain } from './domain-xml.js'
import { varsBytes } from './firmware-vars.js'
import { closeNodes, useOf } from './forgotten-nodes.js'
import { checkSupported, lookAt } from './look.js'
import { descriptorObstacle } from './memory-save.js'
import { mergeActive, pullActive } from './overlays.js'
import { everyoneMayUseUserfaultfd, libvirtObstacle, userfaultfdHint } from './probe.js'
import type { LibvirtProcess } from './process-handle.js'
import type { LibvirtDefinition } from './types.js'

/** How long breaking off a job may take. */
const abortMs = 3000

/** What a loaded domain's end or begin means for what its load has stored. */
export interface AfterLoad {
  hasRun(): Promise<void>
  neverRan(deadline: Deadline): Promise<void>
}

export interface LibvirtSettings {
  readonly process: LibvirtProcess
  readonly writer: ImageWriter
  readonly uri: string
  readonly atBest: CaptureMode
  /** Whether disks are copied at the cut, so that libvirt's snapshot of them can come before the pause. */
  readonly copyDisks: boolean
}

/** Why QEMU cannot write memory into a pipe of ours, and why not in the background. Null: it can. */
interface Obstacles {
  readonly ofStream: string | null
  readonly ofBackground: string | null
}

/** The QEMU process of a domain; null when it cannot be seen from here. */
export function findQemu(uuid: string): ProcessIdentity | null {
  const found = findProcesses((argv) => {
    const at = argv.indexOf('-uuid')
    return at > 0 && argv[at + 1] === uuid
  })
  return found[0] ?? null
}

export class LibvirtMachine implements MachineControl {
  readonly name: string
  readonly #link: DomainLink
  readonly #settings: LibvirtSettings
  readonly #uuid: string
  readonly #process: ProcessIdentity | null
  readonly #captures: CaptureControl
  readonly #composition: Composition
  #obstacles: Promise<Obstacles> | null = null
  /** Until it is seen to run, or ended. */
  #afterLoad: AfterLoad | null

  private constructor(
    name: string,
    link: DomainLink,
    settings: LibvirtSettings,
    uuid: string,
    afterLoad: AfterLoad | null,
  ) {
    this.#afterLoad = afterLoad
    this.name = name
    this.#uuid = uuid
    this.#link = link
    this.#settings = settings
    this.#composition = new Composition(link)
    this.#process = findQemu(uuid)
    const between = () => [...(settings.process.pid === null ? [] : [settings.process.pid]), ...link.daemons]
    this.#captures = new CaptureControl(name, new CutPace(this.#process?.pid ?? null, between))
  }

  /** Throws HYPERVISOR_UNREACHABLE, MACHINE_UNKNOWN or MACHINE_NOT_RUNNING. */
  static async attach(
    name: string,
    spec: { readonly domain: string; readonly uri?: string },
    settings: LibvirtSettings,
    deadline: Deadline,
    afterLoad: AfterLoad | null = null,
  ): Promise<LibvirtMachine> {
    const link = await DomainLink.open(settings.process, spec.uri ?? settings.uri, spec.domain, deadline)
    try {
      const { active, uuid } = await link.describe(deadline)
      if (active) return await new LibvirtMachine(name, link, settings, uuid, afterLoad).#free()
      throw new SnapswitchError(
        'MACHINE_NOT_RUNNING',
        `libvirt’s domain ${spec.domain} is not running`,
        `Start it: \`virsh start ${spec.domain}\`.`,
      )
    } catch (error) {
      link.close()
      throw error
    }
  }

  /** A broken background save has the guest frozen, and the monitor with it. */
  async #free(): Promise<this> {
    if (this.#process !== null && (await isFrozen(this.#process.pid))) liftWriteProtection(this.#process.pid)
    return this
  }

  get incarnation(): string | null {
    return incarnationOf(findQemu(this.#uuid))
  }

  async inspect(deadline: Deadline): Promise<MachineInfo> {
    this.#composition.beforeMedia()
    const seen = await lookAt(this.#link, this.#process, deadline)
    const captureMode = await this.#captureMode(seen.state === 'running', deadline)
    const { ofBackground } = await this.#askObstacles(deadline)
    return { name: this.name, ...seen, captureMode, captureModeReason: ofBackground }
  }

  async definition(deadline: Deadline): Promise<LibvirtDefinition> {
    const link = this.#link
    const { uuid, persistent } = await link.describe(deadline)
    await this.#composition.beforeDevices(deadline)
    const xml = await link.xml(0, deadline)
    const { memoryBytes, nics, bridgedNics, unsupported } = describeDomain(xml)
    checkSupported(this.name, unsupported)
    const bytes = await varsBytes(xml)
    return {
      kind: 'libvirt',
      name: this.name,
      domain: link.domain,
      uuid,
      xml,
      persistent,
      ...(bytes === null ? {} : { varsBytes: bytes }),
      files: externalFiles(xml).filter(({ role }) => role !== 'vars' && role !== 'nvdimm'),
      memoryBytes,
      nics,
      bridgedNics,
      hypervisorVersion: link.greeting.version,
      libvirtVersion: link.libvirtVersion,
    }
  }

  async settings(deadline: Deadline): Promise<HypervisorSettings> {
    return settingsToPutBack(this.#link, await this.#captureMode(true, deadline), deadline)
  }

  putBack(settings: HypervisorSettings, deadline: Deadline): Promise<void> {
    return putBack(this.#link, settings, deadline)
  }

  prepare(target: CaptureTarget, deadline: Deadline): Promise<void> {
    return this.#captures.prepare(async () => DomainCapture.prepare(await this.#context(deadline), target, deadline))
  }

  async #context(deadline: Deadline): Promise<CaptureContext> {
    const link = this.#link
    const { writer, copyDisks } = this.#settings
    await link.refresh(deadline)
    const state = await runState(link, deadline)
    this.#checkState(state)
    await this.#checkMigration(deadline)
    this.#captures.pace.prepare(await link.execute('query-cpus-fast', {}, deadline))
    const { unsupported } = await lookAt(link, this.#process, deadline)
    checkSupported(this.name, unsupported)
    const liveXml = await link.xml(0, deadline)
    const domain = describeDomain(liveXml)
    const wasRunning = state === 'running'
    const mode = await this.#captureMode(wasRunning, deadline)
    const machine = this.name
    const abortJob = () => this.#abortJob()
    return {
      ...{ machine, link, process: this.#process, writer, mode, copyDisks, wasRunning, domain, liveXml },
      composition: this.#composition,
      memoryBytes: domain.memoryBytes,
      abortJob,
    }
  }

  /** On a connection of its own: on ours the job itself is waited for. */
  async #abortJob(): Promise<void> {
    const { uri, domain } = this.#link
    const limit = within(abortMs)
    const link = await DomainLink.open(this.#settings.process, uri, domain, limit)
    try {
      await link.call('abortJob', {}, limit)
    } finally {
      link.close()
    }
  }

  abandon(): Promise<void> {
    return this.#captures.abandon()
  }

  hasten(): void {
    this.#captures.pace.begin()
  }

  pause(deadline: Deadline): Promise<PauseInfo> {
    return this.#captures.pause(() => stopMachine(this.#link, [], deadline).stopped, deadline)
  }

  capture(deadline: Deadline): Capture {
    return this.#captures.capture(deadline)
  }

  async resume(deadline: Deadline): Promise<ResumeInfo> {
    const info = await this.#captures.resume(
      (listener) => this.#link.onEvent(listener),
      () => this.#link.call('resume', {}, deadline),
      deadline,
    )
    await this.#afterLoad?.hasRun()
    this.#afterLoad = null
    return info
  }

  async destroy(deadline: Deadline): Promise<void> {
    try {
      await this.#link.patiently(() => this.#link.call('destroy', {}, deadline), deadline)
    } catch (error) {
      const { code } = asSnapswitchError(error)
      if (code !== 'MACHINE_NOT_RUNNING' && code !== 'MACHINE_UNKNOWN') throw error
    }
    await this.#afterLoad?.neverRan(deadline)
    await this.close()
  }

  async collapse(disk: string, base: string, deadline: Deadline, options: CollapseOptions = {}): Promise<string[]> {
    const link = this.#link
    const leaving = await this.#leaving(disk, base, deadline)
    const [active] = leaving
    if (active === undefined) return []
    refuseObstacles(await this.#nodes(deadline), leaving, '/')
    await link.patiently(() => endForgottenCopies(link, deadline), deadline)
    await this.#endForgottenMerge(disk, deadline)
    await mergeActive(link, { target: disk, file: active.file, base }, deadline, options)
    return leaving.map(({ file }) => file)
  }

  async shorten(disk: string, base: string, deadline: Deadline, options: CollapseOptions = {}): Promise<string[]> {
    const link = this.#link
    const [active, ...leaving] = await this.#leaving(disk, base, deadline)
    if (active === undefined || leaving.length === 0) return []
    refuseObstacles(await this.#nodes(deadline), leaving, '/')
    await link.patiently(() => endForgottenCopies(link, deadline), deadline)
    await this.#endForgottenMerge(disk, deadline)
    await pullActive(link, { target: disk, file: active.file, base }, deadline, options)
    return leaving.map(({ file }) => file)
  }

  async checkCollapse(disk: string, base: string, deadline: Deadline): Promise<void> {
    refuseObstacles(await this.#nodes(deadline), await this.#leaving(disk, base, deadline), '/')
  }

  async #nodes(deadline: Deadline): Promise<unknown> {
    const ask = () => this.#link.execute('query-named-block-nodes', { flat: true }, deadline)
    return this.#link.patiently(ask, deadline)
  }

  async #chain(disk: string, deadline: Deadline) {
    return chainOf(parse(await this.#link.patiently(() => this.#link.xml(0, deadline), deadline)), disk)
  }

  /**
   * A commit whose daemon was killed is ready to end, and never does by itself. To be called where nobody of ours can
   * have one under way.
   */
  async #endForgottenMerge(disk: string, deadline: Deadline): Promise<void> {
    const link = this.#link
    if ((await this.#chain(disk, deadline)).into === null) return
    await link.patiently(() => link.call('blockAbort', { disk }, deadline), deadline)
  }

  /** The images above `base`. */
  async #leaving(disk: string, base: string, deadline: Deadline): Promise<readonly DiskLayer[]> {
    const { layers } = await this.#chain(disk, deadline)
    const depth = layers.findIndex(({ file }) => file === base)
    if (depth < 0) throw notInChain(base, disk)
    return layers.slice(0, depth)
  }

  async dropOverlay(file: string, deadline: Deadline): Promise<void> {
    const use = await useOf(this.#link, file, deadline)
    const [node] = use.nodes
    if (use.active) return
    if (node !== undefined && isCopy(node)) return discardCopy(this.#link, { node, file }, deadline)
    await closeNodes(this.#link, use, deadline)
    await rm(file, { force: true })
  }

  async close(): Promise<void> {
    await this.#captures.close()
    this.#link.close()
  }

  async #captureMode(isRunning: boolean, deadline: Deadline): Promise<CaptureMode> {
    const { ofStream, ofBackground } = await this.#askObstacles(deadline)
    return captureModeFor(ofBackground, ofStream === null ? this.#settings.atBest : 'stopped', isRunning)
  }

  #askObstacles(deadline: Deadline): Promise<Obstacles> {
    this.#obstacles ??= this.#findObstacles(deadline)
    this.#obstacles.catch(() => {
      this.#obstacles = null
    })
    return this.#obstacles
  }

  async #findObstacles(deadline: Deadline): Promise<Obstacles> {
    await settleMigration(this.name, this.#link, this.#process, deadline)
    const ofStream = libvirtObstacle(this.#link.libvirtVersion) ?? (await descriptorObstacle(this.#link, deadline))
    const { atBest } = this.#settings
    if (atBest !== 'background') return { ofStream, ofBackground: ofStream ?? notInBackground(atBest) }
    const obstacle = ofStream ?? (await backgroundObstacle(this.#link, deadline))
    const kernel = obstacle !== null && /kernel/.test(obstacle) && !everyoneMayUseUserfaultfd()
    return { ofStream, ofBackground: kernel ? `${obstacle}: ${userfaultfdHint}` : obstacle }
  }

  #checkState(state: string): void {
    if (state === 'running' || state === 'paused') return
    const why =
      state === 'prelaunch'
        ? 'has never run: it was started paused'
        : `is ${state === '' ? 'in an unknown state' : state}`
    throw new SnapswitchError(
      'MACHINE_NOT_RUNNING',
      `${this.name} ${why}, so it cannot be saved`,
      `Let it run first: \`virsh resume ${this.#link.domain}\`.`,
    )
  }

  async #checkMigration(deadline: Deadline): Promise<void> {
    const status = await migrationStatus(this.#link, deadline)
    if (isUnderWay(status)) {
      throw new SnapswitchError(
        'SNAPSHOT_BUSY',
        `${this.name} is being migrated or saved already`,
        `Wait until that is done; \`virsh domjobinfo ${this.#link.domain}\` shows it if it is libvirt’s.`,
      )
    }
    const reasons = status['blocked-reasons']
    if (Array.isArray(reasons) && reasons.length > 0) {
      throw new SnapswitchError(
        'MACHINE_UNSUPPORTED',
        `${this.name} cannot be saved: ${reasons.map(String).join('; ')}`,
        'Remove the device that QEMU names, or take the machine out of the network.',
      )
    }
  }
}
