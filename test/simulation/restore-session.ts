// One host's part of a restore in virtual time, step for step as switch/agent/restore-session.ts does it. What it leaves out: a
// former self that another host has not ended yet is no machine of its own any more once its next self has taken its place.

import type {
  RestoreLoaded,
  RestorePause,
  RestorePaused,
  RestoreRequest,
  RestoreResumed,
  RestoreSwitched,
} from '../../src/api/schemas.js'
import type { RecordedFrame } from '../../switch/forwarding/snapshot/channel-recorder.js'
import type { Agent, Answer } from './agent.js'
import type { Daemon } from './daemon.js'
import { advanceNetwork, gateOthers, releaseGates, releaseOthers } from './gates.js'
import type { Guest, Image } from './guest.js'
import type { Entry } from './timeline.js'
import { EPOCH_MS } from './worker.js'
import { problem } from './world.js'

interface Former {
  readonly guest: Guest
  readonly life: number
}

type Failed = (reason: string) => void

export class RestoreSession {
  readonly snapshot: string
  onEnded: () => void = () => undefined
  private readonly daemon: Daemon
  private readonly agent: Agent
  private readonly request: RestoreRequest
  private readonly guests: readonly Guest[]
  private readonly added: number[] = []
  private frames: readonly RecordedFrame[] = []
  private formers: Former[] = []
  /** All machines of the restore, wherever they are placed. */
  private machines: ReadonlySet<string> = new Set()
  /** Those that have taken their places. */
  private placed: Guest[] = []
  private timer: Entry | null = null
  private over = false
  /** A host that gets no machines has done its part with the switch. */
  private finished = false
  /** A step is under way; an abort waits for its end, or it would undo half of it. */
  private busy = false
  private whenIdle: (() => void) | null = null
  /** While the guests are being resumed: who waits for the end of that, to undo what is left. */
  private whenResumed: (() => void)[] | null = null

  constructor(agent: Agent, snapshot: string, request: RestoreRequest) {
    this.agent = agent
    this.daemon = agent.daemon
    this.snapshot = snapshot
    this.request = request
    this.guests = request.members.map(({ vm }) => agent.daemon.world.guestOf(vm))
  }

  /** No machine comes here. */
  get isEmpty(): boolean {
    return this.request.members.length === 0
  }

  /** Runs a step; what it answers comes at its end, and an abort that has waited for that comes after. */
  private step<T>(answer: Answer<T>, work: (done: (result: T) => void, failed: Failed) => void, undoes: boolean): void {
    if (this.over) {
      answer.refused(problem('SNAPSHOT_UNKNOWN', 'called off'))
      return
    }
    if (this.timer !== null) this.timer.act = null
    this.busy = true
    const end = (say: () => void) => {
      if (!this.busy) return
      this.busy = false
      say()
      const act = this.whenIdle
      this.whenIdle = null
      act?.()
    }
    const failed = (reason: string) => {
      const say = () => answer.refused(problem('RESTORE_FAILED', reason))
      if (!undoes || this.whenIdle !== null) end(say)
      else {
        this.over = true
        end(() => this.undo(say))
      }
    }
    const done = (result: T) => {
      if (this.over) return failed('called off')
      if (this.finished) {
        this.over = true
        this.onEnded()
      } else this.timer = this.daemon.after(this.request.deadlineMs, () => this.abort(none))
      end(() => answer.done(result))
    }
    work(done, failed)
  }

  load(answer: Answer<RestoreLoaded>): void {
    const { daemon, agent, request, guests } = this
    const { world, host, worker, members } = daemon
    this.step<RestoreLoaded>(
      answer,
      (done, failed) => {
        if (request.epoch <= agent.epoch) return failed('EPOCH_STALE')
        const frames: RecordedFrame[] = []
        for (const file of request.channels) {
          if (!host.disk.files.has(file.digest)) return failed('the channel state is not here')
          frames.push(...(world.contents.get(file.digest) as RecordedFrame[]))
        }
        this.frames = frames
        const nics = guests.flatMap((guest) => guest.nics)
        if (nics.some((nic) => nic.network !== agent.network)) world.marks.add('restored with NICs in other networks')
        for (const guest of guests) {
          if (!members.has(guest.index)) {
            this.added.push(guest.index)
            world.marks.add('restored elsewhere')
          }
          members.add(guest.index)
        }
        // What runs here keeps its gates open until it is paused.
        const quiet = guests.filter((guest) => !this.isHere(guest)).flatMap((guest) => guest.nics)
        const addPorts = () => {
          for (const nic of nics)
            if (worker.ingress[nic.index] === undefined) worker.addMember(nic, daemon.agents[nic.network].epoch)
          for (const nic of quiet) worker.forwarders[nic.network].snapshots.gate([nic.index], worker.now, true)
        }
        const stage = () => {
          let awaited = guests.length
          let failure: string | null = null
          const settled = () => {
            if (--awaited > 0) return
            if (failure !== null) failed(failure)
            else done({ loaded: guests.map(({ name }) => name), channelFrames: this.framesHere().length })
          }
          for (const guest of guests) {
            const broke = (reason: string) => {
              failure = reason
              settled()
            }
            guest.stage(host.index, settled, broke)
          }
        }
        // Ports and machines are on disk before a machine is loaded: a killed daemon finds them again.
        worker.call('addPort', addPorts, () => this.record(stage), failed)
      },
      true,
    )
  }

  private isHere(guest: Guest): boolean {
    return guest.alive && guest.host === this.daemon.host.index
  }

  private record(done: () => void): void {
    const loaded = new Set(this.guests.map(({ index }) => index))
    this.agent.saveMoves(done, loaded, new Map(this.formers.map(({ guest, life }) => [guest.index, life])))
  }

  pause({ machines }: RestorePause, answer: Answer<RestorePaused>): void {
    const { daemon } = this
    this.step<RestorePaused>(
      answer,
      (done, failed) => {
        this.machines = new Set(machines)
        const here = machines.map((vm) => daemon.world.guestOf(vm)).filter((guest) => this.isHere(guest))
        this.formers = here.map((guest) => ({ guest, life: guest.life }))
        const end = () => done({ paused: here.map(({ name }) => name) })
        const stop = () => {
          let awaited = here.length
          let failure: string | null = null
          if (awaited === 0) end()
          for (const guest of here) {
            const settled = () => {
              if (--awaited > 0) return
              if (failure === null) end()
              else failed(failure)
            }
            const refused = (reason: string) => {
              failure = reason
              settled()
            }
            guest.pause(settled, refused)
          }
        }
        const nics = here.flatMap((guest) => guest.nics)
        this.record(() => gateOthers(daemon, nics, stop, failed))
      },
      this.isEmpty,
    )
  }

  switchOver(answer: Answer<RestoreSwitched>): void {
    const { daemon, agent, request, guests } = this
    const { world, host, worker, members } = daemon
    const { snapshots } = worker.forwarders[agent.network]
    this.step<RestoreSwitched>(
      answer,
      (done, failed) => {
        const fence = () => {
          const ports = this.portsHere()
          snapshots.fence(ports, request.epoch, worker.now)
          world.note(host.name, `fence e${request.epoch}`)
          const mine = this.framesHere()
          for (const port of ports) {
            const copies = mine.filter((frame) => frame.port === port).map(({ copy }) => copy)
            if (copies.length > 0) snapshots.preload(port, copies)
          }
        }
        const gone = this.movedAway()
        const moveAway = () => {
          for (const guest of gone) for (const nic of guest.nics) worker.remove(nic.index)
        }
        const end = () => {
          const ended = this.formers.map(({ guest }) => guest.name)
          const say = () => {
            this.finished = this.isEmpty
            done({ ended, warnings: [] })
          }
          if (this.isEmpty) agent.saveMoves(say)
          else say()
        }
        agent.raise(request.epoch, () => {
          if (this.over) return failed('called off')
          agent.fence = request.epoch
          for (const { guest, life } of this.formers) if (guest.life === life) guest.end()
          for (const [i, { memory }] of request.members.entries()) {
            const guest = guests[i]
            if (this.placed.includes(guest)) continue
            guest.takePlace(world.contents.get(memory.digest) as Image, agent.network, host.index)
            this.placed.push(guest)
          }
          for (const guest of gone) members.delete(guest.index)
          worker.call('removePort', moveAway, () => this.record(() => worker.call('fence', fence, end, failed)), failed)
        })
      },
      false,
    )
  }

  /** Machines of the restore whose ports are here, and that live elsewhere from now on. */
  private movedAway(): Guest[] {
    const { world, members } = this.daemon
    const here = [...members].map((vm) => world.guests[vm])
    return here.filter((guest) => this.machines.has(guest.name) && !this.guests.includes(guest))
  }

  private portsHere(): number[] {
    const nics = this.guests.flatMap((guest) => guest.nics)
    return nics.filter((nic) => nic.network === this.agent.network).map((nic) => nic.index)
  }

  private framesHere(): RecordedFrame[] {
    const ports = this.portsHere()
    return this.frames.filter((frame) => ports.includes(frame.port))
  }

  resume(done: (result: RestoreResumed) => void): void {
    const { daemon, placed } = this
    const { worker, world } = daemon
    if (this.timer !== null) this.timer.act = null
    for (const guest of placed) {
      for (const nic of guest.nics) {
        const forwarder = worker.forwarders[nic.network]
        const mac = Uint8Array.from(nic.mac)
        worker.call('announce', () => forwarder.announce(nic.index, mac, worker.now), none, none)
      }
    }
    this.whenResumed = []
    const end = () => {
      if (this.over) return
      this.over = true
      const atUs = Math.round((EPOCH_MS + world.time.now) * 1000)
      done({ resumed: placed.map((guest) => ({ vm: guest.name, atUs })) })
      for (const act of this.whenResumed ?? []) act()
    }
    let awaited = placed.length
    if (awaited === 0) {
      end()
      return
    }
    for (const guest of placed) {
      const next = () => {
        if (--awaited === 0) end()
      }
      const release = () => {
        if (!daemon.alive) return
        const { network } = this.agent
        const ports = guest.nics.filter((nic) => nic.network === network).map((nic) => nic.index)
        const others = guest.nics.filter((nic) => nic.network !== network)
        releaseGates(daemon, network, ports, () => releaseOthers(daemon, others, next, next), next)
      }
      guest.resume(release, release)
    }
  }

  abort(done: () => void): void {
    // All hosts have changed over: what runs by the end of that is not ended any more.
    if (this.whenResumed !== null) return void this.whenResumed.push(done)
    this.over = true
    if (!this.busy) this.undo(done)
    else {
      const before = this.whenIdle ?? (() => undefined)
      this.whenIdle = () => {
        before()
        this.undo(done)
      }
    }
  }

  undo(done: () => void): void {
    const { daemon, agent, request } = this
    daemon.world.marks.add('restore undone')
    const { worker, members, world } = daemon
    this.over = true
    if (this.timer !== null) this.timer.act = null
    for (const guest of this.placed.splice(0)) guest.undo()
    const added = this.added.splice(0)
    for (const vm of added) members.delete(vm)
    const removePorts = () => {
      for (const vm of added) for (const nic of world.guests[vm].nics) worker.remove(nic.index)
    }
    const formers = this.formers.splice(0).filter(({ guest, life }) => guest.alive && guest.life === life)
    const isFormer = (guest: Guest) => formers.some((former) => former.guest === guest)
    const stay = this.guests.filter((guest) => !added.includes(guest.index) && !isFormer(guest))
    const end = () =>
      agent.saveMoves(() => {
        this.onEnded()
        done()
      })
    const goOn = () => {
      worker.call('removePort', removePorts, none, none)
      releaseOthers(
        daemon,
        stay.flatMap((guest) => guest.nics),
        none,
        none,
      )
      agent.raise(request.epoch, () => advanceNetwork(daemon, agent.network, request.epoch, end, end))
    }
    let awaited = formers.length
    if (awaited === 0) goOn()
    for (const { guest } of formers) {
      const next = () => {
        if (--awaited === 0) goOn()
      }
      const release = () => {
        if (daemon.alive) releaseOthers(daemon, guest.nics, next, next)
      }
      guest.resume(release, release)
    }
  }
}

function none(): void {
  // Its failure shows elsewhere.
}
