// Restores on this host, as the coordinator asks for them: check, load, pause, switch, resume or abort; and what they
// have changed of the host's machines and ports, on disk, so that a restarted daemon finds it again.

import type {
  RestoreAborted,
  RestoreCheck,
  RestoreLoaded,
  RestorePause,
  RestorePaused,
  RestoreRequest,
  RestoreResumed,
  RestoreSwitched,
} from '../../../src/api/schemas.js'
import { SnapswitchError } from '../../../src/errors/errors.js'
import { sleep } from '../../../src/runtime/clock.js'
import type { WantedView } from '../../wanted/wanted.js'
import type { DiskKeeper } from '../disks/keeper.js'
import { passEpoch } from '../gates.js'
import type { Host } from '../host.js'
import type { Moves } from '../host-records.js'
import { staleEpoch } from '../refusals.js'
import type { Session, Sessions } from '../sessions.js'
import { checkRestore } from './check.js'
import { RestoreSession } from './session.js'

/** A restore that has ended with machines that run, or that stand still. */
interface EndedRestore {
  readonly snapshot: string
  readonly resumed: RestoreResumed['resumed']
  /** Former machines that it could not resume when it was called off. */
  readonly standing: readonly string[]
  /** All of them run. */
  readonly complete: boolean
}

/** How long a session that is ending is waited for. */
const LEAVING_MS = 3000
const LEAVING_STEP_MS = 50

export class Restores {
  readonly #host: Host
  readonly #sessions: Sessions
  readonly #keeper: Pick<DiskKeeper, 'letGo' | 'soon'>
  readonly #wanted: Pick<WantedView, 'moves'>
  /** The last one per network: what was asked may be asked again, because the answer got lost. */
  readonly #ended = new Map<string, EndedRestore>()
  readonly #outcomes = new Map<string, { done: number; undone: number }>()
  /** The same of the switch on a host that gets no machines. */
  readonly #switched = new Map<string, { readonly snapshot: string; readonly answer: RestoreSwitched }>()
  /** Called when a restore that was called off has left something on record. */
  onLeft: () => void = () => undefined

  constructor(
    host: Host,
    sessions: Sessions,
    wanted: Pick<WantedView, 'moves'>,
    keeper: Pick<DiskKeeper, 'letGo' | 'soon'>,
  ) {
    this.#keeper = keeper
    this.#host = host
    this.#sessions = sessions
    this.#wanted = wanted
  }

  /** Restores since the daemon began. */
  outcomes(network: string): { readonly done: number; readonly undone: number } {
    return this.#outcomes.get(network) ?? { done: 0, undone: 0 }
  }

  #count(network: string, outcome: 'done' | 'undone'): void {
    const before = this.outcomes(network)
    this.#outcomes.set(network, { ...before, [outcome]: before[outcome] + 1 })
  }

  async check(network: string, request: RestoreRequest): Promise<RestoreCheck> {
    this.#sessions.check(network)
    const check = await checkRestore(this.#host, network, request)
    const refusals = [...otherNetworks(request)].map((other) => this.#sessions.portRefusal(other))
    for (const refusal of [...refusals, this.#sessions.refusal(network)]) {
      if (refusal !== null) check.problems.push(refusal.report())
    }
    return check
  }

  async load(network: string, snapshot: string, request: RestoreRequest): Promise<RestoreLoaded> {
    this.#sessions.check(network)
    const others = otherNetworks(request)
    const under = this.#sessionOf(network, snapshot)
    if (under !== null) return under.load()
    for (const other of others) {
      const refusal = this.#sessions.portRefusal(other)
      if (refusal !== null) throw refusal
    }
    const { restore, session } = this.#begin(network, snapshot, request, others)
    try {
      await this.#keeper.letGo(request.members.map(({ vm }) => vm))
      return await restore.load()
    } catch (thrown) {
      await this.#callOff(network, session, restore)
      throw thrown
    }
  }

  #begin(network: string, snapshot: string, request: RestoreRequest, others: ReadonlySet<string>) {
    const restore = new RestoreSession(this.#host, network, snapshot, request)
    const session = this.#sessions.begin(network, {
      name: `restore of ${snapshot}`,
      work: { kind: 'restore', restore, others },
    })
    this.#ended.delete(network)
    this.#switched.delete(network)
    restore.onAbandoned = (resumed) => this.#abandoned(network, session, restore, resumed)
    restore.onLeft = () => this.onLeft()
    restore.onMovedAway = (vms) => this.#movedAway(vms)
    restore.onRegistered = () => this.#saveMoves()
    return { restore, session }
  }

  /** What runs here of the restore's machines stands still; a host that gets none begins with this. */
  async pause(network: string, snapshot: string, order: RestorePause): Promise<RestorePaused> {
    this.#sessions.check(network)
    const under = this.#sessionOf(network, snapshot)
    if (under !== null) {
      await this.#keeper.letGo(order.machines)
      return under.pause(order)
    }
    const highest = this.#host.epochs.get(network)
    if (order.epoch <= highest) throw staleEpoch(order.epoch, highest)
    const request = { epoch: order.epoch, members: [], channels: [], deadlineMs: order.deadlineMs }
    const { restore, session } = this.#begin(network, snapshot, request, new Set())
    try {
      await this.#keeper.letGo(order.machines)
      return await restore.pause(order)
    } catch (thrown) {
      await this.#callOff(network, session, restore)
      throw thrown
    }
  }

  /** All hosts are ready: the new machines take their places. */
  async switchOver(network: string, snapshot: string, deadlineMs: number): Promise<RestoreSwitched> {
    const restore = this.#sessionOf(network, snapshot)
    const session = this.#sessions.of(network)
    if (restore === null || session === null) {
      const before = this.#switched.get(network)
      if (before?.snapshot === snapshot) return before.answer
      throw notUnderWay(this.#host.name, network, snapshot)
    }
    const answer = await restore.switchOver(deadlineMs)
    // A host that gets no machines is fenced, and that is all.
    if (restore.isEmpty) {
      await restore.finish()
      this.#sessions.end(network, session)
      this.#switched.set(network, { snapshot, answer })
    }
    return answer
  }

  /** Machines that live elsewhere from now on: their ports, also those in other networks, go. */
  async #movedAway(vms: readonly string[]): Promise<void> {
    const { ports, machines } = this.#host
    const moved = machines.moved()
    const gone = vms.filter((vm) => moved[vm] !== undefined || ports.ofMachine(vm).length > 0)
    for (const vm of gone) {
      for (const port of ports.ofMachine(vm)) await ports.remove(port.name)
      machines.delete(vm)
    }
    if (gone.length > 0) await this.#saveMoves()
  }

  async resume(network: string, snapshot: string): Promise<RestoreResumed> {
    const restore = this.#sessionOf(network, snapshot)
    const session = this.#sessions.of(network)
    if (restore === null || session === null) {
      const before = this.#ended.get(network)
      if (before?.snapshot === snapshot && before.complete) return { resumed: before.resumed }
      throw notUnderWay(this.#host.name, network, snapshot)
    }
    // When a guest does not resume the session stays: the coordinator may ask again, or abort.
    const answer = await restore.resume()
    this.#sessions.end(network, session)
    this.#ended.set(network, { snapshot, resumed: answer.resumed, standing: [], complete: true })
    this.#count(network, 'done')
    this.#keeper.soon()
    return answer
  }

  /**
   * Ends what was loaded and never ran; harmless when nothing was. Machines that run already, run on. Former ones that
   * could not be resumed are named, and tried again.
   */
  async abort(network: string, snapshot: string, epoch: number): Promise<RestoreAborted> {
    if (this.#sessionOf(network, snapshot) !== null) await this.abandon(network)
    // Or a step of it that comes late would begin it again.
    await passEpoch(this.#host, network, epoch)
    const before = this.#ended.get(network)
    if (before?.snapshot !== snapshot) return { running: [] }
    const { resumed, standing } = before
    return { running: resumed.map(({ vm }) => vm), ...(standing.length === 0 ? {} : { standing: [...standing] }) }
  }

  /** Undoes a restore that is under way, as far as its machines do not run; harmless when none is. */
  async abandon(network: string): Promise<void> {
    const session = this.#sessions.of(network)
    if (session?.work.kind === 'restore') await this.#callOff(network, session, session.work.restore)
  }

  /** Never rejects. */
  async #callOff(network: string, session: Session, restore: RestoreSession): Promise<void> {
    await this.#abandoned(network, session, restore, await restore.abort())
  }

  /** Never rejects. */
  async #abandoned(
    network: string,
    session: Session,
    { snapshot, standing }: RestoreSession,
    resumed: RestoreResumed['resumed'],
  ): Promise<void> {
    // Several may have called it off at once.
    if (this.#sessions.of(network) !== session) return
    this.#count(network, 'undone')
    if (resumed.length + standing.length > 0) this.#ended.set(network, { snapshot, resumed, standing, complete: false })
    this.#sessions.end(network, session)
    this.#keeper.soon()
    await this.#saveMoves().catch((thrown) => this.#host.log.error({ err: thrown }, 'cannot save the moves'))
  }

  /**
   * What machines had here that a restore has taken elsewhere is needed by nobody; not so of one that is here after
   * all. `released`: contents that no snapshot has any more.
   */
  async left(network: string, vms: readonly string[], released: readonly string[]): Promise<void> {
    this.#sessions.check(network)
    const { machines, ports, disks, store } = this.#host
    await store.images.release(released)
    // The restore's own session may be about to end here.
    const { clock } = this.#host
    const limit = clock.now().ms + LEAVING_MS
    const isBusy = (vm: string) => this.#sessions.machines().has(vm)
    while (vms.some(isBusy) && clock.now().ms < limit) await sleep(clock, LEAVING_STEP_MS)
    for (const vm of vms) {
      if (ports.ofMachine(vm).length > 0 || isBusy(vm) || (await machines.isThere(vm))) {
        this.#host.log.warn({ vm }, 'a machine that lives elsewhere is not gone from here yet: its files stay')
        continue
      }
      await disks.moveAway(vm)
    }
    this.#keeper.soon()
  }

  #sessionOf(network: string, snapshot: string): RestoreSession | null {
    const restore = this.#sessions.restoreOf(network)
    return restore?.snapshot === snapshot ? restore : null
  }

  /** What restores have changed, so that a restarted daemon finds it again. */
  #saveMoves(): Promise<void> {
    return this.#host.records.writeMoves(() => this.#moves())
  }

  #moves(): Moves {
    const { machines, ports } = this.#host
    return { machines: machines.moved(), ...this.#wanted.moves(ports.all()) }
  }
}

function notUnderWay(host: string, network: string, snapshot: string): SnapswitchError {
  return new SnapswitchError(
    'SNAPSHOT_UNKNOWN',
    `no restore of ${network}/${snapshot} is loaded on ${host}`,
    'Restore again.',
  )
}

function otherNetworks(request: RestoreRequest): Set<string> {
  const all = request.members.flatMap((member) => member.ports.flatMap((port) => port.network ?? []))
  return new Set(all)
}
