// The agent: the local half of snapshots, and of restores (restores.ts). What the coordinator asks is checked here
// again, for it may be late, lost or wrong.

import type { LocalEvent, Preflight, Removal } from '../../src/api/schemas.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import type { Deadline } from '../../src/hypervisor/hypervisor.js'
import type { PortTrouble } from '../datapath/port/port.js'
import type { DatapathEvent } from '../datapath/protocol.js'
import type { PortEntry } from '../ports/table.js'
import type { WantedView } from '../wanted/wanted.js'
import { CatchUp } from './catch-up.js'
import type { DiskService } from './disks/service.js'
import type { Host } from './host.js'
import { brokenChannel, calledOff, networkBusy, portMoved, restarted, staleEpoch, stopping } from './refusals.js'
import { Restores } from './restore/restores.js'
import { type Preparation, type Session, Sessions } from './sessions.js'
import type { SessionRequest } from './snapshot/member.js'
import { preflight } from './snapshot/preflight.js'
import { SnapshotSession } from './snapshot/session.js'
import { Undoing } from './undoing.js'

/** How long the API waits for what a killed daemon has left to be undone. */
export const RECOVERY_MS = 5000

/** What becomes of image files: disks/service.ts. */
export type Disks = Pick<DiskService, 'clear' | 'finish' | 'letGo' | 'isMerging' | 'soon' | 'remove' | 'close'>

const TROUBLES: Record<PortTrouble, string> = {
  'ring-jammed':
    'frames were lost: the kernel cannot hand over one that its sender wants cut up (UDP fragments, SCTP); switch that off there: `ethtool -K DEVICE gso off`, in a guest host_ufo=off',
  'gso-unsupported':
    'a frame was dropped that its sender wants cut up in a way that is not known here; `ethtool -K DEVICE gso off` at the sender helps',
}

export class Agent {
  readonly restores: Restores
  readonly #host: Host
  readonly sessions: Sessions
  readonly #disks: Disks
  readonly #catchUp: CatchUp
  readonly #undoing: Undoing
  readonly #watchers = new Set<(network: string, event: LocalEvent) => void>()
  /** The last snapshot per network, also when it has ended. */
  readonly #last = new Map<string, SnapshotSession>()

  constructor(host: Host, wanted: WantedView, disks: Disks) {
    this.#host = host
    this.sessions = new Sessions(host, wanted)
    this.#disks = disks
    this.restores = new Restores(host, this.sessions, wanted, disks)
    this.#undoing = new Undoing(host, this.sessions, (vms) => disks.letGo(vms))
    this.restores.onLeft = () => this.#undoing.mayBeLeft()
    this.#catchUp = new CatchUp(host, (network) => {
      if (this.sessions.of(network) === null) return null
      return { epoch: this.sessions.snapshotOf(network)?.request.epoch ?? null }
    })
    host.datapath.on('event', (event) => this.#datapathEvent(event))
    host.datapath.on('restarted', (error) => this.#datapathRestarted(error))
  }

  /** Hears all that becomes of snapshots from now on. */
  watchSnapshots(watcher: (network: string, event: LocalEvent) => void): void {
    this.#watchers.add(watcher)
  }

  /** What is under way in the network, or in another one that shares a machine with it. */
  busy(network: string): string | null {
    return this.sessions.busy(network)
  }

  /** What a killed daemon has left of snapshots is undone; the networks concerned are busy meanwhile. Never rejects. */
  async recover(): Promise<void> {
    await this.#disks.clear()
    await this.#undoing.recover()
    await this.#disks.finish()
    this.#disks.soon()
  }

  /** What could not be undone then, or when its snapshot failed, is tried again. Call now and then. Never rejects. */
  async undoAgain(): Promise<void> {
    if (await this.#undoing.again()) this.#disks.soon()
  }

  preflight(network: string, deadline: Deadline): Promise<Preflight> {
    this.sessions.check(network)
    const busy = this.sessions.refusal(network)?.report() ?? null
    return preflight(this.#host, network, busy, (vm) => this.#disks.isMerging(vm), deadline)
  }

  async prepare(request: SessionRequest): Promise<string[]> {
    const { network, snapshot, epoch } = request
    this.sessions.check(network)
    const highest = this.#host.epochs.get(network)
    if (epoch <= highest) throw staleEpoch(epoch, highest)
    const preparation: Preparation = {
      snapshot,
      off: new AbortController(),
      broken: null,
      ended: Promise.resolve(),
    }
    const session: Session = { name: `snapshot ${snapshot}`, work: { kind: 'preparation', preparation } }
    this.sessions.begin(network, session)
    const work = this.#prepareSession(request, session, preparation)
    preparation.ended = work.catch(() => undefined)
    try {
      return await work
    } catch (thrown) {
      this.sessions.end(network, session)
      throw thrown
    }
  }

  async #prepareSession(request: SessionRequest, session: Session, preparation: Preparation): Promise<string[]> {
    const { network } = request
    const restarts = this.#host.datapath.restarts
    await this.#disks.letGo(this.#host.ports.machinesOf(network))
    const { signal } = preparation.off
    const snapshot = await SnapshotSession.prepare(this.#host, request, signal)
    // A datapath that was restarted meanwhile has ports at the new epoch that have made no cut.
    const isRestarted = this.#host.datapath.restarts !== restarts
    const reason: SnapswitchError | null = signal.aborted
      ? signal.reason
      : isRestarted
        ? restarted()
        : preparation.broken
    if (reason !== null) {
      snapshot.abort(reason.report())
      await snapshot.ended
      this.#undoing.mayBeLeft()
      throw reason
    }
    session.work = { kind: 'snapshot', snapshot }
    snapshot.listen((event) => {
      for (const watcher of this.#watchers) watcher(network, event)
    })
    this.#last.set(network, snapshot)
    void snapshot.ended.then(() => {
      this.sessions.end(network, session)
      if (snapshot.error !== null) this.#undoing.mayBeLeft()
      this.#disks.soon()
    })
    return snapshot.machines
  }

  /**
   * Begins the cut; the events of the session come as they happen, also those from before (it may have been triggered).
   */
  async *take(network: string, snapshot: string): AsyncGenerator<LocalEvent, void, undefined> {
    // A marker may have begun the cut, and all of it may be over, before this TAKE came: its events are still told.
    const session = this.#last.get(network)
    if (session === undefined || session.request.snapshot !== snapshot) {
      throw new SnapswitchError(
        'SNAPSHOT_UNKNOWN',
        `snapshot ${network}/${snapshot} is not prepared on ${this.#host.name}`,
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

  /** A port has lost its device, or has one again. */
  portMoved(port: PortEntry): void {
    const { network, vm } = port
    if (vm === null || port.kind !== 'member') return
    const error = portMoved(this.#host.name, port)
    const preparation = this.sessions.preparationOf(network)
    if (preparation !== null) preparation.broken = error
    this.sessions.snapshotOf(network)?.portMoved(vm, error.report())
  }

  /** Undoes whatever was prepared or taken under this name; harmless when nothing was. */
  async discard(network: string, snapshot: string, epoch: number): Promise<void> {
    this.sessions.check(network)
    const preparation = this.sessions.preparationOf(network)
    if (preparation?.snapshot === snapshot) {
      preparation.off.abort(calledOff)
      await preparation.ended
    }
    const session = this.sessions.snapshotOf(network)
    if (session?.request.snapshot === snapshot) {
      session.abort(calledOff.report())
      await session.ended
    }
    const part = await this.#host.store.readPart(network, snapshot)
    if (part !== null && part.epoch === epoch) await this.remove(network, snapshot, epoch)
    await this.#catchUp.advance(network, epoch)
  }

  /**
   * Removes a finished part, or what is left of an unfinished one; `epoch`: only the one that has it. Throws
   * SNAPSHOT_NEEDED, SNAPSHOT_BUSY, and what keeps it from being done.
   */
  async remove(network: string, snapshot: string, epoch: number | null): Promise<Removal> {
    this.sessions.check(network)
    await this.#refuseBegun(network, snapshot)
    try {
      return await this.#disks.remove(network, snapshot, epoch)
    } finally {
      this.#disks.soon()
    }
  }

  /** One that is being taken has files and no part yet. Another coordinator may take it. Throws SNAPSHOT_BUSY. */
  async #refuseBegun(network: string, snapshot: string): Promise<void> {
    const isBegun = () => {
      const begun = this.sessions.preparationOf(network) ?? this.sessions.snapshotOf(network)?.request
      return begun?.snapshot === snapshot
    }
    if (!isBegun() || (await this.#host.store.readPart(network, snapshot)) !== null || !isBegun()) return
    throw networkBusy(this.#host.name, network, `snapshot ${snapshot}`)
  }

  /** Ends what is under way, gates open; nothing begins any more. */
  async close(): Promise<void> {
    this.#catchUp.close()
    this.sessions.close()
    await this.#disks.close()
    for (const [network] of this.sessions.all()) {
      const preparation = this.sessions.preparationOf(network)
      preparation?.off.abort(stopping)
      await preparation?.ended
      const snapshot = this.sessions.snapshotOf(network)
      snapshot?.abort(stopping.report())
      await snapshot?.ended
      await this.restores.abandon(network)
    }
  }

  #datapathRestarted(error: Error): void {
    for (const [network] of this.sessions.all()) {
      this.sessions.snapshotOf(network)?.abort(restarted(error).report())
      // Its gates, and the channel state that waited behind them, are gone.
      void this.restores.abandon(network)
    }
  }

  #datapathEvent(event: DatapathEvent): void {
    if (event.kind === 'played') return
    const session = this.sessions.snapshotOf(event.network)
    switch (event.kind) {
      case 'closed':
        if (session?.request.epoch === event.epoch) session.channelsClosed(event.closures)
        return
      case 'early':
        if (session?.request.epoch === event.epoch) session.early()
        else this.#catchUp.early(event.network, event.epoch)
        return
      case 'peer':
        this.#catchUp.heard(event)
        return
      case 'broken':
        if (session?.request.epoch === event.epoch)
          session.abort(brokenChannel(this.#host.name, this.#portName(event.port), event.host).report())
        return
      case 'refused': {
        const port = this.#portName(event.port)
        const text = 'a peer’s control frames are refused: it speaks another version, or has another key or none'
        this.#host.log.warn({ network: event.network, port, reason: event.reason }, text)
        return
      }
      case 'trouble':
        this.#host.log.warn({ network: event.network, port: this.#portName(event.port) }, TROUBLES[event.trouble])
    }
  }

  #portName(index: number): string {
    return this.#host.ports.byIndex(index)?.name ?? `port-${index}`
  }
}
