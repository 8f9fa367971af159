// One machine as the baselines save it, by QMP: while it runs and stopped for the last round (pre-copy, as
// VNsnap-memory), stopped all the while (as a hypervisor's plain snapshot does), or behind its back (as snapswitch
// does).

import { constants, copyFileSync, rmSync } from 'node:fs'
import { pauseFor, within } from '../../src/hypervisor/shared/deadline.js'
import { QmpClient, type QmpEvent } from '../../src/hypervisor/shared/qmp.js'
import { until } from '../../test/lab/command.js'
import type { LabMachine } from '../../test/lab/lab.js'

const COMMAND_MS = 10_000
const SAVE_MS = 120_000
const STARTS_MS = 30_000
/** As good as none: QEMU holds 32 MiB/s otherwise. */
const BANDWIDTH = 2 ** 40
/** VNsnap's last round was short, too, where the machine let it: QEMU goes on with rounds until it expects this. */
const LAST_ROUND_MS = 30

/** The name of a save that is thrown away. */
const PASSING = 'passing'

/** Microseconds of CLOCK_REALTIME. */
export interface Saved {
  readonly vm: string
  readonly host: string
  readonly startedAtUs: number
  readonly pausedAtUs: number
  readonly cutAtUs: number
  readonly resumedAtUs: number
  readonly bytes: number
}

/** For `-incoming`; QEMU 7.2 has no file: yet. */
export const loadFrom = (file: string) => `exec:cat '${file}'`

const nowUs = () => Math.round((performance.timeOrigin + performance.now()) * 1000)

export class SavedMachine {
  readonly #machine: LabMachine
  readonly #qmp: QmpClient

  private constructor(machine: LabMachine, qmp: QmpClient) {
    this.#machine = machine
    this.#qmp = qmp
  }

  static async open(machine: LabMachine): Promise<SavedMachine> {
    const qmp = await QmpClient.connect(machine.outside.qmp, within(COMMAND_MS))
    const set = (capability: string) => ({ capability, state: true })
    await qmp.execute('migrate-set-capabilities', { capabilities: [set('events')] }, within(COMMAND_MS))
    const limits = { 'max-bandwidth': BANDWIDTH, 'downtime-limit': LAST_ROUND_MS }
    await qmp.execute('migrate-set-parameters', limits, within(COMMAND_MS))
    return new SavedMachine(machine, qmp)
  }

  /** Of a machine that has just been started from what was saved; returns once it has all, and stands still. */
  static async loaded(machine: LabMachine): Promise<SavedMachine> {
    // A QEMU that has just been started does not listen yet.
    const opened = await until(`QMP of ${machine.plan.name}`, STARTS_MS, () =>
      SavedMachine.open(machine).catch(() => undefined),
    )
    await opened.#leaves('inmigrate')
    return opened
  }

  get tap(): string {
    return this.#machine.tap
  }

  get host(): string {
    return this.#machine.plan.host
  }

  /** Where its memory goes, as its QEMU sees it, and from outside. */
  #file(name: string): { inside: string; outside: string } {
    const beside = (disk: string) => disk.replace(/qcow2$/, `${name}.memory`)
    return { inside: beside(this.#machine.files.qcow2), outside: beside(this.#machine.outside.qcow2) }
  }

  #disk(name: string): { used: string; kept: string } {
    const used = this.#machine.outside.qcow2
    return { used, kept: used.replace(/qcow2$/, `${name}.disk`) }
  }

  /** Of a machine that stands still, saved: QEMU has written all that it held of the disk (`bdrv_inactivate_all`). */
  #keepDisk(name: string): void {
    const { used, kept } = this.#disk(name)
    copyFileSync(used, kept, constants.COPYFILE_FICLONE)
  }

  #migrate(name: string): Promise<unknown> {
    // QEMU 7.2 has no file: yet.
    return this.#qmp.execute('migrate', { uri: `exec:cat >'${this.#file(name).inside}'` }, within(COMMAND_MS))
  }

  #ended(): Promise<QmpEvent> {
    const isEnd = ({ name, data }: QmpEvent) =>
      name === 'MIGRATION' && ['completed', 'failed', 'cancelled'].includes(String(data.status))
    return this.#qmp.event(isEnd, 'the end of its save', within(SAVE_MS))
  }

  #event(name: string): Promise<QmpEvent> {
    return this.#qmp.event((event) => event.name === name, name, within(SAVE_MS))
  }

  async #saved(ended: Promise<QmpEvent>): Promise<number> {
    const { data } = await ended
    if (data.status !== 'completed')
      throw new Error(`${this.#machine.plan.name}: its save ended as ${String(data.status)}`)
    // `cont` is refused for a moment yet ("Migration is not finalized yet": qmp_cont in QEMU's monitor/qmp-cmds.c).
    await this.#leaves('finish-migrate')
    const told = (await this.#qmp.execute('query-migrate', {}, within(COMMAND_MS))) as {
      ram?: { transferred?: number }
    }
    return told.ram?.transferred ?? Number.NaN
  }

  async #resume(): Promise<number> {
    const resumed = this.#event('RESUME')
    await this.#qmp.execute('cont', {}, within(COMMAND_MS))
    return (await resumed).atUs
  }

  /**
   * Saves while it runs; `flip` is called when it stands still for the last round. `kept`: under that name, with its
   * disk, to be restored.
   */
  async saveLive(flip: () => Promise<void>, kept?: string): Promise<Saved> {
    const startedAtUs = nowUs()
    const [stopped, ended] = [this.#event('STOP'), this.#ended()]
    // Whichever fails first tells; the other must not be an unhandled rejection.
    ended.catch(() => undefined)
    stopped.catch(() => undefined)
    await this.#migrate(kept ?? PASSING)
    const pausedAtUs = (await stopped).atUs
    await flip()
    const cutAtUs = nowUs()
    const bytes = await this.#saved(ended)
    if (kept !== undefined) this.#keepDisk(kept)
    const resumedAtUs = await this.#resume()
    return this.#done({ startedAtUs, pausedAtUs, cutAtUs, resumedAtUs, bytes })
  }

  /** Stops, saves, lets it run; `flip` is called just before it runs again. */
  async saveStopped(flip: () => Promise<void>, kept?: string): Promise<Saved> {
    const startedAtUs = nowUs()
    const stopped = this.#event('STOP')
    stopped.catch(() => undefined)
    await this.#qmp.execute('stop', {}, within(COMMAND_MS))
    const pausedAtUs = (await stopped).atUs
    const ended = this.#ended()
    ended.catch(() => undefined)
    await this.#migrate(kept ?? PASSING)
    const bytes = await this.#saved(ended)
    if (kept !== undefined) this.#keepDisk(kept)
    await flip()
    const cutAtUs = nowUs()
    const resumedAtUs = await this.#resume()
    // Nothing of it went out between its stop and its flip: the cut is where it stopped.
    return this.#done({ startedAtUs, pausedAtUs, cutAtUs: Math.min(cutAtUs, pausedAtUs), resumedAtUs, bytes })
  }

  /** Saves it behind its back: QEMU stops it, protects its memory, lets it run, and writes meanwhile. */
  async saveBehind(): Promise<Saved> {
    const startedAtUs = nowUs()
    await this.#background(true)
    const [stopped, resumed, ended] = [this.#event('STOP'), this.#event('RESUME'), this.#ended()]
    for (const waited of [stopped, resumed, ended]) waited.catch(() => undefined)
    await this.#migrate(PASSING)
    const pausedAtUs = (await stopped).atUs
    const resumedAtUs = (await resumed).atUs
    const bytes = await this.#saved(ended)
    await this.#background(false)
    return this.#done({ startedAtUs, pausedAtUs, cutAtUs: pausedAtUs, resumedAtUs, bytes })
  }

  async #background(state: boolean): Promise<void> {
    const capabilities = [{ capability: 'background-snapshot', state }]
    await this.#qmp.execute('migrate-set-capabilities', { capabilities }, within(COMMAND_MS))
  }

  #done(times: Omit<Saved, 'vm' | 'host'>): Saved {
    return { vm: this.#machine.plan.name, host: this.host, ...times }
  }

  /** Before a new QEMU of this machine starts, once the last has ended: its disk as it was saved. */
  putDiskBack(name: string): void {
    const { used, kept } = this.#disk(name)
    copyFileSync(kept, used, constants.COPYFILE_FICLONE)
  }

  /** What was saved of it, as its QEMU sees it. */
  memory(name: string): string {
    return this.#file(name).inside
  }

  async #leaves(state: 'inmigrate' | 'finish-migrate'): Promise<void> {
    const deadline = within(SAVE_MS)
    for (;;) {
      const { status } = (await this.#qmp.execute('query-status', {}, deadline)) as { status: string }
      if (status !== state) return
      await pauseFor(1, deadline)
    }
  }

  async run(): Promise<void> {
    await this.#resume()
  }

  /** Each snapshot begins as the first did. */
  forget(): void {
    rmSync(this.#file(PASSING).outside, { force: true })
  }

  close(): void {
    this.#qmp.close()
  }
}
