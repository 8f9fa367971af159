// The bridges of this host that are taken over: taken and given back on request, taken anew by a daemon that starts,
// and whenever a bridge that the configuration names is there.

import { readFileSync } from 'node:fs'
import type { BridgeInfo, GivenBack, PortRules, Preflight } from '../../src/api/schemas.js'
import { asSnapswitchError, type SnapswitchError } from '../../src/errors/errors.js'
import { lockDevice } from '../../src/linux/device-lock.js'
import { findBridge } from './found.js'
import type { TakeoverHost } from './host.js'
import type { TakeOptions } from './options.js'
import { pairNames, removePair } from './pair.js'
import { noUplink, planTakeover } from './plan.js'
import type { BridgeRecord } from './record.js'
import { absent, given, notTaken, refuseOther, takenAlready } from './refusals.js'
import { TakenBridge } from './taken.js'

export type BridgeNotes = Required<Pick<Preflight, 'problems' | 'bridges'>>

/** Of the running kernel. */
export function bootOf(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
}

export class Bridges {
  readonly #host: TakeoverHost
  readonly #taken = new Map<string, { readonly bridge: TakenBridge; readonly unlock: () => void }>()
  /** Bridges that the configuration wants, by name, and why they are not taken. */
  #configured: ReadonlyMap<string, TakeOptions> = new Map()
  readonly #problems = new Map<string, SnapswitchError>()
  /** Of these, the ones that somebody has given back: they are the kernel's until the configuration is read again. */
  readonly #given = new Set<string>()
  #turn: Promise<unknown> = Promise.resolve()

  constructor(host: TakeoverHost) {
    this.#host = host
  }

  /**
   * Throws DEVICE_MISSING, BRIDGE_INVALID, BRIDGE_TAKEN, BRIDGE_UNSUPPORTED, BRIDGE_FILTERED, DEVICE_BUSY: nothing was
   * touched. What fails later is undone, and thrown. A bridge that the configuration names is taken as that says; it
   * throws WANTED_TWICE when `options` say something else.
   */
  take(name: string, options: TakeOptions = {}): Promise<BridgeInfo> {
    return this.#inTurn(async () => {
      const configured = this.#configured.get(name)
      if (configured !== undefined) refuseOther(name, configured, options)
      await this.#take(name, configured ?? options)
      return this.list().find(({ bridge }) => bridge === name)!
    })
  }

  async #take(name: string, options: TakeOptions, phase: 'taking' | 'retaking' = 'taking'): Promise<void> {
    const { links, log } = this.#host
    if (this.#taken.has(name)) throw takenAlready(name, 'this daemon')
    const found = await findBridge(links, name)
    const { link } = found
    const plan = planTakeover(found, { network: options.network, ignoreFilters: options.ignoreFilters ?? false })
    const devices = plan.ports.map(({ device }) => device)
    if (options.uplink !== undefined && !devices.includes(options.uplink)) throw noUplink(name, options.uplink, devices)
    const unlock = lockBridge(link.index, name)
    const record: BridgeRecord = {
      version: 1,
      bridge: link.name,
      index: link.index,
      boot: bootOf(),
      network: plan.network,
      ...pairNames(link),
      uplink: options.uplink ?? null,
      ignoreFilters: options.ignoreFilters ?? false,
      configured: this.#configured.has(name),
      phase,
    }
    const bridge = new TakenBridge(this.#host, plan, record)
    this.#taken.set(name, { bridge, unlock })
    try {
      await bridge.take()
    } catch (thrown) {
      this.#taken.delete(name)
      unlock()
      throw thrown
    }
    this.#problems.delete(name)
    this.#given.delete(name)
    for (const warning of plan.warnings) log.warn({ bridge: name }, warning)
    log.info({ bridge: name, network: plan.network, ports: plan.ports.length }, 'a bridge was taken over')
  }

  /**
   * Whether the configuration names it: it is the kernel's until that is read again then, or somebody takes it. Throws
   * BRIDGE_NOT_TAKEN, SNAPSHOT_BUSY: nothing was touched.
   */
  give(name: string): Promise<GivenBack> {
    return this.#inTurn(async () => {
      const one = this.#taken.get(name)
      // One that is lost is let go already: all that is left of it is what `status` says.
      if (one === undefined && !this.#configured.has(name) && this.#problems.delete(name)) return { configured: false }
      if (one === undefined) throw notTaken(name, [...this.#taken.keys()])
      await one.bridge.give()
      this.#forget(name)
      const configured = this.#configured.has(name)
      if (configured) this.#given.add(name)
      this.#host.log.info({ bridge: name, configured }, 'a bridge was given back')
      return { configured }
    })
  }

  #forget(name: string): void {
    this.#taken.get(name)?.unlock()
    this.#taken.delete(name)
  }

  /**
   * At the start: undoes what a killed daemon has left, and takes again what it had. What cannot be taken now is said,
   * and is the kernel's.
   */
  recover(): Promise<void> {
    return this.#inTurn(async () => {
      const { links, records, log } = this.#host
      for (const record of await records.all()) {
        const { bridge, network, uplink, ignoreFilters } = record
        if (record.boot === bootOf()) removePair(links, record)
        if (!this.#isToBeRetaken(record)) {
          await records.remove(bridge)
          continue
        }
        const before = { network, uplink: uplink ?? undefined, ignoreFilters }
        try {
          // Until it is taken again its record says that it is to be.
          await this.#take(bridge, this.#configured.get(bridge) ?? before, 'retaking')
        } catch (thrown) {
          await records.remove(bridge)
          this.#problems.set(bridge, asSnapswitchError(thrown))
          log.error({ err: thrown, bridge }, 'a bridge that was taken over cannot be taken again')
        }
      }
    })
  }

  #isToBeRetaken({ bridge, boot, index, phase, configured }: BridgeRecord): boolean {
    if (phase === 'taking' || phase === 'giving') return false
    if (boot !== bootOf() || this.#host.links.find(bridge)?.index !== index) return false
    return !configured || this.#configured.has(bridge)
  }

  /**
   * Bridges that are to be taken whenever they are there. `follow` does what that changes: one that was and is no more
   * is given back, and one that is taken becomes what is said of it.
   */
  configure(wanted: ReadonlyMap<string, TakeOptions>): void {
    this.#configured = wanted
    this.#given.clear()
  }

  /** Brings everything in line with what there is. Call it when devices or machines have changed; never throws. */
  follow(): Promise<void> {
    return this.#inTurn(async () => {
      for (const [name, { bridge }] of this.#taken) {
        const wanted = this.#configured.get(name)
        const stays = wanted === undefined ? !bridge.record.configured : !isAnother(bridge.record, wanted)
        if (stays && wanted !== undefined)
          await bridge.configure({ uplink: wanted.uplink ?? null, ignoreFilters: wanted.ignoreFilters ?? false })
        await bridge.follow()
        // One of the same name may be there again, and another one under an index of its own.
        if (bridge.problem?.code === 'BRIDGE_LOST' && this.#host.links.findByIndex(bridge.record.index) === null) {
          await bridge
            .give()
            .catch((thrown) => this.#host.log.error({ err: thrown, bridge: name }, 'it cannot be let go'))
          this.#problems.set(name, bridge.problem)
          this.#forget(name)
        } else if (!stays && (await bridge.giveWhenIdle())) this.#forget(name)
      }
      for (const [name, options] of this.#configured) await this.#takeConfigured(name, options)
    })
  }

  /** A bridge has changed while something is under way in its network: `follow` is wanted when that has ended. */
  get isPostponed(): boolean {
    return [...this.#taken.values()].some(({ bridge }) => bridge.isPostponed)
  }

  async #takeConfigured(name: string, options: TakeOptions): Promise<void> {
    if (this.#taken.has(name) || this.#given.has(name) || this.#host.links.find(name) === null) return
    try {
      await this.#take(name, options)
    } catch (thrown) {
      const error = asSnapswitchError(thrown)
      if (this.#problems.get(name)?.message === error.message) return
      this.#problems.set(name, error)
      this.#host.log.warn({ err: error, bridge: name }, 'a bridge of the configuration cannot be taken over')
    }
  }

  indexOf(network: string): number | null {
    const one = [...this.#taken.values()].find(({ bridge }) => bridge.record.network === network)
    return one?.bridge.record.index ?? null
  }

  join(index: number, port: { readonly index: number; readonly name: string }, rules?: PortRules): void {
    this.#byIndex(index)?.join(port, rules)
  }

  async addAll(ports: Parameters<TakenBridge['moveIn']>[0]): Promise<void> {
    for (const index of new Set(ports.map(({ bridge }) => bridge!)))
      await this.#byIndex(index)?.moveIn(ports.filter(({ bridge }) => bridge === index))
  }

  async removeAll(ports: readonly { readonly name: string; readonly bridge?: number }[]): Promise<void> {
    for (const index of new Set(ports.map(({ bridge }) => bridge!)))
      await this.#byIndex(index)?.moveOut(ports.filter(({ bridge }) => bridge === index).map(({ name }) => name))
  }

  #byIndex(index: number): TakenBridge | undefined {
    return [...this.#taken.values()].find(({ bridge }) => bridge.record.index === index)?.bridge
  }

  list(): BridgeInfo[] {
    const taken = [...this.#taken.values()].map(({ bridge: { record, problem, warnings } }) => ({
      bridge: record.bridge,
      network: record.network,
      taken: true,
      configured: record.configured,
      problem: problem?.report() ?? null,
      warnings: [...warnings],
    }))
    const others = [...new Set([...this.#configured.keys(), ...this.#problems.keys()])].filter(
      (name) => !this.#taken.has(name),
    )
    return [
      ...taken,
      ...others.map((bridge) => ({
        bridge,
        network: this.#configured.get(bridge)?.network ?? bridge,
        taken: false,
        configured: this.#configured.has(bridge),
        ...(this.#given.has(bridge)
          ? { given: true, problem: null }
          : { problem: (this.#problems.get(bridge) ?? absent(bridge)).report() }),
        warnings: [],
      })),
    ]
  }

  /** What a snapshot of a network must be told: machines that it would be without, and what else is wrong. */
  concerning(network: string): BridgeNotes {
    const taken = [...this.#taken.values()].filter(({ bridge }) => bridge.record.network === network)
    const own = this.list().filter((one) => one.network === network)
    return {
      problems: taken.flatMap(({ bridge }) => bridge.strays().map((problem) => problem.report())),
      bridges: own.flatMap(({ bridge, problem, given: isGiven }) =>
        problem !== null ? { bridge, problem } : isGiven === true ? { bridge, problem: given(bridge).report() } : [],
      ),
    }
  }

  /** Before the daemon ends: the kernel's bridges forward until the next one starts, without a gap. */
  close(): Promise<void> {
    return this.#inTurn(async () => {
      for (const [name, { bridge }] of this.#taken) {
        await bridge
          .rest()
          .catch((thrown) => this.#host.log.error({ err: thrown, bridge: name }, 'not given back whole'))
        this.#forget(name)
      }
    })
  }

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#turn.then(work)
    this.#turn = done.catch(() => undefined)
    return done
  }
}

/** Whether the bridge must be taken anew to be what is wanted: filters are looked at when it is taken. */
function isAnother(record: BridgeRecord, wanted: TakeOptions): boolean {
  const { network = record.network, ignoreFilters = false } = wanted
  return network !== record.network || (record.ignoreFilters && !ignoreFilters)
}

/** Throws BRIDGE_TAKEN. */
export function lockBridge(index: number, name: string): () => void {
  try {
    return lockDevice(index, name)
  } catch (thrown) {
    if (asSnapswitchError(thrown).code !== 'DEVICE_BUSY') throw thrown
    throw takenAlready(name, 'another daemon, or is a port of one')
  }
}
