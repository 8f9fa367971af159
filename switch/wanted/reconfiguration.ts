// Brings the host to what is wanted of it, at the start and whenever a source changes its mind: what is refused is
// refused before anything is touched, what did not change is not touched, and what fails half-way is taken back.

import { setTimeout as pause } from 'node:timers/promises'
import { asSnapswitchError, SnapswitchError } from '../../src/errors/errors.js'
import type { DaemonHost } from '../agent/host.js'
import type { Moves } from '../agent/host-records.js'
import type { Session, Sessions } from '../agent/sessions.js'
import type { NetworkSettings } from '../forwarding/network.js'
import { type Change, changesBetween, inWords, type Present, thingOf, touchedNetworks } from './changes.js'
import type { WantedState } from './state.js'
import { type PortMoves, requestOf, type Wanted, type WantedPort, withMoves, withValues } from './wanted.js'

/** How long what is under way in a network may take before a change of it is refused. */
const PATIENCE_MS = 10_000
const LOOK_MS = 20

type Reached = Pick<DaemonHost, 'name' | 'datapath' | 'ports' | 'machines' | 'epochs' | 'records' | 'log' | 'clock'>

/** Ports whose devices stay in a bridge (switch/takeover/): they are handed over, and back. */
export interface BridgedPorts {
  addAll(ports: readonly WantedPort[]): Promise<void>
  removeAll(ports: readonly WantedPort[]): Promise<void>
}

const isBridged = ({ bridge }: WantedPort) => bridge !== undefined

export class Reconfiguration {
  readonly #host: Reached
  /** Set before the first of them is wanted. */
  bridged: BridgedPorts | null = null
  readonly #state: WantedState
  readonly #sessions: Pick<Sessions, 'refusal' | 'occupy' | 'end'>
  readonly #defaults: NetworkSettings
  /** Networks that the datapath has. */
  readonly #open = new Map<string, NetworkSettings>()
  #turn: Promise<unknown> = Promise.resolve()

  /** `defaults`: of a network that no source has settings for. */
  constructor(
    host: Reached,
    state: WantedState,
    sessions: Pick<Sessions, 'refusal' | 'occupy' | 'end'>,
    defaults: NetworkSettings,
  ) {
    this.#host = host
    this.#state = state
    this.#sessions = sessions
    this.#defaults = defaults
  }

  /**
   * At the start, with what the state wants: looks at the devices, waits for the datapath, and opens everything. Throws
   * before anything is changed when a device is not right.
   */
  begin(moves: Moves, started: Promise<void>): Promise<void> {
    return this.#inTurn(async () => {
      const { ports, machines } = this.#host
      for (const [vm, spec] of Object.entries(moves.machines)) machines.set(vm, spec)
      const changes = changesBetween(this.#present(), this.#filled(withMoves(this.#state.all, moves)))
      ports.check(addedPorts(changes))
      await started
      await this.#perform(changes)
      for (const name of this.#open.keys()) ports.checkTrunkRoom(name)
    })
  }

  /**
   * What a source wants from now on; null: nothing more. A function is asked anew while something is under way that
   * may change the answer. Answers with what was changed, when it is done. What is under way in a network that it
   * touches is waited for, `patienceMs` at most. Throws PORT_EXISTS, NETWORK_UNKNOWN, WANTED_TWICE, DEVICE_BUSY,
   * DEVICE_MTU, DEVICE_UNSUPPORTED, FILES_SHORT, SNAPSHOT_BUSY: nothing was touched. What fails later is taken back,
   * and thrown. What cannot be taken back is named; the next change of any source puts it right.
   */
  set(source: string, wanted: Wanted | null | (() => Wanted), patienceMs = PATIENCE_MS): Promise<readonly Change[]> {
    return this.#inTurn(() => this.#change(source, typeof wanted === 'function' ? wanted : () => wanted, patienceMs))
  }

  async #change(source: string, wanted: () => Wanted | null, patienceMs: number): Promise<readonly Change[]> {
    const { ports, machines, records, log } = this.#host
    const before = this.#state.all
    const plan = () => {
      const supposed = this.#state.supposing(source, wanted())
      const next = withMoves(supposed.all, this.#moves())
      return { ...supposed, changes: changesBetween(this.#present(), this.#filled(next)) }
    }
    const { planned, release } = await this.#hold(plan, patienceMs)
    try {
      const { changes, all, accept } = planned
      if (changes.length === 0) {
        accept()
        return changes
      }
      const removed = new Set(changes.flatMap((one) => (one.kind === 'port removed' ? [one.port.name] : [])))
      ports.check(addedPorts(changes), removed)
      const present = this.#present()
      machines.configure(all.machines)
      this.#state.changing(portNames(changes), ports.all())
      try {
        await this.#perform(changes)
      } catch (thrown) {
        machines.configure(before.machines)
        const failure = await this.#takeBack(present, thrown)
        this.#state.failed(ports.all())
        throw failure
      }
      accept()
      log.info({ source, changes: changes.map(inWords) }, 'the configuration has changed')
      await records.writeMoves(() => ({ machines: machines.moved(), ...this.#moves() }))
      return changes
    } finally {
      release()
    }
  }

  #moves(): PortMoves {
    return this.#state.moves(this.#host.ports.all())
  }

  #present(): Present {
    const { ports, machines } = this.#host
    return {
      networks: new Map(this.#open),
      ports: new Map(
        ports.all().map((entry): [string, WantedPort] => {
          return [entry.name, { ...requestOf(entry), ownsDevice: entry.ownsDevice }]
        }),
      ),
      machines: machines.configured,
    }
  }

  #filled(wanted: Wanted): Present {
    const networks = [...wanted.networks].map(([name, settings]): [string, NetworkSettings] => [
      name,
      withValues(settings ?? this.#defaults, wanted.values?.get(name) ?? {}),
    ])
    return { ...wanted, networks: new Map(networks) }
  }

  /**
   * The plan as it is when nothing is under way in the networks that it touches, and nothing begins there until
   * `release` is called. Throws SNAPSHOT_BUSY when something is under way there for too long.
   */
  async #hold<T extends { readonly changes: readonly Change[] }>(
    plan: () => T,
    patienceMs: number,
  ): Promise<{ readonly planned: T; readonly release: () => void }> {
    const { clock, ports } = this.#host
    const limit = clock.now().ms + patienceMs
    for (;;) {
      const planned = plan()
      const touched = [...touchedNetworks(planned.changes, ports.all())].filter((network) => this.#open.has(network))
      const refusal = touched.map((network) => this.#sessions.refusal(network)).find((found) => found !== null)
      if (refusal === undefined) {
        const session: Session = { name: 'a change of the configuration', work: { kind: 'changing' } }
        for (const network of touched) this.#sessions.occupy(network, session)
        const release = () => {
          for (const network of touched) this.#sessions.end(network, session)
        }
        return { planned, release }
      }
      if (clock.now().ms >= limit) throw refusal as SnapswitchError
      await pause(LOOK_MS)
    }
  }

  /** `failed` is told of each step that fails, and the others are made all the same; unless it throws. */
  async #perform(changes: readonly Change[], failed: (thrown: unknown) => void = raise): Promise<void> {
    const { ports, epochs } = this.#host
    const step = async (work: () => Promise<unknown> | undefined) => {
      try {
        await work()
      } catch (thrown) {
        failed(thrown)
      }
    }
    const removed = changes.flatMap((change) => (change.kind === 'port removed' ? [change.port] : []))
    await step(() => this.bridged?.removeAll(removed.filter(isBridged)))
    for (const change of changes) await step(() => this.#make(change))
    // After a reboot devices come when they come, and the TAPs of machines with these.
    const added = addedPorts(changes)
    const own = added.filter((port) => !isBridged(port))
    await step(() => ports.addAllOrAwait(own, (network) => epochs.get(network)))
    await step(() => this.bridged?.addAll(added.filter(isBridged)))
  }

  /** Ports are added together, and those that stay in a bridge by it. */
  async #make(change: Change): Promise<void> {
    const { datapath, ports, epochs } = this.#host
    switch (change.kind) {
      case 'port removed':
        // Whoever runs a machine there goes on to.
        if (!isBridged(change.port)) await ports.remove(change.port.name, true)
        return
      case 'network removed':
        // The datapath would forget a network that a port has kept, and not have it when it is started again.
        if (ports.all().some(({ network }) => network === change.network))
          throw new SnapswitchError('INTERNAL', `network ${change.network} has ports yet`, 'Please report this.')
        await datapath.removeNetwork(change.network)
        this.#open.delete(change.network)
        return
      case 'network added': {
        const { network, settings } = change
        const options = { network, host: this.#host.name, ...settings }
        await datapath.addNetwork({ options, epoch: epochs.get(network), fence: epochs.fence(network) })
        this.#open.set(network, settings)
        return
      }
      case 'network changed':
        await datapath.configure(change.network, change.settings)
        this.#open.set(change.network, change.settings)
        return
      case 'port changed':
        await ports.change(change.port, epochs.get(change.port.network))
        return
    }
  }

  /** Whatever fails of it, all else is taken back. Returns what to throw for the change that has failed. */
  async #takeBack(before: Present, thrown: unknown): Promise<unknown> {
    const failures: unknown[] = []
    await this.#perform(changesBetween(this.#present(), before), (failure) => void failures.push(failure))
    const left = changesBetween(this.#present(), before)
    if (left.length === 0) return thrown
    const [err] = failures
    this.#host.log.error({ err, changes: left.map(inWords) }, 'a change that has failed cannot be taken back')
    const { code, message, action } = asSnapswitchError(thrown)
    const things = [...new Set(left.map(thingOf))].join(', ')
    return new SnapswitchError(
      code,
      `${message}; it could not be taken back, and these are not as they were: ${things}`,
      `${action} Then run: snapswitch reload`,
      thrown,
    )
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(work)
    this.#turn = done.catch(() => undefined)
    return done
  }
}

function addedPorts(changes: readonly Change[]): WantedPort[] {
  return changes.flatMap((change) => (change.kind === 'port added' ? [change.port] : []))
}

function portNames(changes: readonly Change[]): string[] {
  return changes.flatMap((change) => ('port' in change ? [change.port.name] : []))
}

function raise(thrown: unknown): never {
  throw thrown
}
