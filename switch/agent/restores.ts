// Restores on this host, as the coordinator asks for them: check, load, resume or abort; and what they have changed of the
// host's machines and ports, on disk, so that a restarted daemon finds it again.

import type {
  PortRecord,
  RemoveMemberAnswer,
  RestoreAborted,
  RestoreCheck,
  RestoreLoaded,
  RestoreRequest,
  RestoreResumed,
} from '../../src/api/schemas.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import type { DiskKeeper } from './disks/keeper.js'
import type { Host } from './host.js'
import type { Moves } from './host-records.js'
import { checkRestore } from './restore-check.js'
import { RestoreSession } from './restore-session.js'
import type { Session, Sessions } from './sessions.js'

/** A restore that has ended with machines that run. */
interface EndedRestore {
  readonly snapshot: string
  readonly resumed: RestoreResumed['resumed']
  /** All of them run. */
  readonly complete: boolean
}

export class Restores {
  private readonly host: Host
  private readonly sessions: Sessions
  private readonly keeper: Pick<DiskKeeper, 'letGo' | 'soon'>
  private readonly configuredPorts: ReadonlySet<string>
  /** The last one per network: what was asked may be asked again, because the answer got lost. */
  private readonly ended = new Map<string, EndedRestore>()

  constructor(
    host: Host,
    sessions: Sessions,
    configuredPorts: ReadonlySet<string>,
    keeper: Pick<DiskKeeper, 'letGo' | 'soon'>,
  ) {
    this.keeper = keeper
    this.host = host
    this.sessions = sessions
    this.configuredPorts = configuredPorts
  }

  async check(network: string, request: RestoreRequest): Promise<RestoreCheck> {
    this.sessions.check(network)
    const check = await checkRestore(this.host, network, request)
    const refusals = [...otherNetworks(request)].map((other) => this.sessions.portRefusal(other))
    for (const refusal of [...refusals, this.sessions.refusal(network)]) {
      if (refusal !== null) check.problems.push(refusal.report())
    }
    return check
  }

  async load(network: string, snapshot: string, request: RestoreRequest): Promise<RestoreLoaded> {
    this.sessions.check(network)
    const others = otherNetworks(request)
    for (const other of others) {
      const refusal = this.sessions.portRefusal(other)
      if (refusal !== null) throw refusal
    }
    const restore = new RestoreSession(this.host, network, snapshot, request)
    const name = `restore of ${snapshot}`
    const session = this.sessions.begin(network, { name, snapshot: null, restore, others })
    this.ended.delete(network)
    restore.onAbandoned = (resumed) => this.abandoned(network, session, resumed)
    try {
      await this.keeper.letGo(restore.machines)
      const answer = await restore.load()
      // A host that gets no machines is fenced, and that is all.
      if (request.members.length === 0) this.sessions.end(network, session)
      return answer
    } catch (thrown) {
      this.sessions.end(network, session)
      throw thrown
    }
  }

  async resume(network: string, snapshot: string): Promise<RestoreResumed> {
    const session = this.sessionOf(network, snapshot)
    if (session === null) {
      const before = this.ended.get(network)
      if (before?.snapshot === snapshot && before.complete) return { resumed: before.resumed }
      throw new SnapswitchError(
        'SNAPSHOT_UNKNOWN',
        `no restore of ${network}/${snapshot} is loaded on ${this.host.name}`,
        'Restore again.',
      )
    }
    // When a guest does not resume the session stays: the coordinator may ask again, or abort.
    await session.restore.registerMachines()
    await this.saveMoves()
    const answer = await session.restore.resume()
    this.sessions.end(network, session)
    this.ended.set(network, { snapshot, resumed: answer.resumed, complete: true })
    this.keeper.soon()
    return answer
  }

  /** Ends what was loaded and never ran; harmless when nothing was. Machines that run already, run on. */
  async abort(network: string, snapshot: string): Promise<RestoreAborted> {
    const session = this.sessionOf(network, snapshot)
    if (session !== null) await this.abandon(network, session)
    const before = this.ended.get(network)
    return { running: before?.snapshot === snapshot ? before.resumed.map(({ vm }) => vm) : [] }
  }

  /** Undoes a restore that is under way, as far as its machines do not run. */
  async abandon(network: string, session: RestoreUnderWay): Promise<void> {
    await this.abandoned(network, session, await session.restore.abort())
  }

  /** Never rejects. */
  private async abandoned(network: string, session: Session, resumed: RestoreResumed['resumed']): Promise<void> {
    const snapshot = session.restore!.snapshot
    if (resumed.length > 0) this.ended.set(network, { snapshot, resumed, complete: false })
    this.sessions.end(network, session)
    this.keeper.soon()
    await this.saveMoves().catch((thrown) => this.host.log.error({ err: thrown }, 'cannot save the moves'))
  }

  /** A machine leaves this host: it is ended if it runs, and its ports, also those in other networks, go. */
  async removeMember(network: string, vm: string): Promise<RemoveMemberAnswer> {
    const { host } = this
    const refusal = this.sessions.refusal(network)
    if (refusal !== null) throw refusal
    this.ended.delete(network)
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

  /** What machines had here that a restore has taken elsewhere is needed by nobody; not so of one that is here after all. */
  async left(network: string, vms: readonly string[]): Promise<void> {
    this.sessions.check(network)
    const { machines, ports, disks } = this.host
    for (const vm of vms) {
      if (ports.ofMachine(vm).length > 0 || this.sessions.machines().has(vm) || (await machines.isThere(vm))) continue
      await disks.moveAway(vm)
    }
    this.keeper.soon()
  }

  private sessionOf(network: string, snapshot: string): RestoreUnderWay | null {
    const session = this.sessions.of(network)
    return isRestore(session) && session.restore.snapshot === snapshot ? session : null
  }

  /** What restores have changed, so that a restarted daemon finds it again. */
  private saveMoves(): Promise<void> {
    return this.host.records.writeMoves(() => this.moves())
  }

  private moves(): Moves {
    const { host } = this
    const present = new Set(host.ports.all().map((port) => port.name))
    return {
      machines: host.machines.moved(),
      ports: host.ports
        .all()
        .filter((port) => !this.configuredPorts.has(port.name))
        .map(({ name, network, device, kind, vm, ownsDevice }) => ({ name, network, device, kind, vm, ownsDevice })),
      gone: [...this.configuredPorts].filter((name) => !present.has(name)),
    }
  }
}

export type RestoreUnderWay = Session & { readonly restore: RestoreSession }

export function isRestore(session: Session | null): session is RestoreUnderWay {
  return session !== null && session.restore !== null
}

function otherNetworks(request: RestoreRequest): Set<string> {
  const all = request.members.flatMap((member) => member.ports.flatMap((port) => port.network ?? []))
  return new Set(all)
}
