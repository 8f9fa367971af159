// One host's part of a restore in virtual time, step for step as switch/agent/restore-session.ts does it.

import type { RestoreLoaded, RestoreRequest, RestoreResumed } from '../../src/api/schemas.js'
import type { RecordedFrame } from '../../switch/forwarding/recorder.js'
import type { Agent, Answer } from './agent.js'
import type { Daemon } from './daemon.js'
import { advanceNetwork, gateOthers, releaseGates, releaseOthers } from './gates.js'
import type { Guest, Image, Nic } from './guest.js'
import type { Entry } from './timeline.js'
import { EPOCH_MS } from './worker.js'
import { problem } from './world.js'

export class RestoreSession {
  readonly snapshot: string
  onEnded: () => void = () => undefined
  private readonly daemon: Daemon
  private readonly agent: Agent
  private readonly request: RestoreRequest
  private readonly added: number[] = []
  private loaded: Guest[] = []
  /** Of the machines that are placed here, in other networks: gated until the machines run. */
  private others: Nic[] = []
  private timer: Entry | null = null
  private over = false
  /** The load has come to its end, either way; until then an abort waits, or it would undo half of it. */
  private settled = false
  private whenSettled: (() => void) | null = null
  /** While the guests are being resumed: who waits for the end of that, to undo what is left. */
  private whenResumed: (() => void)[] | null = null

  constructor(agent: Agent, snapshot: string, request: RestoreRequest) {
    this.agent = agent
    this.daemon = agent.daemon
    this.snapshot = snapshot
    this.request = request
  }

  load(answer: Answer<RestoreLoaded>): void {
    const { daemon, agent, request } = this
    const { world, host, worker, members } = daemon
    const { epoch } = request
    const { snapshots } = worker.forwarders[agent.network]
    const undo = (reason: string) => {
      if (this.settled) return
      this.settled = true
      this.undo(() => answer.refused(problem('RESTORE_FAILED', reason)))
      this.whenSettled?.()
    }
    if (epoch <= agent.epoch) {
      undo('EPOCH_STALE')
      return
    }
    agent.raise(epoch, () => {
      if (this.over) return undo('called off')
      agent.fence = epoch
      const frames: RecordedFrame[] = []
      for (const file of request.channels) {
        if (!host.disk.files.has(file.digest)) return undo('the channel state is not here')
        frames.push(...(world.contents.get(file.digest) as RecordedFrame[]))
      }
      const guests = request.members.map(({ vm }) => world.guestOf(vm))
      const nics = guests.flatMap((guest) => guest.nics)
      const ports = nics.filter((nic) => nic.network === agent.network).map((nic) => nic.index)
      const others = nics.filter((nic) => nic.network !== agent.network)
      if (others.length > 0) world.marks.add('restored with NICs in other networks')
      const addPorts = () => {
        for (const nic of nics) {
          if (worker.ingress[nic.index] === undefined) worker.addMember(nic, daemon.agents[nic.network].epoch)
        }
      }
      for (const guest of guests) {
        if (!members.has(guest.index)) {
          this.added.push(guest.index)
          world.marks.add('restored elsewhere')
        }
        members.add(guest.index)
      }
      // Ports and machines are on disk before a machine is loaded: a killed daemon finds them again.
      const saved = () => {
        this.others = others
        gateOthers(daemon, others, fence, undo)
      }
      const fence = () =>
        worker.call(
          'fence',
          () => {
            snapshots.fence(ports, epoch, worker.now)
            world.note(host.name, `fence e${epoch}`)
          },
          () => {
            if (this.over) return undo('called off')
            if (guests.length === 0) return this.preload([], [], answer, undo)
            let awaited = guests.length
            let failure: string | null = null
            const settled = () => {
              if (--awaited > 0) return
              if (failure !== null || this.over) undo(failure ?? 'called off')
              else this.preload(frames, ports, answer, undo)
            }
            for (const [i, { memory }] of request.members.entries()) {
              const guest = guests[i]
              const failed = (reason: string) => {
                failure = reason
                settled()
              }
              const done = () => {
                this.loaded.push(guest)
                settled()
              }
              if (guest.alive && guest.host !== host.index)
                world.violation(4, `${guest.name} is loaded on ${host.name}, while it is on h${guest.host}`)
              if (guest.alive) failed(`${guest.name} still runs`)
              else guest.load(world.contents.get(memory.digest) as Image, agent.network, host.index, done, failed)
            }
          },
          undo,
        )
      worker.call('addPort', addPorts, () => agent.saveMoves(saved, new Set(guests.map((guest) => guest.index))), undo)
    })
  }

  resume(done: (result: RestoreResumed) => void): void {
    const { daemon, loaded } = this
    const { worker, world } = daemon
    if (this.timer !== null) this.timer.act = null
    for (const guest of loaded) {
      for (const nic of guest.nics) {
        const { snapshots } = worker.forwarders[nic.network]
        worker.call('announce', () => snapshots.announce(nic.index, Uint8Array.from(nic.mac), worker.now), none, none)
      }
    }
    this.whenResumed = []
    const end = () => {
      if (this.over) return
      this.over = true
      const atUs = Math.round((EPOCH_MS + world.time.now) * 1000)
      done({ resumed: loaded.map((guest) => ({ vm: guest.name, atUs })) })
      for (const act of this.whenResumed ?? []) act()
    }
    let awaited = loaded.length
    if (awaited === 0) {
      end()
      return
    }
    for (const guest of loaded) {
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
    // All hosts have loaded: what runs by the end of that is not ended any more.
    if (this.whenResumed !== null) return void this.whenResumed.push(done)
    this.over = true
    if (this.settled) this.undo(done)
    else this.whenSettled = done
  }

  undo(done: () => void): void {
    const { daemon, agent, request } = this
    daemon.world.marks.add('restore undone')
    const { worker, members, world } = daemon
    this.over = true
    if (this.timer !== null) this.timer.act = null
    for (const guest of this.loaded) guest.undo()
    this.loaded = []
    const added = this.added.splice(0)
    const removePorts = () => {
      for (const vm of added) for (const nic of world.guests[vm].nics) worker.remove(nic.index)
    }
    for (const vm of added) members.delete(vm)
    releaseOthers(daemon, this.others.splice(0), none, none)
    worker.call('removePort', removePorts, none, none)
    const end = () =>
      agent.saveMoves(() => {
        this.onEnded()
        done()
      })
    advanceNetwork(daemon, agent.network, request.epoch, end, end)
  }

  private preload(
    frames: readonly RecordedFrame[],
    ports: readonly number[],
    answer: Answer<RestoreLoaded>,
    undo: (reason: string) => void,
  ): void {
    const { worker } = this.daemon
    const mine = frames.filter((frame) => ports.includes(frame.port))
    const preload = () => {
      for (const port of ports) {
        const copies = mine.filter((frame) => frame.port === port).map(({ copy }) => copy)
        if (copies.length > 0) worker.forwarders[this.agent.network].snapshots.preload(port, copies)
      }
    }
    worker.call(
      'preload',
      preload,
      () => {
        if (this.over) return undo('called off')
        this.settled = true
        // A host that gets no machines is fenced, and that is all.
        if (this.loaded.length === 0) this.onEnded()
        else this.timer = this.daemon.after(this.request.deadlineMs, () => this.abort(() => undefined))
        answer.done({ loaded: this.loaded.map((guest) => guest.name), channelFrames: mine.length })
      },
      undo,
    )
  }
}

function none(): void {
  // Its failure shows elsewhere.
}
