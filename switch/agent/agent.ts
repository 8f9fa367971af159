// The agent: the local half of snapshots, and of restores (restores.ts). What the coordinator asks is checked here again, for
// it may be late, lost or wrong.

import type {
  LocalEvent,
  MachineDisks,
  Preflight,
  Pruned,
  PruneRequest,
  Rehearsal,
  Removal,
  SwitchStatus,
} from '../../src/api/schemas.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import type { Deadline } from '../../src/hypervisor/hypervisor.js'
import type { DatapathEvent } from '../datapath/protocol.js'
import { CatchUp } from './catch-up.js'
import { DiskKeeper } from './disks/keeper.js'
import { prune } from './disks/prune.js'
import { whereDisksAre } from './disks/where.js'
import type { Host } from './host.js'
import { undoSnapshot } from './leftovers.js'
import type { SessionRequest } from './member.js'
import { preflight } from './preflight.js'
import { brokenChannel, calledOff, restarted, staleEpoch, stopping } from './refusals.js'
import { clearRehearsal, rehearse } from './rehearsal.js'
import { finishRemovals, removePart } from './removal.js'
import { isRestore, Restores } from './restores.js'
import { type Session, Sessions } from './sessions.js'
import { SnapshotSession } from './snapshot-session.js'

const DISKS_MS = 8000
/** A status must come soon; and one that is asked for often asks nobody. */
const STATUS_MS = 1500
const STATUS_AGE_MS = 5000

export class Agent {
  readonly restores: Restores
  readonly keeper: DiskKeeper
  private readonly host: Host
  private readonly networks: readonly string[]
  private readonly sessions: Sessions
  private readonly catchUp: CatchUp
  private rehearsing: Promise<unknown> = Promise.resolve()
  /** What machines have said of their disks. */
  private readonly asked = new Map<string, { at: number; problems: MachineDisks['problems'] }>()
  /** The last snapshot per network, also when it has ended. */
  private readonly last = new Map<string, SnapshotSession>()
  private readonly preparing = new Map<string, { snapshot: string; calledOff: boolean; ended: Promise<unknown> }>()

  constructor(host: Host, networks: readonly string[], configuredPorts: ReadonlySet<string>) {
    this.host = host
    this.networks = networks
    this.sessions = new Sessions(host, networks)
    this.keeper = new DiskKeeper(host, () => this.sessions.machines())
    this.restores = new Restores(host, this.sessions, configuredPorts, this.keeper)
    this.catchUp = new CatchUp(host, (network) => {
      const session = this.sessions.of(network)
      return session === null ? null : { epoch: session.snapshot?.request.epoch ?? null }
    })
    host.datapath.on('event', (event) => this.datapathEvent(event))
    host.datapath.on('restarted', (error) => this.datapathRestarted(error))
  }

  /** What is under way in the network, or in another one that shares a machine with it. */
  busy(network: string): string | null {
    return this.sessions.busy(network)
  }

  /** What a killed daemon has left of snapshots is undone; the networks concerned are busy meanwhile. Never rejects. */
  async recover(): Promise<void> {
    const { log } = this.host
    await clearRehearsal(this.host).catch((thrown) => log.error({ err: thrown }, 'cannot end a throw-away machine'))
    const unfinished = await this.host.journal.unfinished()
    await Promise.all(
      this.networks.map(async (network) => {
        const mine = unfinished.filter((one) => one.network === network)
        if (mine.length === 0) return
        const session = { name: 'undoing a snapshot whose daemon was killed', snapshot: null, restore: null }
        this.sessions.occupy(network, session)
        for (const one of mine) {
          await undoSnapshot(this.host, one).catch((thrown) =>
            this.host.log.error({ err: thrown, network }, 'cannot undo an unfinished snapshot'),
          )
        }
        this.sessions.end(network, session)
      }),
    )
    await finishRemovals(this.host, this.keeper)
    this.keeper.soon()
  }

  /** Where a machine's disks are now. */
  disksOf(vm: string): Promise<MachineDisks> {
    return whereDisksAre(this.host, vm, !this.sessions.machines().has(vm), performance.now() + DISKS_MS)
  }

  /** The same in short. A machine that is known to have been snapshot is asked now and then whether it runs on the right image. */
  async diskStatus(vm: string): Promise<Pick<SwitchStatus['machines'][number], 'disks' | 'problems'>> {
    const chains = Object.entries(this.host.disks.chains(vm) ?? {})
    if (chains.length === 0) return {}
    const before = this.asked.get(vm)
    const isFresh = before !== undefined && performance.now() - before.at < STATUS_AGE_MS
    if (!isFresh && !this.sessions.machines().has(vm)) {
      const deadline = performance.now() + STATUS_MS
      const problems = await whereDisksAre(this.host, vm, true, deadline).then(
        (answer) => answer.problems,
        () => before?.problems ?? [],
      )
      this.asked.set(vm, { at: performance.now(), problems })
    }
    const problems = this.asked.get(vm)?.problems ?? []
    const disks = chains.flatMap(([name, chain]) => (chain[0] === undefined ? [] : [{ name, file: chain[0].file }]))
    return { disks, ...(problems.length === 0 ? {} : { problems }) }
  }

  preflight(network: string, deadline: Deadline): Promise<Preflight> {
    this.sessions.check(network)
    return preflight(this.host, network, this.sessions.refusal(network)?.report() ?? null, deadline)
  }

  async prepare(request: SessionRequest): Promise<string[]> {
    const { network, snapshot, epoch } = request
    this.sessions.check(network)
    const highest = this.host.epochs.get(network)
    if (epoch <= highest) throw staleEpoch(epoch, highest)
    const session = this.sessions.begin(network, { name: `snapshot ${snapshot}`, snapshot: null, restore: null })
    const preparation = { snapshot, calledOff: false, ended: Promise.resolve<unknown>(null) }
    const work = this.prepareSession(request, session, preparation)
    preparation.ended = work.catch(() => undefined)
    this.preparing.set(network, preparation)
    try {
      return await work
    } catch (thrown) {
      this.sessions.end(network, session)
      throw thrown
    } finally {
      this.preparing.delete(network)
    }
  }

  private async prepareSession(
    request: SessionRequest,
    session: Session,
    preparation: { readonly calledOff: boolean },
  ): Promise<string[]> {
    const { network } = request
    const restarts = this.host.datapath.restarts
    await this.keeper.letGo(this.host.ports.machinesOf(network))
    const snapshot = await SnapshotSession.prepare(this.host, request)
    // A datapath that was restarted meanwhile has ports at the new epoch that have made no cut.
    const reason = preparation.calledOff ? calledOff : this.host.datapath.restarts === restarts ? null : restarted()
    if (reason !== null) {
      snapshot.abort(reason.report())
      await snapshot.ended
      throw reason
    }
    session.snapshot = snapshot
    this.last.set(network, snapshot)
    void snapshot.ended.then(() => {
      this.sessions.end(network, session)
      this.keeper.soon()
    })
    return snapshot.machines
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
    this.sessions.check(network)
    const preparation = this.preparing.get(network)
    if (preparation?.snapshot === snapshot) {
      preparation.calledOff = true
      await preparation.ended
    }
    const session = this.sessions.of(network)?.snapshot ?? null
    if (session !== null && session.request.snapshot === snapshot) {
      session.abort(calledOff.report())
      await session.ended
    }
    const part = await this.host.store.readPart(network, snapshot)
    if (part !== null && part.epoch === epoch) await this.remove(network, snapshot)
    await this.catchUp.advance(network, epoch)
  }

  /** Removes a finished part. Throws SNAPSHOT_NEEDED, SNAPSHOT_BUSY, and what keeps it from being done. */
  async remove(network: string, snapshot: string): Promise<Removal> {
    this.sessions.check(network)
    try {
      return await removePart(this.host, this.keeper, network, snapshot)
    } finally {
      this.keeper.soon()
    }
  }

  /** Whether the images of a finished part load. One at a time: there is one place for a throw-away machine. */
  rehearse(network: string, snapshot: string, deadline: Deadline): Promise<Rehearsal> {
    const work = this.rehearsing.then(() => rehearse(this.host, network, snapshot, deadline))
    this.rehearsing = work.catch(() => undefined)
    return work
  }

  /** Removes and merges what nobody needs on this host, and finishes deletions that were begun. */
  async prune(request: PruneRequest): Promise<Pruned> {
    if (request.dryRun !== true) await finishRemovals(this.host, this.keeper)
    return prune(this.keeper, request)
  }

  /** Ends what is under way, gates open; nothing begins any more. */
  async close(): Promise<void> {
    this.catchUp.close()
    this.sessions.close()
    await this.keeper.close()
    for (const [network, session] of this.sessions.all()) {
      session.snapshot?.abort(stopping.report())
      await session.snapshot?.ended
      if (isRestore(session)) await this.restores.abandon(network, session)
    }
  }

  private datapathRestarted(error: Error): void {
    for (const [network, session] of this.sessions.all()) {
      session.snapshot?.abort(restarted(error).report())
      // Its gates, and the channel state that waited behind them, are gone.
      if (isRestore(session)) this.restores.abandon(network, session)
    }
  }

  private datapathEvent(event: DatapathEvent): void {
    const session = this.sessions.of(event.network)?.snapshot ?? null
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
}
