// One running QEMU under control: MachineControl over its QMP socket and /proc.

import { rm } from 'node:fs/promises'
import type {
  Capture,
  CaptureMode,
  CaptureTarget,
  CollapseOptions,
  Deadline,
  HypervisorSettings,
  MachineControl,
  MachineInfo,
  Nic,
  PauseInfo,
  ResumeInfo,
} from '../hypervisor.js'
import { findImageNode } from '../shared/block-drives.js'
import { CaptureControl } from '../shared/capture-control.js'
import { Composition } from '../shared/composition.js'
import { CutPace } from '../shared/cut-pace.js'
import type { ImageWriter } from '../shared/image-writer.js'
import {
  argumentsOf,
  binaryOf,
  identify,
  incarnationOf,
  killProcess,
  ownerOf,
  type ProcessIdentity,
} from '../shared/process.js'
import { askBlocks, drivesOthersWrite, type MachineBlocks, supportedBlocks } from '../shared/qemu-blocks.js'
import {
  checkMigration,
  checkRunState,
  connectOrFree,
  machineState,
  memoryBytes,
  settleMigration,
  unsupported,
} from '../shared/qemu-checks.js'
import { collapseChain, endForgottenJobs, nodesToLeave, placeInChain, streamChain } from '../shared/qemu-collapse.js'
import { backgroundObstacle, putBack, settingsToPutBack } from '../shared/qemu-migration-settings.js'
import { stateDetail } from '../shared/qemu-state.js'
import { stopMachine } from '../shared/qemu-stop.js'
import type { QmpClient } from '../shared/qmp.js'
import { isObject } from '../shared/qmp-messages.js'
import { captureModeFor, notInBackground } from '../shared/sent-ahead.js'
import { type CaptureContext, QemuCapture } from './capture.js'
import { nicsOf, readDefinition } from './definition.js'
import type { QemuDefinition } from './types.js'

export interface DriverSettings {
  readonly writer: ImageWriter
  readonly atBest: CaptureMode
  readonly startAhead: boolean
}

export class QemuMachine implements MachineControl {
  readonly name: string
  readonly #qmp: QmpClient
  readonly #process: ProcessIdentity | null
  readonly #captures: CaptureControl
  readonly #composition: Composition
  readonly #settings: DriverSettings
  #obstacle: Promise<string | null> | null = null

  private constructor(name: string, qmp: QmpClient, process: ProcessIdentity | null, settings: DriverSettings) {
    this.name = name
    this.#qmp = qmp
    this.#process = process
    this.#settings = settings
    this.#composition = new Composition(qmp)
    this.#captures = new CaptureControl(name, new CutPace(process?.pid ?? null))
  }

  static async attach(name: string, path: string, settings: DriverSettings, deadline: Deadline): Promise<QemuMachine> {
    const qmp = await connectOrFree(path, deadline)
    const process = identify(qmp.peer.pid)
    settings.writer.start()
    const isQemu = process !== null && /qemu|kvm/.test(binaryOf(process.pid))
    return new QemuMachine(name, qmp, isQemu ? process : null, settings)
  }

  /** The QEMU process; null when it cannot be told (another program made its socket). */
  get process(): ProcessIdentity | null {
    return this.#process
  }

  get incarnation(): string | null {
    return incarnationOf(this.#process)
  }

  async inspect(deadline: Deadline): Promise<MachineInfo> {
    this.#composition.beforeMedia()
    const blocks = await this.#blocks(deadline)
    const [status, memory, network] = (await Promise.all(
      this.#qmp.executeAll(
        [
          ['query-status', {}],
          ['query-memory-size-summary', {}],
          ['human-monitor-command', { 'command-line': 'info network' }],
        ],
        deadline,
      ),
    )) as unknown[]
    const obstacle = await this.#backgroundObstacle(deadline)
    const { disks, media, files, warnings } = blocks
    const state = isObject(status) ? String(status.status) : ''
    return {
      name: this.name,
      state: machineState(state),
      stateDetail: stateDetail(state, blocks.graph.drives),
      memoryBytes: memoryBytes(memory),
      disks: disks.map(({ name, layers, bytes }) => ({ name, layers, bytes })),
      media,
      unsupported: [...blocks.unsupported, ...(await drivesOthersWrite(blocks, this.#process))],
      files,
      warnings,
      nics: this.#nics(network),
      captureMode: captureModeFor(obstacle, this.#settings.atBest, state === 'running'),
      captureModeReason: obstacle,
      hypervisorVersion: this.#qmp.greeting.version,
    }
  }

  async definition(deadline: Deadline): Promise<QemuDefinition> {
    const { pid } = this.#known('Its command line')
    await this.#composition.beforeDevices(deadline)
    return readDefinition(this.name, this.#qmp, pid, deadline)
  }

  async settings(deadline: Deadline): Promise<HypervisorSettings> {
    const mode = captureModeFor(await this.#backgroundObstacle(deadline), this.#settings.atBest, true)
    return settingsToPutBack(this.#qmp, mode, deadline)
  }

  putBack(settings: HypervisorSettings, deadline: Deadline): Promise<void> {
    return putBack(this.#qmp, settings, deadline)
  }

  prepare(target: CaptureTarget, deadline: Deadline): Promise<void> {
    return this.#captures.prepare(async () => QemuCapture.prepare(await this.#context(deadline), target, deadline))
  }

  async #context(deadline: Deadline): Promise<CaptureContext> {
    const obstacle = await this.#backgroundObstacle(deadline)
    const [status, migration, cpus, memory] = (await Promise.all(
      this.#qmp.executeAll(
        [
          ['query-status', {}],
          ['query-migrate', {}],
          ['query-cpus-fast', {}],
          ['query-memory-size-summary', {}],
        ],
        deadline,
      ),
    )) as unknown[]
    this.#captures.pace.prepare(cpus)
    const state = isObject(status) ? String(status.status) : ''
    checkRunState(this.name, state)
    checkMigration(this.name, isObject(migration) ? migration : {})
    await endForgottenJobs(this.#qmp, deadline)
    const { disks } = await supportedBlocks(this.name, this.#qmp, this.#process, deadline)
    return {
      machine: this.name,
      qmp: this.#qmp,
      composition: this.#composition,
      process: this.#process,
      owner: this.#process === null ? { uid: this.#qmp.peer.uid, gid: this.#qmp.peer.gid } : ownerOf(this.#process.pid),
      writer: this.#settings.writer,
      startAhead: this.#settings.startAhead,
      mode: captureModeFor(obstacle, this.#settings.atBest, state === 'running'),
      wasRunning: state === 'running',
      memoryBytes: memoryBytes(memory),
      disks,
    }
  }

  abandon(): Promise<void> {
    return this.#captures.abandon()
  }

  hasten(): void {
    this.#captures.pace.begin()
  }

  pause(deadline: Deadline): Promise<PauseInfo> {
    return this.#captures.pause(() => stopMachine(this.#qmp, [], deadline).stopped, deadline)
  }

  capture(deadline: Deadline): Capture {
    return this.#captures.capture(deadline)
  }

  resume(deadline: Deadline): Promise<ResumeInfo> {
    return this.#captures.resume(
      (listener) => this.#qmp.onEvent(listener),
      () => this.#qmp.execute('cont', {}, deadline),
      deadline,
    )
  }

  async destroy(deadline: Deadline): Promise<void> {
    await killProcess(this.#process ?? this.#known('It'), deadline)
    await this.close()
  }

  async collapse(disk: string, base: string, deadline: Deadline, options: CollapseOptions = {}): Promise<string[]> {
    await endForgottenJobs(this.#qmp, deadline)
    const blocks = await this.#blocks(deadline)
    const { active, layers, depth } = placeInChain(blocks, disk, base)
    return depth === 0 ? [] : collapseChain(this.#qmp, blocks, active, layers, depth, deadline, options)
  }

  async shorten(disk: string, base: string, deadline: Deadline, options: CollapseOptions = {}): Promise<string[]> {
    await endForgottenJobs(this.#qmp, deadline)
    const blocks = await this.#blocks(deadline)
    const { active, layers, depth } = placeInChain(blocks, disk, base)
    return depth < 2 ? [] : streamChain(this.#qmp, blocks, active.node, layers, depth, deadline, options)
  }

  async checkCollapse(disk: string, base: string, deadline: Deadline): Promise<void> {
    const blocks = await this.#blocks(deadline)
    const { layers, depth } = placeInChain(blocks, disk, base)
    nodesToLeave(blocks, layers.slice(0, depth))
  }

  async dropOverlay(file: string, deadline: Deadline): Promise<void> {
    await endForgottenJobs(this.#qmp, deadline)
    const { graph, locate } = await this.#blocks(deadline)
    const node = findImageNode(graph, { file, format: 'qcow2' }, locate)
    if (node !== null) await this.#qmp.execute('blockdev-del', { 'node-name': node }, deadline)
    await rm(file, { force: true })
  }

  async close(): Promise<void> {
    await this.#captures.close()
    this.#qmp.close()
  }

  #known(what: string): ProcessIdentity {
    if (this.#process !== null && this.#qmp.failure === null) return this.#process
    if (this.#process !== null && identify(this.#process.pid)?.startTicks === this.#process.startTicks)
      return this.#process
    if (this.#qmp.failure !== null) throw this.#qmp.failure
    throw unsupported(
      `${what} cannot be told: the process behind ${this.#qmp.path} is no QEMU that can be seen from here.`,
      'Let QEMU make its QMP socket itself (-qmp unix:PATH,server=on,wait=off), on the daemon’s host.',
    )
  }

  #backgroundObstacle(deadline: Deadline): Promise<string | null> {
    this.#obstacle ??= (async () => {
      await settleMigration(this.name, this.#qmp, this.#process, deadline)
      const { atBest } = this.#settings
      if (atBest !== 'background') return notInBackground(atBest)
      return backgroundObstacle(this.#qmp, deadline)
    })()
    this.#obstacle.catch(() => {
      this.#obstacle = null
    })
    return this.#obstacle
  }

  #blocks(deadline: Deadline): Promise<MachineBlocks> {
    return askBlocks(this.#qmp, this.#process, deadline)
  }

  #nics(answer: unknown): Nic[] {
    const pid = this.#process?.pid ?? null
    return nicsOf(pid, pid === null ? [] : argumentsOf(pid), answer).nics
  }
}
