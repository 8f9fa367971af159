// One capture of a machine by its command: a state file and whatever else it names, in a directory of their own.
// However it ends, the guest runs on, and of a capture that has failed nothing is left.

import { readdir, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { SnapswitchError } from '../../errors/errors.js'
import { digestFile, makeDirectory, storeError, syncFile } from '../../files/durable.js'
import { nowUs } from '../../runtime/clock.js'
import type { Deadline, ExternalFile, MachineInfo, PauseInfo, ResumeInfo, SealInfo } from '../hypervisor.js'
import type { CaptureWork } from '../shared/capture-control.js'
import { explainFailure } from '../shared/capture-failure.js'
import { within } from '../shared/deadline.js'
import type { Holdup, PauseLimits } from '../shared/pause-limit.js'
import { captured } from './answers.js'
import { stop, tell } from './calls.js'
import { call, contract, type Target } from './command.js'

const folder = 'saved'
const stateFile = 'memory.img'
/** A guest may stand still for so long with nothing written for it: a command may do more than write. */
const stallMs = 30_000
/** The same where the command has it run on by itself. */
const pauseMs = 5000
const recoverMs = 10_000

export interface CaptureContext extends PauseLimits {
  readonly target: Target
  /** Of files that the machine has besides: no other file may have one. */
  readonly roles: readonly string[]
}

export class ExecCapture implements CaptureWork {
  readonly machine: string
  readonly mode: MachineInfo['captureMode']
  readonly memoryBytes: number
  readonly stallMs = stallMs
  readonly pauseMs = pauseMs
  readonly #target: Target
  readonly #roles: readonly string[]
  readonly #directory: string
  #paused = false

  private constructor({ target, mode, memoryBytes, roles }: CaptureContext, directory: string) {
    this.machine = target.name
    this.#target = target
    this.#roles = roles
    this.mode = mode
    this.memoryBytes = memoryBytes
    this.#directory = directory
  }

  /** Makes the directory, in `parent`. */
  static async prepare(context: CaptureContext, parent: string): Promise<ExecCapture> {
    const directory = path.join(parent, folder)
    try {
      await rm(directory, { recursive: true, force: true })
      await makeDirectory(directory, 0o700)
    } catch (thrown) {
      throw storeError(`cannot make ${directory}`, thrown)
    }
    return new ExecCapture(context, directory)
  }

  get #file(): string {
    return path.join(this.#directory, stateFile)
  }

  /** Bytes in its directory. */
  async progress(): Promise<number> {
    const names = await readdir(this.#directory)
    const stats = await Promise.all(names.map((name) => stat(path.join(this.#directory, name)).catch(() => null)))
    return stats.reduce((sum, one) => sum + (one?.size ?? 0), 0)
  }

  async holdup(): Promise<Holdup> {
    const { command, machine } = this.#target
    return { what: `\`${command} capture ${machine}\` gets on no more`, action: 'See what keeps the command.' }
  }

  async pause(deadline: Deadline): Promise<PauseInfo> {
    // Set first: an end that comes too late does not mean that nothing was done.
    this.#paused = true
    return stop(this.#target, deadline)
  }

  async abandon(onRunning: () => void): Promise<void> {
    try {
      if (this.#paused) await tell(this.#target, 'resume', within(recoverMs))
      onRunning()
    } finally {
      await rm(this.#directory, { recursive: true, force: true })
    }
  }

  async run(onResumed: (info: ResumeInfo) => void, deadline: Deadline, late: Promise<never>): Promise<SealInfo> {
    const killer = new AbortController()
    let runs = false
    const resumed = () => {
      runs = true
      onResumed({ resumedAtUs: nowUs() })
    }
    try {
      const work = call(this.#target, {
        action: 'capture',
        input: { directory: this.#directory, memory: this.#file, captureMode: this.mode },
        deadline,
        signal: killer.signal,
        ...(this.mode === 'background' && { onResumed: resumed }),
      })
      late.catch(() => killer.abort())
      const text = await work.catch((error) => Promise.race([late, Promise.reject(error)]))
      if (!runs) {
        await tell(this.#target, 'resume', within(recoverMs))
        resumed()
      }
      return await this.#seal(captured(this.#target, text, this.#roles).files)
    } catch (error) {
      const about = { machine: this.machine, file: this.#file, lost: null, log: 'the command’s own log' }
      const explained = await explainFailure(error, about, deadline)
      if (!runs) await tell(this.#target, 'resume', within(recoverMs)).then(resumed, () => {})
      await rm(this.#directory, { recursive: true, force: true })
      throw explained
    }
  }

  async #seal(files: readonly ExternalFile[]): Promise<SealInfo> {
    const { size } = await regular(this.#target, this.#file)
    for (const { path: file } of files) await regular(this.#target, file)
    for (const file of [this.#file, ...files.map((one) => one.path), this.#directory]) await syncFile(file)
    const memoryDigest = await digestFile(this.#file)
    return { memoryFile: this.#file, memoryBytes: size, memoryDigest, disks: [], files }
  }
}

async function regular(target: Target, file: string) {
  const found = await stat(file).catch(() => null)
  if (found?.isFile() === true && found.size > 0) return found
  throw new SnapswitchError(
    'HYPERVISOR_PROTOCOL',
    `${target.command} capture ${target.machine} ended well, but ${file} ${found === null ? 'is not there' : 'is empty or no file'}`,
    contract,
  )
}
