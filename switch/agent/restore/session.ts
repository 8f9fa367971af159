// One host's part of a restore. The new machines are loaded beside what runs (load), what runs stands still behind
// closed gates (pause), and when all hosts have come so far, the former selves are ended and the new ones take their
// places behind a fence (switch); then they run (resume). Until the switch everything can be undone, and the former
// machines run on.

import type {
  RestoreLoaded,
  RestorePause,
  RestorePaused,
  RestoreRequest,
  RestoreResumed,
  RestoreSwitched,
} from '../../../src/api/schemas.js'
import { parseMac } from '../../../src/frame/mac.js'
import type { LoadedMachine } from '../../../src/hypervisor/hypervisor.js'
import type { ChannelFrame } from '../../../src/trace/channel.js'
import type { PortEntry } from '../../ports/table.js'
import { allOf } from '../all-of.js'
import { gateOthers, passEpoch, releaseOthers } from '../gates.js'
import type { Host } from '../host.js'
import { type Find, locateFiles } from '../located-files.js'
import { staleEpoch } from '../refusals.js'
import { resumeMachine } from '../resume.js'
import { queueChannelState, readChannelState } from './channel.js'
import { Formers } from './formers.js'
import { canBeTwice, type Loading, loadMachine, mustWait } from './load.js'
import { type Member, RestoreMembers } from './members.js'
import { OnRecord } from './on-record.js'
import { type NamedRequest, withFreeNames } from './port-names.js'
import { RestorePorts } from './ports.js'
import { StepRunner } from './step-runner.js'
import type { Taps } from './taps.js'

const RESUME_MS = 10_000
type Resumed = RestoreResumed['resumed']

export class RestoreSession {
  readonly network: string
  readonly snapshot: string
  readonly #host: Host
  readonly #request: RestoreRequest
  readonly #formerNames: NamedRequest['formerNames']
  readonly #ports: RestorePorts
  readonly #taps: Taps
  readonly #formers: Formers
  readonly #members: RestoreMembers
  /** Set by the load. */
  #find: Find | null = null
  #frames: ChannelFrame[] = []
  /** All machines of the restore, wherever they are placed. */
  #everywhere: readonly string[]
  readonly #record: OnRecord
  readonly #steps: StepRunner
  #pauseOrder: RestorePause | null = null
  #switchMs = 0
  /** Machines that it has paused and could not resume when it was called off. */
  standing: readonly string[] = []
  /** Called when something could not be undone: it is on record. */
  onLeft: () => void = () => undefined
  /** Called when the session has ended by itself, with the machines that run all the same. */
  onAbandoned: (resumed: Resumed) => void = () => undefined
  /** Takes the ports of machines that live elsewhere from now on off this host. */
  onMovedAway: (vms: readonly string[]) => Promise<void> = async () => undefined
  /** The machines are this host's. */
  onRegistered: () => Promise<void> = async () => undefined

  constructor(host: Host, network: string, snapshot: string, request: RestoreRequest) {
    this.#host = host
    this.network = network
    this.snapshot = snapshot
    const { request: here, formerNames } = withFreeNames(host, request)
    this.#request = here
    this.#formerNames = formerNames
    this.#everywhere = request.members.map((part) => part.vm)
    this.#ports = new RestorePorts(host, network)
    this.#taps = host.restoreTaps()
    this.#formers = new Formers(host)
    this.#members = new RestoreMembers(host, network)
    this.#record = new OnRecord(host, network, snapshot)
    const works = {
      load: () => this.#loadAll(),
      pause: () => this.#pauseFormers(),
      switch: () => this.#switchAll(),
      register: () => this.#registerMachines(),
      resume: () => this.#resumeAll(),
      finish: () => this.#close(),
      undo: () => this.#undo(false),
      undoRest: () => this.#undo(true),
    }
    this.#steps = new StepRunner(host.clock, works, request.deadlineMs, () => this.#expire())
  }

  /** Those that this host's part is about: placed here, or paused here. */
  get machines(): readonly string[] {
    return [...new Set([...this.#request.members.map(({ vm }) => vm), ...this.#formers.names()])]
  }

  /** No machine comes here. */
  get isEmpty(): boolean {
    return this.#request.members.length === 0
  }

  /**
   * Loads all members, or none: on failure everything is undone before it throws. Asked again, it says the same again.
   */
  load(): Promise<RestoreLoaded> {
    return this.#steps.ask('load') as Promise<RestoreLoaded>
  }

  /** What runs here of the restore's machines stands still on return. */
  pause(order: RestorePause): Promise<RestorePaused> {
    this.#pauseOrder = order
    return this.#steps.ask('pause') as Promise<RestorePaused>
  }

  /** All hosts are ready. After a failure it may be called again. */
  switchOver(deadlineMs: number): Promise<RestoreSwitched> {
    this.#switchMs = deadlineMs
    return this.#steps.ask('switch') as Promise<RestoreSwitched>
  }

  /**
   * All hosts have changed over: addresses are announced, guests run, gates open. After a failure it may be called
   * again.
   */
  resume(): Promise<RestoreResumed> {
    return this.#steps.ask('resume') as Promise<RestoreResumed>
  }

  /** A host that gets no machines has done its part with the switch. */
  async finish(): Promise<void> {
    await this.#steps.ask('finish')
  }

  /**
   * Undoes what was done: loaded machines ended, ports and TAPs that were made gone, former machines run on (unless
   * they were ended already), gates open. But a machine that runs already, for all hosts had changed over, runs on with
   * its ports; those are returned. Never rejects.
   */
  async abort(): Promise<Resumed> {
    await this.#steps.ask('abort')
    return this.#members.running()
  }

  async #expire(): Promise<void> {
    const { network, snapshot } = this
    const host = this.#host
    host.log.warn({ network, snapshot }, 'the coordinator has not gone on with the restore in time; undoing it')
    this.onAbandoned(await this.abort())
  }

  async #loadAll(): Promise<RestoreLoaded> {
    const { network } = this
    const host = this.#host
    const request = this.#request
    const deadline = host.clock.now().ms + request.deadlineMs
    this.#steps.restMs = request.deadlineMs
    const highest = host.epochs.get(network)
    if (request.epoch <= highest) throw staleEpoch(request.epoch, highest)
    await this.#record.clear()
    this.#find = await host.store.images.finder()
    this.#frames = await readChannelState(host, request, this.#find)
    for (const part of request.members) {
      const beside = await host.machines.isThere(part.vm)
      const directory = await host.store.freeMachineDirectory(part.vm, request.epoch)
      this.#members.all.push({ part, directory, beside, ports: [], machine: null, resumedAtUs: null })
    }
    await this.#noteAll(false)
    for (const member of this.#members.all) {
      member.ports = await this.#ports.take(member.part, member.beside)
      this.#taps.makeOutside(member.part)
    }
    try {
      await allOf(
        this.#members.all.map(async (member) => {
          if (member.beside && mustWait(member.part, request)) await locateFiles(this.#find!, member.part)
          else member.machine = await this.#loadOne(member, deadline)
        }),
      )
    } finally {
      this.#taps.close()
    }
    return { loaded: this.#members.all.map((member) => member.part.vm), channelFrames: this.#frames.length }
  }

  #loadOne(loading: Loading, deadline: number): Promise<LoadedMachine> {
    return loadMachine(this.#host, loading, { taps: this.#taps, find: this.#find! }, deadline)
  }

  async #pauseFormers(): Promise<RestorePaused> {
    const { machines, replace, pauseMs, deadlineMs } = this.#pauseOrder as RestorePause
    const deadline = this.#host.clock.now().ms + pauseMs
    this.#steps.restMs = deadlineMs
    this.#everywhere = machines
    // A machine that cannot be there twice is reached as before: what is there now is what was loaded.
    const loaded = this.#members.all.filter(({ machine, part }) => machine !== null && !canBeTwice(part))
    const others = machines.filter((vm) => !loaded.some(({ part }) => part.vm === vm))
    await this.#record.clear()
    await this.#formers.find(others, replace, deadline)
    await this.#noteAll(false)
    await this.#formers.pause(deadline)
    return { paused: this.#formers.names() }
  }

  async #switchAll(): Promise<RestoreSwitched> {
    const { network } = this
    const host = this.#host
    const request = this.#request
    const members = this.#members.all
    const deadline = host.clock.now().ms + this.#switchMs
    this.#steps.restMs = request.deadlineMs
    const { epoch } = request
    const before = host.epochs.get(network)
    await host.epochs.raiseFence(network, epoch)
    host.datapath.rememberEpoch(network, epoch)
    host.datapath.rememberFence(network, epoch)
    await this.#formers.end(deadline)
    for (const member of members) member.ports = await this.#takeDevices(member, before)
    const here = new Set(members.map(({ part }) => part.vm))
    await this.onMovedAway(this.#everywhere.filter((vm) => !here.has(vm)))
    const all = members.flatMap(({ ports }) => ports)
    const own = all.filter((port) => port.network === network)
    await host.datapath.call('fence', { network, ports: own.map((port) => port.index), epoch })
    // A former self that has ended since the load closed no gates, and what comes next reads nothing yet.
    await gateOthers(
      host,
      all.filter((port) => port.network !== network),
    )
    await allOf(members.map((member) => this.#takePlace(member, deadline)))
    for (const { part } of members) this.#taps.connectOutside(part)
    // A former guest may have left its queues full; the new one has opened empty ones.
    for (const port of members.flatMap(({ ports }) => ports)) host.unread.emptied(port.index, port.ifindex)
    await queueChannelState(host, network, this.#frames, own, this.#formerNames)
    this.#frames = []
    return { ended: this.#formers.names(), warnings: [...this.#taps.warnings] }
  }

  /** The ports go on with the devices that the new machine holds. */
  async #takeDevices({ part, ports }: Member, epoch: number): Promise<PortEntry[]> {
    const host = this.#host
    const taken: PortEntry[] = []
    for (const port of ports) {
      const { name, device, network } = port
      const standIn = this.#taps.standInOf(part.vm, device)
      const at = network === this.network ? epoch : host.epochs.get(network)
      const now =
        standIn === null ? await host.ports.takeBack(name, at) : await host.ports.replaceDevice(name, standIn, at)
      taken.push(now ?? port)
    }
    return taken
  }

  async #takePlace(member: Member, deadline: number): Promise<void> {
    if (member.machine !== null) return member.machine.takePlace?.()
    try {
      // The former one's device may have gone with it.
      member.ports = await this.#ports.take(member.part, false)
      this.#taps.makeOutside(member.part)
      member.machine = await this.#loadOne({ ...member, beside: false }, deadline)
    } finally {
      this.#taps.close()
    }
  }

  #noteAll(resuming: boolean): Promise<void> {
    const { members } = this.#request
    return this.#record.write(resuming, this.#members.all, this.#formers.record(), () => {
      const { ports, taps } = this.#ports.planned(this.#request)
      return { ports, taps: [...taps, ...this.#taps.plannedOutside(members)], standIns: this.#taps.planned(members) }
    })
  }

  /** From here on the machines are this host's: a daemon that is started again must find them. */
  async #registerMachines(): Promise<void> {
    await this.#noteAll(true)
    for (const { part, machine } of this.#members.all) this.#host.machines.set(part.vm, machine!.spec)
    await this.onRegistered()
  }

  async #resumeAll(): Promise<RestoreResumed> {
    const { network } = this
    const host = this.#host
    const deadline = host.clock.now().ms + RESUME_MS
    for (const { part, ports } of this.#members.all) {
      for (const port of ports) {
        const mac = part.ports.find((record) => record.name === port.name)?.mac ?? null
        if (mac === null) continue
        await host.datapath.call('announce', { network: port.network, port: port.index, mac: parseMac(mac) })
      }
    }
    await allOf(
      this.#members.all.map(async (member) => {
        const { control } = member.machine!
        member.resumedAtUs = (await resumeMachine(host, member.part.vm, control, deadline)).resumedAtUs
        await this.#members.release(member)
      }),
    )
    await this.#members.learnDisks()
    await this.#record.remove()
    for (const { machine } of this.#members.all) await machine!.control.close()
    await this.#formers.close()
    this.#taps.finish()
    host.log.info({ network, snapshot: this.snapshot, machines: this.#members.running() }, 'restored')
    return { resumed: this.#members.running() }
  }

  async #close(): Promise<void> {
    await this.#record.remove()
    await this.#formers.close()
    this.#taps.finish()
  }

  /** `mayRun`: machines have been told to run. Never rejects. */
  async #undo(mayRun: boolean): Promise<void> {
    const { network } = this
    const host = this.#host
    const request = this.#request
    const quietly = async (work: Promise<unknown>) => {
      await work.catch((thrown) => host.log.warn({ err: thrown }, 'while undoing a restore'))
    }
    this.standing = await this.#formers.resume()
    const left = await this.#members.end(mayRun, this.#record.isWritten)
    for (const { ports, part } of this.#members.all) {
      // Those of a former self that runs on are open already; a port that was made goes.
      if (!this.#formers.isHere(part.vm)) await quietly(releaseOthers(host, ports))
    }
    const running = new Set(this.#members.running().map(({ vm }) => vm))
    await this.#ports.giveBack(running)
    this.#taps.giveBack(running)
    // The epoch is used up all the same: a step that comes late is refused by it.
    await quietly(passEpoch(host, network, request.epoch))
    await quietly(this.#record.keep(mayRun, left, this.#formers.record(this.standing)))
    await this.#formers.close()
    if (left.length + this.standing.length > 0) this.onLeft()
  }
}
