// A host's hypervisors as its daemon sees them: the production interface (src/hypervisor/hypervisor.ts) over virtual
// guests.

import { SnapswitchError } from '../../src/errors/errors.js'
import { formatMac } from '../../src/frame/mac.js'
import type {
  Capture,
  CaptureTarget,
  Deadline,
  Hypervisor,
  LoadedMachine,
  LoadRequest,
  MachineControl,
  MachineInfo,
  MachineSpec,
  ResumeInfo,
  SealInfo,
  StartedLoad,
} from '../../src/hypervisor/hypervisor.js'
import type { QemuDefinition } from '../../src/hypervisor/qemu/types.js'
import type { Daemon } from './daemon.js'
import type { Guest, Image } from './guest.js'
import { networkNumber } from './networks.js'
import { EPOCH_MS } from './worker.js'

const MERGE = 51
const PREPARE = 52
const us = (ms: number) => Math.round((EPOCH_MS + ms) * 1000)
const refusal = (reason: string) => new SnapswitchError('HYPERVISOR_REFUSED', reason, 'None.')
const gone = (vm: string) => new SnapswitchError('MACHINE_NOT_RUNNING', `machine ${vm} has ended`, 'None.')

export class VirtualHypervisor implements Hypervisor {
  readonly #daemon: Daemon

  constructor(daemon: Daemon) {
    this.#daemon = daemon
  }

  async isThere(vm: string, spec: MachineSpec): Promise<boolean> {
    const guest = this.#daemon.world.guestOf(vm)
    return spec.qmp === guest.socket && guest.alive && guest.host === this.#daemon.host.index
  }

  async attach(vm: string, spec: MachineSpec): Promise<MachineControl> {
    if (!(await this.isThere(vm, spec))) throw gone(vm)
    const guest = this.#daemon.world.guestOf(vm)
    return new VirtualControl(this.#daemon, guest, guest.life)
  }

  load({ definition, memoryFile, directory }: LoadRequest): Promise<LoadedMachine> {
    const daemon = this.#daemon
    const { world, host } = daemon
    const guest = world.guestOf(definition.name)
    const image = world.contents.get(memoryFile) as Image
    if (guest.nics.some((nic) => nic.network !== image.network)) world.marks.add('restored with NICs in other networks')
    if (!host.configured.includes(guest)) world.marks.add('restored elsewhere')
    return daemon.answer((done, failed) => {
      world.step(host)
      const loaded = () => {
        const control = new VirtualControl(daemon, guest, NOT_YET, true)
        const takePlace = async () => {
          guest.takePlace(image, host.index, directory)
          control.life = guest.life
        }
        done({ control, spec: { qmp: directory }, takePlace })
      }
      guest.stage(host.index, loaded, (reason) => failed(refusal(reason)))
    })
  }

  endLoad({ directory, mayRun }: StartedLoad): Promise<boolean> {
    const daemon = this.#daemon
    const guest = daemon.world.guests.find(({ socket }) => socket === directory)
    return daemon.answer((done) => {
      if (guest === undefined || !guest.alive) return done(true)
      const end = () => {
        if (mayRun && guest.running) return done(false)
        guest.undo()
        done(true)
      }
      guest.ask(end, () => done(true))
    })
  }
}

/** The life of what is loaded and is no machine yet. */
const NOT_YET = -1

class VirtualControl implements MachineControl {
  readonly name: string
  life: number
  readonly #daemon: Daemon
  readonly #guest: Guest
  /** By a restore: one that is ended again must never have run. */
  readonly #isLoaded: boolean
  #directory = ''

  constructor(daemon: Daemon, guest: Guest, life: number, isLoaded = false) {
    this.#daemon = daemon
    this.#guest = guest
    this.name = guest.name
    this.life = life
    this.#isLoaded = isLoaded
  }

  get incarnation(): string {
    return String(this.life)
  }

  /** One thing that its hypervisor does; it goes on with it when the answer does not come in time. */
  #ask<T>(
    deadline: Deadline,
    command: (done: () => void, failed: (reason: string) => void) => void,
    result: () => T,
  ): Promise<T> {
    const { life } = this
    const daemon = this.#daemon
    const guest = this.#guest
    const { world } = daemon
    return daemon.answer((done, failed) => {
      world.step(daemon.host)
      if (guest.life !== life || !guest.alive) return failed(gone(guest.name))
      const late = daemon.after(deadline - world.time.now, () => {
        world.marks.add('hypervisor late')
        failed(new SnapswitchError('DEADLINE', `${guest.name}’s hypervisor did not answer in time`, 'None.'))
      })
      const end = (say: () => void) => {
        late.act = null
        say()
      }
      command(
        () => end(() => done(result())),
        (reason) => end(() => failed(guest.life !== life || !guest.alive ? gone(guest.name) : refusal(reason))),
      )
    })
  }

  inspect(deadline: Deadline): Promise<MachineInfo> {
    const guest = this.#guest
    return this.#ask(
      deadline,
      (done, failed) => guest.ask(done, failed),
      () => ({
        name: guest.name,
        state: guest.running ? ('running' as const) : ('paused' as const),
        stateDetail: null,
        memoryBytes: 1,
        disks: [],
        media: [],
        unsupported: [],
        files: [],
        warnings: [],
        nics: guest.nics.map((nic) => ({ device: `tap${nic.index}`, mac: formatMac(Uint8Array.from(nic.mac)) })),
        captureMode: guest.stopped ? ('stopped' as const) : ('background' as const),
        captureModeReason: null,
        hypervisorVersion: '1',
      }),
    )
  }

  async definition(): Promise<QemuDefinition> {
    const nics = this.#guest.nics.map((nic) => ({
      device: `tap${nic.index}`,
      mac: formatMac(Uint8Array.from(nic.mac)),
    }))
    return { kind: 'qemu', name: this.name, argv: [], memoryBytes: 1, nics, hypervisorVersion: '1' }
  }

  prepare({ directory }: CaptureTarget, deadline: Deadline): Promise<void> {
    this.#directory = directory
    const { world, host } = this.#daemon
    const wait = world.wait(PREPARE, host.index, this.#guest.index, world.scenario.pace.hypervisor * 2)
    return this.#ask(
      deadline,
      (done) => this.#daemon.after(wait, done),
      () => undefined,
    )
  }

  async settings() {
    return { capabilities: {}, parameters: {} }
  }

  async putBack(): Promise<void> {
    // A capture has changed nothing here.
  }

  abandon(): Promise<void> {
    const { world, host } = this.#daemon
    const wait = world.wait(MERGE, host.index, this.#guest.index, world.scenario.pace.hypervisor)
    return this.#ask(
      Number.MAX_SAFE_INTEGER,
      (done) => this.#daemon.after(wait, done),
      () => undefined,
    )
  }

  hasten(): void {
    // Nobody is in the way.
  }

  pause(deadline: Deadline): Promise<{ pausedAtUs: number }> {
    const guest = this.#guest
    return this.#ask(
      deadline,
      (done, failed) => guest.pause(done, failed),
      () => ({ pausedAtUs: us(guest.stoppedAt) }),
    )
  }

  resume(deadline: Deadline): Promise<ResumeInfo> {
    const guest = this.#guest
    return this.#ask(
      deadline,
      (done, failed) => guest.resume(done, failed),
      () => ({ resumedAtUs: us(guest.runsSince) }),
    )
  }

  capture(deadline: Deadline): Capture {
    const daemon = this.#daemon
    const guest = this.#guest
    const directory = this.#directory
    const { world } = daemon
    const [network, snapshot] = directory.split('/')
    let seal: SealInfo | null = null
    const when: { resumed?: () => void; sealed?: () => void; failed: ((reason: string) => void)[] } = { failed: [] }
    const resumed = this.#ask<ResumeInfo>(
      deadline,
      (done, failed) => {
        when.resumed = done
        when.failed.push(failed)
      },
      () => ({ resumedAtUs: us(guest.runsSince) }),
    )
    const sealed = this.#ask<SealInfo>(
      deadline,
      (done, failed) => {
        when.sealed = done
        when.failed.push(failed)
      },
      () => seal as SealInfo,
    )
    guest.capture(networkNumber(network), () => daemon.alive, {
      resumed: () => when.resumed?.(),
      sealed: (image) => {
        const digest = `memory ${snapshot} ${guest.name}`
        world.contents.set(digest, image)
        seal = { memoryFile: digest, memoryBytes: 1, memoryDigest: digest, disks: [] }
        when.sealed?.()
      },
      failed: (reason) => {
        for (const failed of when.failed) failed(reason)
      },
    })
    return { resumed, sealed, callOff: () => {} }
  }

  destroy(): Promise<void> {
    const { life } = this
    const daemon = this.#daemon
    const guest = this.#guest
    return daemon.answer((done) => {
      daemon.world.step(daemon.host)
      if (life === NOT_YET || guest.life !== life || !guest.alive) return done(undefined)
      if (this.#isLoaded) guest.undo()
      else guest.end()
      done(undefined)
    })
  }

  async collapse(): Promise<string[]> {
    throw new Error('there are no disks here')
  }

  async shorten(): Promise<string[]> {
    throw new Error('there are no disks here')
  }

  async checkCollapse(): Promise<void> {
    // There are no disks here.
  }

  async dropOverlay(): Promise<void> {
    // There are no disks here.
  }

  async close(): Promise<void> {
    // The machine runs on.
  }
}
