// One running domain under control: MachineControl over libvirt.

import { rm } from 'node:fs/promises'
import { asSnapswitchError, SnapswitchError } from '../../errors/errors.js'
import { nowUs } from '../clock.js'
import type {
  Capture,
  CaptureTarget,
  Deadline,
  FrozenDisk,
  LibvirtDefinition,
  MachineControl,
  MachineInfo,
  MachineState,
  PauseInfo,
  ResumeInfo,
} from '../hypervisor.js'
import type { ImageWriter } from '../image-writer.js'
import { incarnationOf } from '../process.js'
import { backgroundObstacle, isUnderWay, migrationStatus } from '../qemu-migration.js'
import { asQmp, DomainCapture, findQemu } from './capture.js'
import { DomainLink, runState } from './domain-link.js'
import { type DomainDescription, describeDomain } from './domain-xml.js'
import { mergeActive } from './overlays.js'
import { everyoneMayUseUserfaultfd, libvirtObstacle, userfaultfdHint } from './probe.js'
import type { LibvirtProcess } from './process-handle.js'
import { type BlockInfo, domainState } from './protocol.js'

/** Where a capture stands. `prepared` may be paused or not: that is the hypervisor's state, not ours. */
type Phase = 'idle' | 'preparing' | 'prepared' | 'capturing' | 'closed'

const next = {
  idle: ['preparing', 'closed'],
  preparing: ['prepared', 'idle', 'closed'],
  prepared: ['capturing', 'idle', 'closed'],
  capturing: ['idle', 'closed'],
  closed: [],
} satisfies Record<Phase, readonly Phase[]> as Record<Phase, readonly Phase[]>

/** virDomainState in our words. */
function machineState(state: number): MachineState {
  if (state === domainState.running || state === domainState.blocked) return 'running'
  return state === domainState.paused ? 'paused' : 'other'
}

export interface LibvirtSettings {
  readonly process: LibvirtProcess
  readonly writer: ImageWriter
  readonly uri: string
  /** Saves memory with the guest stopped even where it could be saved in the background. */
  readonly alwaysStopped: boolean
}

export class LibvirtMachine implements MachineControl {
  readonly name: string
  readonly #link: DomainLink
  readonly #settings: LibvirtSettings
  readonly #uuid: string
  #phase: Phase = 'idle'
  #capture: DomainCapture | null = null
  #paused = false
  #obstacle: Promise<string | null> | null = null

  private constructor(name: string, link: DomainLink, settings: LibvirtSettings, uuid: string) {
    this.name = name
    this.#uuid = uuid
    this.#link = link
    this.#settings = settings
  }

  /** Throws HYPERVISOR_UNREACHABLE, MACHINE_UNKNOWN or MACHINE_NOT_RUNNING. */
  static async attach(
    name: string,
    spec: { readonly domain: string; readonly uri?: string },
    settings: LibvirtSettings,
    deadline: Deadline,
  ): Promise<LibvirtMachine> {
    const link = await DomainLink.open(settings.process, spec.uri ?? settings.uri, spec.domain, deadline)
    try {
      const { active, uuid } = await link.describe(deadline)
      if (active) return new LibvirtMachine(name, link, settings, uuid)
      throw new SnapswitchError(
        'MACHINE_NOT_RUNNING',
        `libvirt’s domain ${spec.domain} is not running.`,
        `Start it: \`virsh start ${spec.domain}\`.`,
      )
    } catch (error) {
      link.close()
      throw error
    }
  }

  get incarnation(): string | null {
    return incarnationOf(findQemu(this.#uuid))
  }

  async inspect(deadline: Deadline): Promise<MachineInfo> {
    const link = this.#link
    const { state } = await link.describe(deadline)
    const domain = describeDomain(await link.xml(0, deadline))
    const obstacle = await this.#backgroundObstacle(deadline)
    const disks = await Promise.all(
      domain.disks.map(async ({ target, layers }) => {
        const { capacity } = (await link.call('blockInfo', { disk: target }, deadline)) as BlockInfo
        return { name: target, layers, bytes: capacity }
      }),
    )
    return {
      name: this.name,
      state: machineState(state),
      memoryBytes: domain.memoryBytes,
      disks,
      nics: domain.nics,
      captureMode: obstacle === null ? 'background' : 'stopped',
      captureModeReason: obstacle,
      hypervisorVersion: link.greeting.version,
    }
  }

  async definition(deadline: Deadline): Promise<LibvirtDefinition> {
    const link = this.#link
    const { uuid, persistent } = await link.describe(deadline)
    const xml = await link.xml(0, deadline)
    const { memoryBytes, nics } = this.#supported(describeDomain(xml))
    return {
      kind: 'libvirt',
      name: this.name,
      domain: link.domain,
      uuid,
      xml,
      persistent,
      memoryBytes,
      nics,
      hypervisorVersion: link.greeting.version,
      libvirtVersion: link.libvirtVersion,
    }
  }

  async prepare(target: CaptureTarget, deadline: Deadline): Promise<void> {
    this.#enter('preparing', 'prepare')
    try {
      const link = this.#link
      const state = await runState(link, deadline)
      this.#checkState(state)
      await this.#checkMigration(deadline)
      const liveXml = await link.xml(0, deadline)
      const domain = this.#supported(describeDomain(liveXml))
      const mode = (await this.#backgroundObstacle(deadline)) === null ? 'background' : 'stopped'
      const { writer } = this.#settings
      const wasRunning = state === 'running'
      this.#paused = false
      this.#capture = await DomainCapture.prepare(
        { machine: this.name, link, writer, mode, wasRunning, domain, liveXml },
        target,
        deadline,
      )
      this.#enter('prepared', 'prepare')
    } catch (error) {
      if (this.#phase === 'preparing') this.#phase = 'idle'
      throw error
    }
  }

  async abandon(): Promise<void> {
    if (this.#phase !== 'prepared') return
    const capture = this.#capture
    this.#capture = null
    await capture?.abandon()
    if (this.#phase === 'prepared') this.#phase = 'idle'
  }

  hasten(): void {
    this.#capture?.hasten()
  }

  async pause(deadline: Deadline): Promise<PauseInfo> {
    const pausedAtUs = await this.#during('STOP', () => this.#link.call('suspend', {}, deadline))
    this.#paused = true
    // No event: it was paused already.
    return { pausedAtUs: pausedAtUs ?? nowUs() }
  }

  capture(deadline: Deadline): Capture {
    if (!this.#paused || this.#capture === null) {
      throw new SnapswitchError('INTERNAL', `${this.name}: capture without prepare and pause.`, 'Please report this.')
    }
    this.#enter('capturing', 'capture')
    const capture = this.#capture
    this.#capture = null
    this.#paused = false
    let onResumed: (info: ResumeInfo) => void = () => {}
    let onStuck: (error: Error) => void = () => {}
    const resumed = new Promise<ResumeInfo>((resolve, reject) => {
      onResumed = resolve
      onStuck = reject
    })
    const sealed = capture.run(onResumed, deadline).finally(() => {
      if (this.#phase === 'capturing') this.#phase = 'idle'
    })
    // Had the machine been brought to run again, `resumed` would be settled by now.
    sealed.catch((error) => onStuck(asSnapswitchError(error)))
    resumed.catch(() => {})
    return { resumed, sealed }
  }

  async resume(deadline: Deadline): Promise<ResumeInfo> {
    const resumedAtUs = await this.#during('RESUME', () => this.#link.call('resume', {}, deadline))
    this.#paused = false
    return { resumedAtUs: resumedAtUs ?? nowUs() }
  }

  async destroy(deadline: Deadline): Promise<void> {
    try {
      await this.#link.call('destroy', {}, deadline)
    } catch (error) {
      const { code } = asSnapswitchError(error)
      if (code !== 'MACHINE_NOT_RUNNING' && code !== 'MACHINE_UNKNOWN') throw error
    }
    await this.close()
  }

  async mergeFrozen(disk: FrozenDisk, deadline: Deadline): Promise<boolean> {
    const { disks } = describeDomain(await this.#link.xml(0, deadline))
    const live = disks.find(({ target }) => target === disk.name)
    const base = disk.layers[0]?.file
    if (base === undefined || live?.layers[0]?.file !== disk.overlay || live.layers[1]?.file !== base) return false
    await mergeActive(this.#link, { target: disk.name, file: disk.overlay, base }, deadline)
    return true
  }

  /** libvirt opens an overlay only at the cut. */
  async dropOverlay(file: string): Promise<void> {
    await rm(file, { force: true })
  }

  async close(): Promise<void> {
    await this.abandon().catch(() => {})
    this.#phase = 'closed'
    this.#link.close()
  }

  /** Does something and tells when QEMU says that an event came of it; null when none did. */
  async #during(event: string, act: () => Promise<unknown>): Promise<number | null> {
    let seenUs: number | null = null
    const stop = this.#link.onEvent(({ name, atUs }) => {
      if (name === event) seenUs ??= atUs
    })
    try {
      await act()
      return seenUs
    } finally {
      stop()
    }
  }

  #enter(phase: Phase, what: string): void {
    if (!next[this.#phase].includes(phase)) {
      throw new SnapswitchError(
        'SNAPSHOT_BUSY',
        `${this.name}: ${what} while ${this.#phase}.`,
        'Wait for the snapshot under way to end.',
      )
    }
    this.#phase = phase
  }

  #backgroundObstacle(deadline: Deadline): Promise<string | null> {
    this.#obstacle ??= (async () => {
      await this.#checkMigration(deadline)
      if (this.#settings.alwaysStopped) return 'the configuration asks for a full stop'
      const obstacle =
        libvirtObstacle(this.#link.libvirtVersion) ?? (await backgroundObstacle(asQmp(this.#link), deadline))
      const kernel = obstacle !== null && /kernel/.test(obstacle) && !everyoneMayUseUserfaultfd()
      return kernel ? `${obstacle}: ${userfaultfdHint}` : obstacle
    })()
    this.#obstacle.catch(() => {
      this.#obstacle = null
    })
    return this.#obstacle
  }

  #supported(domain: DomainDescription): DomainDescription {
    const [first] = domain.unsupported
    if (first === undefined) return domain
    throw new SnapswitchError(
      'MACHINE_UNSUPPORTED',
      `${this.name}’s disk ${first.name} cannot be snapshot: ${first.reason}.`,
      'Use qcow2 or raw image files, or make the disk read-only.',
    )
  }

  #checkState(state: string): void {
    if (state === 'running' || state === 'paused') return
    const why =
      state === 'prelaunch'
        ? 'has never run: it was started paused'
        : `is ${state === '' ? 'in an unknown state' : state}`
    throw new SnapswitchError(
      'MACHINE_NOT_RUNNING',
      `${this.name} ${why}, so it cannot be saved.`,
      `Let it run first: \`virsh resume ${this.#link.domain}\`.`,
    )
  }

  async #checkMigration(deadline: Deadline): Promise<void> {
    const status = await migrationStatus(asQmp(this.#link), deadline)
    if (isUnderWay(status)) {
      throw new SnapswitchError(
        'SNAPSHOT_BUSY',
        `${this.name} is being migrated or saved already.`,
        `Wait until that is done; \`virsh domjobinfo ${this.#link.domain}\` shows it if it is libvirt’s.`,
      )
    }
    const reasons = status['blocked-reasons']
    if (Array.isArray(reasons) && reasons.length > 0) {
      throw new SnapswitchError(
        'MACHINE_UNSUPPORTED',
        `${this.name} cannot be saved: ${reasons.map(String).join('; ')}.`,
        'Remove the device that QEMU names, or take the machine out of the network.',
      )
    }
  }
}
