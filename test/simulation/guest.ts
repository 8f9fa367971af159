// Virtual machines: guests that send numbered frames and read what their TAPs queue for them, each at its own pace; and
// the hypervisor's side of them: pause, capture, resume, load. A hypervisor is a process of its own and outlives the
// daemon.

import type { MachineSpec } from './scenario.js'
import type { Entry } from './timeline.js'
import type { World } from './world.js'

/** A guest's memory as far as it matters: what it has sent and read. One per incarnation; only ever appended to. */
export interface GuestLog {
  readonly sent: number[]
  /**
   * Per NIC: ids of frames put into its TAP's queue, in order (-1: an announcement), and how many the guest has read.
   */
  readonly nics: { readonly delivered: number[]; read: number }[]
}

/** A memory image: a prefix of a log. */
export interface Image {
  readonly vm: number
  /** Whose snapshot it is of. */
  readonly network: number
  readonly log: GuestLog
  readonly sent: number
  readonly read: readonly number[]
}

export interface CaptureEvents {
  resumed(): void
  sealed(image: Image): void
  /** The machine runs on; nothing of the capture is left. */
  failed(reason: string): void
}

const TAP_QUEUE = 1000
/** After its answer to a stop (test/linux/tap-qemu.test.ts). */
const TAKE_ONE_MS = 0.5

export class Nic {
  readonly guest: Guest
  /** Number among all NICs of the scenario; also the index of its port wherever it is. */
  readonly index: number
  readonly nth: number
  readonly network: number
  readonly mac: readonly number[]
  reading: Entry | null = null
  reads = 0
  /** How many frames had been delivered when its port was armed. */
  armedAt = 0

  constructor(guest: Guest, index: number, nth: number, network: number) {
    this.guest = guest
    this.index = index
    this.nth = nth
    this.network = network
    this.mac = [2, 0, 0, 0, guest.index, nth]
  }

  /** Frames in the TAP's queue as its device counts them: a hypervisor that stands still takes one from there. */
  get queued(): number {
    return this.guest.tookOne ? Math.max(0, this.unread - 1) : this.unread
  }

  get log() {
    return this.guest.log.nics[this.nth]
  }

  /** Frames that the guest has not read. */
  get unread(): number {
    return this.log.delivered.length - this.log.read
  }
}

export class Guest {
  readonly world: World
  readonly index: number
  readonly name: string
  readonly nics: Nic[]
  readonly stopped: boolean
  host: number
  alive = true
  running = true
  /** Its hypervisor has stood still for long enough to take a frame from each TAP; no image holds it. */
  tookOne = false
  /** Where this incarnation's hypervisor is reached. */
  socket: string
  /** When it was stopped last, and has run since: a hypervisor tells it exactly, if later. */
  stoppedAt = 0
  runsSince = 0
  /** Counts the times it was ended or loaded: what was under way for a former self means nothing. */
  life = 0
  log: GuestLog
  /** The image that this incarnation began from. */
  origin: Image | null = null
  /** When this incarnation was loaded; 0: it is the first. */
  loadedAt = 0
  /** A restore has loaded it, and it has never run. */
  fresh = false
  /** Networks whose restores it has been through. */
  readonly restoredBy = new Set<number>()
  readonly #deferred: (() => void)[] = []
  #pauses = 0
  #captures = 0
  #stagings = 0
  #tasks = 0
  /** A hypervisor takes one command after the other, whoever gives them. */
  #lastTask = 0

  constructor(world: World, index: number, firstNic: number, { host, nics, networks, stopped }: MachineSpec) {
    this.world = world
    this.index = index
    this.name = `vm${index}`
    this.host = host
    this.stopped = stopped
    this.socket = `h${host}/${this.name}`
    this.nics = Array.from({ length: nics }, (_, nth) => new Nic(this, firstNic + nth, nth, networks?.[nth] ?? 0))
    this.log = { sent: [], nics: this.nics.map(() => ({ delivered: [], read: 0 })) }
  }

  isIn(network: number): boolean {
    return this.nics.some((nic) => nic.network === network)
  }

  // --- the guest -----------------------------------------------------------------------------------------------------

  /** The guest's program sends now, or as soon as its vCPUs run again. */
  act(send: () => void): void {
    if (!this.alive) return
    if (this.running) send()
    else this.#deferred.push(send)
  }

  /** A frame has reached the TAP. False: its queue is full. */
  deliver(nic: Nic, id: number): boolean {
    const { world } = this
    if (nic.unread >= TAP_QUEUE) return false
    nic.log.delivered.push(id)
    world.delivered(nic, id)
    this.#scheduleRead(nic)
    return true
  }

  #scheduleRead(nic: Nic): void {
    if (!this.running || nic.reading !== null || nic.unread === 0) return
    const { world } = this
    const wait = world.wait(READ, nic.index, nic.reads, world.scenario.pace.read)
    nic.reading = world.time.after(wait, () => {
      nic.reading = null
      if (!this.running) return
      const most = 1 + Math.floor(world.chance(READ_COUNT, nic.index, nic.reads) * 4)
      const count = Math.min(most, nic.unread)
      nic.reads++
      if (world.trace !== null) {
        const ids = nic.log.delivered.slice(nic.log.read, nic.log.read + count)
        world.note(
          this.name,
          `reads ${ids.map((id) => `#${id}`).join(' ')}${this.nics.length > 1 ? ` .${nic.nth}` : ''}`,
        )
      }
      nic.log.read += count
      this.#scheduleRead(nic)
    })
  }

  // --- its hypervisor ------------------------------------------------------------------------------------------------

  pause(done: () => void, refused: (reason: string) => void): void {
    const nth = ++this.#pauses
    this.#task(() => {
      const { faults } = this.world.scenario
      if (faults.some((f) => f.kind === 'refuse pause' && f.vm === this.index && f.nth === nth)) {
        refused('the monitor refused to stop')
        return
      }
      this.running = false
      this.stoppedAt = this.world.time.now
      this.world.note(this.name, 'paused')
      const pause = this.#pauses
      this.#task(() => {
        done()
        this.world.time.after(TAKE_ONE_MS, () => {
          if (!this.running && this.#pauses === pause) this.tookOne = true
        })
      }, refused)
    }, refused)
  }

  resume(done: () => void, refused: (reason: string) => void): void {
    const slow = this.world.scenario.faults.find((fault) => fault.kind === 'slow resume' && fault.vm === this.index)
    if (slow?.kind === 'slow resume') this.#lastTask = Math.max(this.#lastTask, this.world.time.now + slow.by)
    this.#task(() => {
      this.run()
      this.#task(done, refused)
    }, refused)
  }

  /** Answers when what it was told before is done. */
  ask(done: () => void, refused: (reason: string) => void): void {
    this.#task(done, refused)
  }

  /** Needs a paused machine. In `stopped` mode the driver, which lives in the daemon, has to resume it at the end. */
  capture(network: number, driverAlive: () => boolean, events: CaptureEvents): void {
    const nth = ++this.#captures
    const { world } = this
    const fails = world.scenario.faults.some((f) => f.kind === 'fail capture' && f.vm === this.index && f.nth === nth)
    this.#task(() => {
      const image = this.#image(network)
      world.note(this.name, 'captured')
      const saving = world.wait(SEAL, this.index, nth, world.scenario.pace.seal)
      if (this.stopped) {
        this.#taskIn(
          saving,
          () => {
            if (!driverAlive()) return
            this.run()
            if (fails) events.failed('the image could not be written')
            else {
              events.sealed(image)
              events.resumed()
            }
          },
          events.failed,
        )
        return
      }
      this.#task(() => {
        this.run()
        this.#task(() => (fails ? undefined : events.resumed()), events.failed)
        this.#taskIn(
          saving,
          () => {
            if (fails) events.failed('the image could not be written')
            else events.sealed(image)
          },
          events.failed,
        )
      }, events.failed)
    }, events.failed)
  }

  /** The machine is gone; its TAPs lose what they had queued. */
  end(): void {
    this.life++
    this.fresh = false
    if (!this.alive) return
    this.alive = false
    this.running = false
    this.#deferred.length = 0
    this.world.note(this.name, 'ended')
  }

  /** Ends what a restore has loaded: it must never have run. */
  undo(): void {
    if (this.running) this.world.violation(4, `${this.name} was ended by an undoing, though it ran already`)
    this.end()
  }

  /** A restore's hypervisor loads an image on a host, beside whatever runs of the machine anywhere. */
  stage(host: number, done: () => void, failed: (reason: string) => void): void {
    const nth = ++this.#stagings
    this.world.time.after(this.world.wait(LOAD, this.index, nth, this.world.scenario.pace.hypervisor), () => {
      if (this.world.scenario.faults.some((fault) => fault.kind === 'fail load' && fault.vm === this.index)) {
        failed('the image cannot be loaded')
        return
      }
      this.world.note(this.name, `loaded on h${host}`)
      done()
    })
  }

  /**
   * The loaded incarnation is the machine from now on. Its former self is gone, or stands still on another host, which
   * is about to end it: `end` with that life means nothing any more. It may run there once more when that host's daemon
   * was killed behind the barrier, and the next one, in doubt, let it: the fence keeps what it sends from the others,
   * and it ends before anything new runs.
   */
  takePlace(image: Image, host: number, socket: string): void {
    const letRunByNextDaemon = this.host !== host && this.world.hosts[this.host].boots > 1
    if (this.running && !letRunByNextDaemon)
      this.world.violation(4, `${this.name} takes its place on h${host}, while it runs on h${this.host}`)
    if (this.fresh && this.host !== host)
      this.world.violation(4, `${this.name} takes its place on h${host}, while it has on h${this.host}`)
    this.life++
    this.#deferred.length = 0
    this.world.rollBack(this, image, image.network)
    this.alive = true
    this.running = false
    this.fresh = true
    this.host = host
    this.socket = socket
    this.tookOne = false
    this.origin = image
    this.loadedAt = this.world.time.now
    this.log = {
      sent: image.log.sent.slice(0, image.sent),
      nics: image.log.nics.map(({ delivered }, nth) => ({
        delivered: delivered.slice(0, image.read[nth]),
        read: image.read[nth] as number,
      })),
    }
    this.world.note(this.name, 'takes its place')
  }

  #image(network: number): Image {
    const { log } = this
    return { vm: this.index, network, log, sent: log.sent.length, read: log.nics.map(({ read }) => read) }
  }

  /** Lets the vCPUs run; what the guest had in mind it does now. */
  run(): void {
    if (this.running || !this.alive) return
    this.running = true
    this.tookOne = false
    this.fresh = false
    this.runsSince = this.world.time.now
    this.world.note(this.name, 'runs')
    for (const nic of this.nics) this.#scheduleRead(nic)
    for (const send of this.#deferred.splice(0)) send()
  }

  #task(act: () => void, gone: (reason: string) => void): void {
    const { world } = this
    const wait = world.wait(HYPERVISOR, this.index, this.#tasks++, world.scenario.pace.hypervisor)
    this.#lastTask = Math.max(this.#lastTask, world.time.now + wait)
    this.#taskIn(this.#lastTask - world.time.now, act, gone)
  }

  #taskIn(ms: number, act: () => void, gone: (reason: string) => void): void {
    const life = this.life
    this.world.time.after(ms, () => (this.alive && this.life === life ? act() : gone('the machine has ended')))
  }
}

const READ = 1
const READ_COUNT = 2
const HYPERVISOR = 3
const SEAL = 4
const LOAD = 5
