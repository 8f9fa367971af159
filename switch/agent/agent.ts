// The agent: the local half of snapshots and restores. One of either per network at a time; what the coordinator asks is
// checked here again, for it may be late, lost or wrong.

import { unknownNetwork } from '../../src/api/names.js'
import type {
  LocalEvent,
  PortRecord,
  Preflight,
  RemoveMemberAnswer,
  RestoreAborted,
  RestoreCheck,
  RestoreLoaded,
  RestoreRequest,
  RestoreResumed,
} from '../../src/api/schemas.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import type { DatapathEvent } from '../datapath/protocol.js'
import { CatchUp } from './catch-up.js'
import type { Host } from './host.js'
import { undoSnapshot } from './leftovers.js'
import type { Moves } from './local-store.js'
import type { SessionRequest } from './member.js'
import { preflight } from './preflight.js'
import { brokenChannel, calledOff, networkBusy, restarted, stopping } from './refusals.js'
import { removePart } from './removal.js'
import { checkRestore, RestoreSession } from './restore-session.js'
import { SnapshotSession } from './snapshot-session.js'

interface Session {
  readonly name: string
  readonly snapshot: SnapshotSession | null
  readonly restore: RestoreSession | null
}

export class Agent {
  private readonly host: Host
  private readonly networks: readonly string[]
  private readonly sessions = new Map<string, Session>()
  private readonly catchUp: CatchUp
  private readonly configured: ReadonlySet<string>
  /** The last snapshot per network, also when it has ended. */
  private readonly last = new Map<string, SnapshotSession>()
  private readonly preparing = new Map<string, { snapshot: string; calledOff: boolean; ended: Promise<unknown> }>()
  /** The last restore per network that went through. */
  private readonly resumed = new Map<string, { snapshot: string; answer: RestoreResumed }>()

  constructor(host: Host, networks: readonly string[], configuredPorts: ReadonlySet<string>) {
    this.host = host
    this.networks = networks
    this.configured = configuredPorts
    this.catchUp = new CatchUp(host, (network) => {
      const session = this.sessions.get(network)
      return session === undefined ? null : { epoch: session.snapshot?.request.epoch ?? null }
    })
    host.datapath.on('event', (event) => this.datapathEvent(event))
    host.datapath.on('restarted', (error) => {
      for (const [network, { snapshot, restore }] of this.sessions) {
        snapshot?.abort(restarted(error).report())
        // Its gates, and the channel state that waited behind them, are gone.
        restore?.abort().finally(() => this.sessions.delete(network))
      }
    })
  }

  /** What is under way in the network, or in another one that shares a machine with it. */
  busy(network: string): string | null {
    const own = this.sessions.get(network)?.name
    if (own !== undefined || this.sessions.size === 0) return own ?? null
    const machines = new Set(this.host.ports.machinesOf(network))
    for (const [other, { name }] of this.sessions) {
      if (this.host.ports.machinesOf(other).some((vm) => machines.has(vm))) return `${name} of network ${other}`
    }
    return null
  }

  /** What a killed daemon has left of snapshots is undone; the networks concerned are busy meanwhile. Never rejects. */
  async recover(): Promise<void> {
    const unfinished = await this.host.journal.unfinished()
    await Promise.all(
      this.networks.map(async (network) => {
        const mine = unfinished.filter((one) => one.network === network)
        if (mine.length === 0) return
        const name = 'undoing a snapshot whose daemon was killed'
        this.sessions.set(network, { name, snapshot: null, restore: null })
        for (const one of mine) {
          await undoSnapshot(this.host, one).catch((thrown) =>
            this.host.log.error({ err: thrown, network }, 'cannot undo an unfinished snapshot'),
          )
        }
        this.sessions.delete(network)
      }),
    )
  }

  preflight(network: string): Promise<Preflight> {
    this.check(network)
    const busy = this.busy(network)
    return preflight(this.host, network, busy === null ? null : networkBusy(this.host.name, network, busy).report())
  }

  async prepare(request: SessionRequest): Promise<string[]> {
    const { network, snapshot, epoch } = request
    this.check(network)
    if (epoch <= this.host.epochs.get(network)) {
      throw new SnapswitchError(
        'EPOCH_STALE',
        `epoch ${epoch} is not above ${this.host.epochs.get(network)}`,
        'Ask again: the coordinator will choose a fresh one.',
      )
    }
    const name = `snapshot ${snapshot}`
    this.claim(network, { name, snapshot: null, restore: null })
    const preparation = { snapshot, calledOff: false, ended: Promise.resolve<unknown>(null) }
    const work = this.prepareSession(request, name, preparation)
    preparation.ended = work.catch(() => undefined)
    this.preparing.set(network, preparation)
    try {
      return await work
    } catch (thrown) {
      this.sessions.delete(network)
      throw thrown
    } finally {
      this.preparing.delete(network)
    }
  }

  private async prepareSession(
    request: SessionRequest,
    name: string,
    preparation: { readonly calledOff: boolean },
  ): Promise<string[]> {
    const { network } = request
    const restarts = this.host.datapath.restarts
    const session = await SnapshotSession.prepare(this.host, request)
    // A datapath that was restarted meanwhile has ports at the new epoch that have made no cut.
    const reason = preparation.calledOff ? calledOff : this.host.datapath.restarts === restarts ? null : restarted()
    if (reason !== null) {
      session.abort(reason.report())
      await session.ended
      throw reason
    }
    this.sessions.set(network, { name, snapshot: session, restore: null })
    this.last.set(network, session)
    void session.ended.then(() => {
      if (this.sessions.get(network)?.snapshot === session) this.sessions.delete(network)
    })
    return session.machines
  }

  /** Begins the cut; the events of the session come as they happen, also those from before (it may have been triggered). */
  async *take(network: string, snapshot: string): AsyncGenerator<LocalEvent, void, undefined> {
    // A marker may have begun the cut, and all of it may be over, before this TAKE came: its events are still told.
    const session = this.last.get(network)
    if (session === undefined || session.request.snapshot !== snapshot) {
      throw new SnapswitchError(
        'SNAPSHOT_UNKNOWN',
        `snapshot ${network}/${snapshot} is not prepared on ${this.host.name}`,
        'Take the snapshot again.',
      )
    }
    const waiting: LocalEvent[] = []
    let wake: () => void = () => undefined
    const stop = session.listen((event) => {
      waiting.push(event)
      wake()
    })
    session.take()
    try {
      for (;;) {
        const event = waiting.shift()
        if (event === undefined) {
          await new Promise<void>((resolve) => {
            wake = resolve
            if (waiting.length > 0) resolve()
          })
          continue
        }
        yield event
        if (event.type === 'done' || event.type === 'failed') return
      }
    } finally {
      stop()
    }
  }

  /** Undoes whatever was prepared or taken under this name; harmless when nothing was. */
  async discard(network: string, snapshot: string, epoch: number): Promise<void> {
    this.check(network)
    const preparation = this.preparing.get(network)
    if (preparation?.snapshot === snapshot) {
      preparation.calledOff = true
      await preparation.ended
    }
    const session = this.sessions.get(network)?.snapshot ?? null
    if (session !== null && session.request.snapshot === snapshot) {
      session.abort(calledOff.report())
      await session.ended
    }
    const part = await this.host.store.readPart(network, snapshot)
    if (part !== null && part.epoch === epoch) await this.remove(network, snapshot)
    await this.catchUp.advance(network, epoch)
  }

  /** Removes a finished part. Throws SNAPSHOT_NEEDED. */
  async remove(network: string, snapshot: string): Promise<void> {
    this.check(network)
    await removePart(this.host, network, snapshot)
  }

  async checkRestore(network: string, snapshot: string, request: RestoreRequest): Promise<RestoreCheck> {
    this.check(network)
    const check = await checkRestore(this.host, network, snapshot, request)
    for (const other of otherNetworks(request)) {
      const busy = this.networks.includes(other) ? this.busy(other) : null
      if (!this.networks.includes(other)) check.problems.push(this.unknownNetwork(other).report())
      else if (busy !== null) check.problems.push(networkBusy(this.host.name, other, busy).report())
    }
    const busy = this.busy(network)
    if (busy !== null) check.problems.push(networkBusy(this.host.name, network, busy).report())
    return check
  }

  async loadRestore(network: string, snapshot: string, request: RestoreRequest): Promise<RestoreLoaded> {
    this.check(network)
    for (const other of otherNetworks(request)) {
      this.check(other)
      const busy = this.busy(other)
      if (busy !== null) throw networkBusy(this.host.name, other, busy)
    }
    this.resumed.delete(network)
    const session = new RestoreSession(this.host, network, snapshot, request)
    this.claim(network, { name: `restore of ${snapshot}`, snapshot: null, restore: session })
    session.onAbandoned = () => {
      this.sessions.delete(network)
      this.saveMoves().catch((thrown) => this.host.log.error({ err: thrown }, 'cannot save the moves'))
    }
    try {
      const answer = await session.load()
      // A host that gets no machines is fenced, and that is all.
      if (request.members.length === 0) this.sessions.delete(network)
      return answer
    } catch (thrown) {
      this.sessions.delete(network)
      throw thrown
    }
  }

  async resumeRestore(network: string, snapshot: string): Promise<RestoreResumed> {
    const session = this.restoreSession(network, snapshot)
    if (session === null) {
      // Asked again because the answer got lost: the same answer.
      const before = this.resumed.get(network)
      if (before?.snapshot === snapshot) return before.answer
      throw new SnapswitchError(
        'SNAPSHOT_UNKNOWN',
        `no restore of ${network}/${snapshot} is loaded on ${this.host.name}`,
        'Restore again.',
      )
    }
    // When a guest does not resume the session stays: the coordinator may ask again, or abort.
    await session.registerMachines()
    await this.saveMoves()
    const answer = await session.resume()
    this.sessions.delete(network)
    this.resumed.set(network, { snapshot, answer })
    return answer
  }

  /** Ends what was loaded and never ran; harmless when nothing was. Machines that run already, run on. */
  async abortRestore(network: string, snapshot: string): Promise<RestoreAborted> {
    const session = this.restoreSession(network, snapshot)
    if (session === null) {
      const before = this.resumed.get(network)
      return { running: before?.snapshot === snapshot ? before.answer.resumed.map(({ vm }) => vm) : [] }
    }
    try {
      const resumed = await session.abort()
      if (resumed.length > 0) this.resumed.set(network, { snapshot, answer: { resumed } })
      return { running: resumed.map(({ vm }) => vm) }
    } finally {
      this.sessions.delete(network)
      await this.saveMoves()
    }
  }

  /** A machine leaves this host: it is ended if it runs, and its ports, also those in other networks, go. */
  async removeMember(network: string, vm: string): Promise<RemoveMemberAnswer> {
    this.check(network)
    const { host } = this
    const busy = this.busy(network)
    if (busy !== null) throw networkBusy(this.host.name, network, busy)
    this.resumed.delete(network)
    const destroyed = await host.machines.isThere(vm)
    if (destroyed) {
      const deadline = performance.now() + 10_000
      await host.machines.using(vm, deadline, (control) => control.destroy(deadline))
    }
    const ports: PortRecord[] = []
    for (const port of host.ports.ofMachine(vm)) {
      ports.push(host.ports.record(port, null))
      await host.ports.remove(port.name)
    }
    host.machines.delete(vm)
    await this.saveMoves()
    return { destroyed, ports }
  }

  /** Ends what is under way, gates open. */
  async close(): Promise<void> {
    this.catchUp.close()
    for (const { snapshot, restore } of this.sessions.values()) {
      snapshot?.abort(stopping.report())
      await snapshot?.ended
      await restore?.abort()
    }
  }

  private datapathEvent(event: DatapathEvent): void {
    const session = this.sessions.get(event.network)?.snapshot ?? null
    switch (event.kind) {
      case 'closed':
        if (session?.request.epoch === event.epoch) session.channelsClosed(event.closures)
        return
      case 'early':
        if (session?.request.epoch === event.epoch) session.early()
        else if (session === null) this.catchUp.early(event.network, event.epoch)
        return
      case 'peer':
        this.catchUp.heard(event)
        return
      case 'broken':
        if (session?.request.epoch === event.epoch)
          session.abort(brokenChannel(this.host.name, this.portName(event.port), event.host).report())
        return
      case 'refused': {
        const port = this.portName(event.port)
        const text = 'a peer’s control frames are refused: it speaks another version, or has another key or none'
        this.host.log.warn({ network: event.network, port, reason: event.reason }, text)
      }
    }
  }

  private portName(index: number): string {
    return this.host.ports.byIndex(index)?.name ?? `port-${index}`
  }

  private unknownNetwork(network: string): SnapswitchError {
    return unknownNetwork(`host ${this.host.name}`, network, this.networks)
  }

  private check(network: string): void {
    if (!this.networks.includes(network)) throw this.unknownNetwork(network)
  }

  private claim(network: string, session: Session): void {
    const busy = this.busy(network)
    if (busy !== null) throw networkBusy(this.host.name, network, busy)
    this.sessions.set(network, session)
  }

  private restoreSession(network: string, snapshot: string): RestoreSession | null {
    const restore = this.sessions.get(network)?.restore ?? null
    return restore?.snapshot === snapshot ? restore : null
  }

  /** What restores have changed, so that a restarted daemon finds it again. */
  private saveMoves(): Promise<void> {
    return this.host.store.writeMoves(() => this.moves())
  }

  private moves(): Moves {
    const { host } = this
    const present = new Set(host.ports.all().map((port) => port.name))
    return {
      machines: host.machines.moved(),
      ports: host.ports
        .all()
        .filter((port) => !this.configured.has(port.name))
        .map(({ name, network, device, kind, vm, ownsDevice }) => ({ name, network, device, kind, vm, ownsDevice })),
      gone: [...this.configured].filter((name) => !present.has(name)),
    }
  }
}

function otherNetworks(request: RestoreRequest): Set<string> {
  const all = request.members.flatMap((member) => member.ports.flatMap((port) => port.network ?? []))
  return new Set(all)
}
