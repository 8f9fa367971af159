// One machine under its user's command. What it takes to drive one through a cut is the same for all hypervisors
// (capture-control.ts); what is done for it, the command does.

import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import { SnapswitchError } from '../../errors/errors.js'
import type {
  Capture,
  CaptureTarget,
  Deadline,
  HypervisorSettings,
  MachineControl,
  MachineInfo,
  PauseInfo,
  ResumeInfo,
} from '../hypervisor.js'
import { CaptureControl } from '../shared/capture-control.js'
import { CutPace } from '../shared/cut-pace.js'
import { endedMark } from '../shared/whole.js'
import type { Inspected } from './answers.js'
import { inspect, stop, tell } from './calls.js'
import { ExecCapture } from './capture.js'
import type { Target } from './command.js'
import type { ExecDefinition } from './types.js'

const noOverlays = (name: string) =>
  new SnapswitchError('INTERNAL', `${name} has no overlays of snapswitch’s`, 'Please report this.')

export class ExecMachine implements MachineControl {
  readonly name: string
  readonly #target: Target
  /** Where a restore has loaded it; null: it was started otherwise. */
  readonly #directory: string | null
  readonly #captures: CaptureControl
  #last: Inspected

  private constructor(target: Target, directory: string | null, first: Inspected) {
    this.#directory = directory
    this.name = target.name
    this.#target = target
    this.#last = first
    this.#captures = new CaptureControl(target.name, new CutPace(null))
  }

  /** Throws MACHINE_NOT_RUNNING. */
  static async attach(target: Target, directory: string | null, deadline: Deadline): Promise<ExecMachine> {
    const first = await inspect(target, deadline)
    if (first.state === 'off') throw isOff(target)
    return new ExecMachine(target, directory, first)
  }

  get incarnation(): string | null {
    return this.#last.incarnation ?? null
  }

  async inspect(deadline: Deadline): Promise<MachineInfo> {
    const answer = await inspect(this.#target, deadline)
    if (answer.state === 'off') throw isOff(this.#target)
    this.#last = answer
    const { state, detail, memoryBytes, files, warnings, unsupported, version, captureMode } = answer
    const isStopped = captureMode !== 'background'
    return {
      name: this.name,
      state,
      stateDetail: state === 'running' ? null : (detail ?? null),
      memoryBytes: memoryBytes!,
      // Its disks are the command's care: what it saves of them are files of the snapshot.
      disks: [],
      media: [],
      unsupported: unsupported ?? [],
      files: (files ?? []).map(({ path }) => path),
      warnings: warnings ?? [],
      nics: nicsOf(answer),
      captureMode: isStopped ? 'stopped' : 'background',
      captureModeReason: isStopped ? 'its command saves it while it stands still' : null,
      hypervisorVersion: version ?? '',
    }
  }

  async definition(): Promise<ExecDefinition> {
    const { memoryBytes, details, files, version } = this.#last
    const { command, machine } = this.#target
    return {
      kind: 'exec',
      name: this.name,
      command,
      machine,
      details: details ?? '',
      files: files ?? [],
      memoryBytes: memoryBytes!,
      nics: nicsOf(this.#last),
      hypervisorVersion: version ?? '',
    }
  }

  async settings(): Promise<HypervisorSettings> {
    return { capabilities: {}, parameters: {} }
  }

  /** Nothing was changed. */
  async putBack(): Promise<void> {}

  prepare(target: CaptureTarget, deadline: Deadline): Promise<void> {
    return this.#captures.prepare(async () => {
      const { state, captureMode, memoryBytes } = await this.inspect(deadline)
      if (state === 'running') {
        const roles = (this.#last.files ?? []).map(({ role }) => role)
        return ExecCapture.prepare({ target: this.#target, mode: captureMode, memoryBytes, roles }, target.directory)
      }
      const action = 'Resume it first.'
      throw new SnapswitchError('MACHINE_NOT_RUNNING', `${this.name} does not run: it is ${state}`, action)
    })
  }

  abandon(): Promise<void> {
    return this.#captures.abandon()
  }

  hasten(): void {
    this.#captures.pace.begin()
  }

  pause(deadline: Deadline): Promise<PauseInfo> {
    return this.#captures.pause(() => stop(this.#target, deadline), deadline)
  }

  capture(deadline: Deadline): Capture {
    return this.#captures.capture(deadline)
  }

  resume(deadline: Deadline): Promise<ResumeInfo> {
    return this.#captures.resume(
      () => () => {},
      () => tell(this.#target, 'resume', deadline),
      deadline,
    )
  }

  async destroy(deadline: Deadline): Promise<void> {
    await tell(this.#target, 'destroy', deadline)
    if (this.#directory !== null) await writeFile(path.join(this.#directory, endedMark), '').catch(() => {})
  }

  async collapse(): Promise<string[]> {
    throw noOverlays(this.name)
  }

  async shorten(): Promise<string[]> {
    throw noOverlays(this.name)
  }

  async checkCollapse(): Promise<void> {
    throw noOverlays(this.name)
  }

  async dropOverlay(): Promise<void> {
    throw noOverlays(this.name)
  }

  close(): Promise<void> {
    return this.#captures.close()
  }
}

const nicsOf = ({ nics }: Inspected) => (nics ?? []).map(({ device, mac }) => ({ device, mac: mac ?? null }))

const isOff = ({ name, machine, command }: Target) =>
  new SnapswitchError(
    'MACHINE_NOT_RUNNING',
    `${name} is not running: ${command} says that ${machine} is off`,
    'Start it, and try again.',
  )
