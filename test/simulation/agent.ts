// The agent in virtual time, one object for each network: what switch/agent/agent.ts does around snapshots and restores, with virtual machines, a virtual
// disk and the virtual worker. Answers go to callbacks: promises would cost more than the work.

import { distinctFiles } from '../../src/api/files.js'
import type {
  LocalEvent,
  Preflight,
  RestoreCheck,
  RestoreLoaded,
  RestorePause,
  RestorePaused,
  RestoreRequest,
  RestoreResumed,
  RestoreSwitched,
} from '../../src/api/schemas.js'
import type { ErrorReport } from '../../src/errors/errors.js'
import type { Daemon } from './daemon.js'
import { advanceNetwork } from './gates.js'
import type { Guest } from './guest.js'
import { networkName } from './networks.js'
import { RestoreSession } from './restore-session.js'
import { type SessionRequest, SnapshotSession } from './snapshot-session.js'
import type { Entry } from './timeline.js'
import type { DatapathEvent } from './worker.js'
import { problem } from './world.js'

const UNKNOWN_EPOCH_MS = 3000
const STORE = 41

export interface Answer<T> {
  done(result: T): void
  refused(error: ErrorReport): void
}

interface Claim {
  readonly name: string
  snapshot: SnapshotSession | null
  readonly restore: RestoreSession | null
  /** Other networks that a restore brings ports to. */
  readonly others?: readonly number[]
}

export class Agent {
  readonly daemon: Daemon
  readonly network: number
  /** Highest epoch known; on disk before any port flips to it. */
  epoch: number
  claim: Claim | null = null
  /** Colors below it are of a former incarnation; on disk with the ports, for a new datapath must know it too. */
  fence: number
  /** The last restore that went through: its answer may have been lost. */
  private resumed: { snapshot: string; result: RestoreResumed } | null = null
  /** The same of the switch on a host that gets no machines. */
  private switched: { snapshot: string; result: RestoreSwitched } | null = null
  /** The last session that ended: its TAKE may come later than its end, for a marker may have begun it. */
  private past: SnapshotSession | null = null
  private giveWay: Entry | null = null
  private writes = 0

  constructor(daemon: Daemon, network: number) {
    this.daemon = daemon
    this.network = network
    this.epoch = daemon.host.disk.epochs[network]
    this.fence = daemon.host.disk.fences[network]
    daemon.world.planted.agent?.(this)
  }

  /**
   * What a new daemon does first: machines that a killed one left paused in the middle of a cut run on; those that it had
   * loaded for a restore, and that never ran, are ended.
   */
  start(): void {
    const { host, world } = this.daemon
    for (const vm of host.disk.loaded[this.network]) {
      const guest = world.guests[vm]
      if (guest.fresh && guest.host === host.index) guest.undo()
    }
    host.disk.loaded[this.network] = new Set()
    for (const [vm, life] of host.disk.formers[this.network]) {
      const guest = world.guests[vm]
      // Also those that run: a command to stop may still be on its way.
      if (guest.alive && guest.life === life) guest.resume(ignore, ignore)
    }
    host.disk.formers[this.network] = new Map()
    for (const [snapshot, { network, machines }] of host.disk.unfinished) {
      if (network !== this.network) continue
      for (const vm of machines) {
        const guest = world.guests[vm]
        // Also those that run: a command to stop may still be on its way.
        if (guest.alive && guest.host === host.index) guest.resume(ignore, ignore)
      }
      host.disk.unfinished.delete(snapshot)
    }
  }

  /** What is under way in the network, or in another one that shares a machine with it. */
  get busy(): string | null {
    if (this.claim !== null) return this.claim.name
    for (const { network, claim, members } of this.daemon.agents) {
      if (claim === null) continue
      const shares = members.some((guest) => guest.isIn(this.network))
      if (!shares && !claim.others?.includes(this.network)) continue
      this.daemon.world.marks.add('busy with another network')
      return `${claim.name} of ${networkName(network)}`
    }
    return null
  }

  /** Machines with a port in the network. */
  get members(): readonly Guest[] {
    const { world } = this.daemon
    return [...this.daemon.members].map((vm) => world.guests[vm]).filter((guest) => guest.isIn(this.network))
  }

  preflight(answer: Answer<Preflight>): void {
    const { world, host, worker } = this.daemon
    worker.call(
      'network',
      () => {
        const forwarder = worker.forwarders[this.network]
        const trunks = forwarder.ports.filter((port) => port.isTrunk)
        return trunks.map((port) => ({
          port: port.spec.name,
          host: port.channel?.host ?? null,
          bootId: port.channel?.bootId ?? null,
          alive: forwarder.trunks.isAlive(port, worker.now),
          lastHeardMs: null,
        }))
      },
      (peers) => {
        const guests = this.members
        const problems = guests
          .filter((guest) => !guest.alive || !guest.running)
          .map((guest) => problem('MACHINE_NOT_RUNNING', `machine ${guest.name} does not run`))
        for (const peer of peers)
          if (!peer.alive) problems.push(problem('PEER_DOWN', `no switch answers on ${peer.port}`))
        if (this.busy !== null) problems.push(problem('SNAPSHOT_BUSY', `${this.busy} is under way`))
        answer.done({
          host: host.name,
          version: '1',
          // In production the coordinator compares it with what peers hear from the datapath.
          bootId: worker.forwarders[this.network].network.options.bootId,
          epoch: this.epoch,
          members: guests.map((guest) => ({
            vm: guest.name,
            ports: guest.nics.filter((nic) => nic.network === this.network).map((nic) => `p${nic.index}`),
            memoryBytes: 1,
            captureMode: 'background' as const,
            captureModeReason: null,
          })),
          peers,
          uplinks: world.lan === null || this.network > 0 ? [] : ['uplink'],
          freeBytes: 1,
          neededBytes: 0,
          problems,
        })
      },
      (reason) => answer.refused(problem('INTERNAL', reason)),
    )
  }

  prepare(request: SessionRequest, answer: Answer<null>): void {
    if (request.epoch <= this.epoch) {
      answer.refused(problem('EPOCH_STALE', `epoch ${request.epoch}`))
      return
    }
    if (this.busy !== null) {
      answer.refused(problem('SNAPSHOT_BUSY', this.busy))
      return
    }
    const claim: Claim = { name: `snapshot ${request.snapshot}`, snapshot: null, restore: null }
    this.claim = claim
    SnapshotSession.prepare(this, request, {
      done: (session) => {
        claim.snapshot = session
        this.daemon.world.planted.session?.(session)
        session.whenEnded(() => {
          if (this.claim === claim) this.claim = null
          this.past = session
        })
        answer.done(null)
      },
      refused: (error) => {
        this.claim = null
        answer.refused(error)
      },
    })
  }

  /** False: not prepared here. */
  take(snapshot: string, listener: (event: LocalEvent) => void): boolean {
    const session = this.claim?.snapshot ?? this.past
    if (session === null || session.request.snapshot !== snapshot) return false
    session.listen(listener)
    session.take()
    return true
  }

  discard(snapshot: string, epoch: number, answer: Answer<null>): void {
    const session = this.claim?.snapshot ?? null
    const goOn = () => {
      const part = this.daemon.host.disk.parts.get(snapshot)
      const advance = () => this.advance(epoch, () => answer.done(null))
      if (part !== undefined && part.epoch === epoch) this.remove(snapshot, advance)
      else this.daemon.after(0, advance)
    }
    if (session === null || session.request.snapshot !== snapshot) {
      goOn()
      return
    }
    session.abort(problem('SNAPSHOT_DISCARDED', 'the coordinator has called the snapshot off'))
    session.whenEnded(goOn)
  }

  remove(snapshot: string, done: () => void): void {
    const { disk } = this.daemon.host
    this.durably(() => {
      disk.parts.delete(snapshot)
      disk.unfinished.delete(snapshot)
      for (const file of disk.files) if (file.includes(` ${snapshot} `)) disk.files.delete(file)
    }, done)
  }

  checkRestore(request: RestoreRequest): RestoreCheck {
    const { world, host } = this.daemon
    const files = [...request.channels, ...request.members.map(({ memory }) => memory), ...(request.files ?? [])]
    return {
      missing: distinctFiles(files).filter((file) => !host.disk.files.has(file.digest)),
      running: request.members
        .map(({ vm }) => vm)
        .filter((vm) => {
          const guest = world.guestOf(vm)
          return guest.alive && guest.host === host.index
        }),
      problems: [this.busy, ...this.othersOf(request).map(({ claim }) => claim?.name ?? null)].flatMap((busy) =>
        busy === null ? [] : [problem('SNAPSHOT_BUSY', `${busy} is under way`)],
      ),
    }
  }

  /** Of the other networks that the machines of a restore are in. */
  private othersOf({ members }: RestoreRequest): Agent[] {
    const { agents, world } = this.daemon
    const guests = members.map(({ vm }) => world.guestOf(vm))
    return agents.filter((agent) => agent !== this && guests.some((guest) => guest.isIn(agent.network)))
  }

  loadRestore(snapshot: string, request: RestoreRequest, answer: Answer<RestoreLoaded>): void {
    const others = this.othersOf(request)
    for (const busy of [...others.map(({ claim }) => claim?.name ?? null), this.busy]) {
      if (busy === null) continue
      answer.refused(problem('SNAPSHOT_BUSY', busy))
      return
    }
    this.beginRestore(snapshot, request, others).load(answer)
  }

  private beginRestore(snapshot: string, request: RestoreRequest, others: readonly Agent[]): RestoreSession {
    this.resumed = null
    this.switched = null
    const session = new RestoreSession(this, snapshot, request)
    const claim: Claim = {
      name: `restore of ${snapshot}`,
      snapshot: null,
      restore: session,
      others: others.map(({ network }) => network),
    }
    this.claim = claim
    session.onEnded = () => {
      if (this.claim === claim) this.claim = null
    }
    return session
  }

  pauseRestore(snapshot: string, order: RestorePause, answer: Answer<RestorePaused>): void {
    const under = this.claim?.restore ?? null
    if (under?.snapshot === snapshot) {
      under.pause(order, answer)
      return
    }
    if (this.busy !== null) {
      answer.refused(problem('SNAPSHOT_BUSY', this.busy))
      return
    }
    if (order.epoch <= this.epoch) {
      answer.refused(problem('EPOCH_STALE', `epoch ${order.epoch}`))
      return
    }
    const request = { epoch: order.epoch, members: [], channels: [], deadlineMs: order.deadlineMs }
    this.beginRestore(snapshot, request, []).pause(order, answer)
  }

  switchRestore(snapshot: string, answer: Answer<RestoreSwitched>): void {
    const session = this.claim?.restore ?? null
    if (session?.snapshot === snapshot) {
      session.switchOver({
        done: (result) => {
          if (session.isEmpty) this.switched = { snapshot, result }
          answer.done(result)
        },
        refused: answer.refused,
      })
    } else if (this.switched?.snapshot === snapshot) answer.done(this.switched.result)
    else answer.refused(problem('SNAPSHOT_UNKNOWN', 'no such restore is loaded here'))
  }

  resumeRestore(snapshot: string, answer: Answer<RestoreResumed>): void {
    const session = this.claim?.restore ?? null
    if (session === null || session.snapshot !== snapshot) {
      if (this.resumed?.snapshot === snapshot) {
        answer.done(this.resumed.result)
        return
      }
      answer.refused(problem('SNAPSHOT_UNKNOWN', 'no such restore is loaded here'))
      return
    }
    session.resume((result) => {
      this.claim = null
      this.daemon.host.disk.loaded[this.network] = new Set()
      this.daemon.host.disk.formers[this.network] = new Map()
      this.resumed = { snapshot, result }
      this.saveMoves(() => answer.done(result))
    })
  }

  abortRestore(snapshot: string, epoch: number, answer: Answer<null>): void {
    const session = this.claim?.restore ?? null
    // Or a step of it that comes late would begin it again.
    const pass = () => this.advance(epoch, () => answer.done(null))
    if (session === null || session.snapshot !== snapshot) pass()
    else session.abort(pass)
  }

  datapathEvent(event: DatapathEvent): void {
    const session = this.claim?.snapshot ?? null
    switch (event.kind) {
      case 'closed':
        if (session?.request.epoch === event.epoch) session.channelsClosed(event.closures)
        return
      case 'early':
        if (session?.request.epoch === event.epoch) session.early()
        else if (session === null) this.waitForUnknown(event.epoch)
        return
      case 'peer':
        if (this.busy === null && event.epoch > this.epoch) this.advance(event.epoch, ignore)
        return
      case 'broken':
        if (session?.request.epoch === event.epoch) session.abort(problem('PEER_DOWN', 'a trunk began anew'))
    }
  }

  datapathRestarted(): void {
    this.claim?.snapshot?.abort(problem('INTERNAL', 'the datapath failed and was restarted'))
    // Its gates and what waited behind them are gone.
    this.claim?.restore?.abort(ignore)
  }

  /** `done` when the epoch is on the disk, whoever has asked for it first. */
  raise(epoch: number, done: () => void): void {
    const { disk } = this.daemon.host
    this.epoch = Math.max(this.epoch, epoch)
    if (epoch <= disk.epochs[this.network]) {
      this.daemon.after(0, done)
      return
    }
    this.durably(() => {
      disk.epochs[this.network] = Math.max(disk.epochs[this.network], epoch)
    }, done)
  }

  advance(epoch: number, done: () => void): void {
    this.raise(epoch, () => advanceNetwork(this.daemon, this.network, epoch, done, done))
  }

  /** `loaded`, `formers`: what is to be undone should the daemon be killed. */
  saveMoves(
    done: () => void,
    loaded: ReadonlySet<number> = new Set(),
    formers: ReadonlyMap<number, number> = new Map(),
  ): void {
    this.durably(() => {
      const { disk } = this.daemon.host
      disk.members = new Set(this.daemon.members)
      disk.loaded[this.network] = loaded
      disk.formers[this.network] = formers
      disk.fences[this.network] = this.fence
    }, done)
  }

  /** Writes to the disk: `write` happens at some point before `done`, or not at all when the daemon is killed first. */
  durably(write: () => void, done: () => void): void {
    const { world, host } = this.daemon
    const wait = world.wait(STORE, host.index, this.writes++, world.scenario.pace.store)
    this.daemon.after(wait, () => {
      world.step(host)
      write()
      this.daemon.after(0, done)
    })
  }

  private waitForUnknown(epoch: number): void {
    if (this.giveWay !== null) return
    this.giveWay = this.daemon.after(UNKNOWN_EPOCH_MS, () => {
      this.giveWay = null
      if (this.claim?.snapshot?.request.epoch === epoch) return
      this.advance(epoch, ignore)
    })
  }
}

export function ignore(): void {
  // Nothing depends on the answer.
}
