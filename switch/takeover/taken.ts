// One bridge that is taken over, from `take` to `give`: its ports become ports of a network (handovers.ts) and are
// given back. What joins the bridge meanwhile follows, and what leaves it leaves.

import { isDeepStrictEqual } from 'node:util'
import type { PortRules } from '../../src/api/schemas.js'
import { asSnapswitchError, SnapswitchError } from '../../src/errors/errors.js'
import { type BridgePort, setPortConduct, setPortVlans } from '../../src/linux/bridge.js'
import type { PortRequest } from '../ports/table.js'
import { AT_ONCE, BridgePorts, isBusy, NO_FILTERS } from './bridge-ports.js'
import type { BypassedPort } from './bypass.js'
import { lookAt } from './found.js'
import { PortHandovers } from './handovers.js'
import type { TakeoverHost } from './host.js'
import { makePair, pairMtu, removePair } from './pair.js'
import { noUplink, type Plan, refuseBridge } from './plan.js'
import type { BridgeRecord } from './record.js'
import { conductOf } from './rules.js'
import { giveAll, type Performers, type TakeoverStep, takeAll } from './steps.js'
import type { Watchdog } from './watchdog.js'

/** What may change while the bridge is taken. */
export interface ConfiguredBridge {
  readonly uplink: string | null
  readonly ignoreFilters: boolean
}

export class TakenBridge {
  record: BridgeRecord
  /** Why it is not as it should be: the bridge is gone, a port could not be taken. */
  problem: SnapswitchError | null = null
  /** It has changed while a snapshot or restore is under way, and is followed after that. */
  isPostponed = false
  readonly #host: TakeoverHost
  readonly #plan: Plan
  readonly #filtersVlans: boolean
  readonly #ports: BridgePorts
  readonly #handovers: PortHandovers
  readonly #phaseAtFirst: BridgeRecord['phase']
  #watchdog: Watchdog | null = null

  constructor(host: TakeoverHost, plan: Plan, record: BridgeRecord) {
    this.#host = host
    this.#plan = plan
    this.#filtersVlans = plan.hostRules !== undefined
    this.#ports = new BridgePorts(host, plan, () => this.record)
    this.#handovers = new PortHandovers(host, record, this.#filtersVlans, (ifindex) => this.#ports.forget(ifindex))
    this.record = record
    this.#phaseAtFirst = record.phase
  }

  get warnings(): readonly string[] {
    return this.#plan.warnings
  }

  /** Throws what hinders it; then all is as it was. */
  take(): Promise<void> {
    return takeAll(this.#performers, (step, error) => this.#notUndone(step, error))
  }

  /**
   * Nothing is lost, and the kernel's bridge has everything again. Waits for what is under way as `want` does. Throws
   * SNAPSHOT_BUSY: nothing was touched.
   */
  async give(patienceMs?: number): Promise<void> {
    await this.#ports.none(patienceMs)
    await this.#write('giving')
    await this.#undoAll(this.#performers)
  }

  /** The configuration gives it back; the same when what is under way in its network has ended. */
  async giveWhenIdle(): Promise<boolean> {
    try {
      await this.give(AT_ONCE)
      return true
    } catch (thrown) {
      this.isPostponed = isBusy(thrown)
      return false
    }
  }

  /** The configuration names the bridge, and says this of it; `follow` brings the ports in line with it. */
  async configure({ uplink, ignoreFilters }: ConfiguredBridge): Promise<void> {
    const record = { ...this.record, uplink, ignoreFilters, configured: true }
    if (isDeepStrictEqual(record, this.record)) return
    this.record = record
    await this.#host.records
      .write(record)
      .catch((thrown) => this.#host.log.error({ err: thrown, bridge: record.bridge }, 'it cannot be written down'))
  }

  /** The same without asking, until the next daemon starts. */
  async rest(): Promise<void> {
    await this.#handovers.moveOut(this.#handovers.ports().map(({ name }) => name))
    await this.#write('resting')
    const none = { do: () => undefined, undo: () => undefined }
    await this.#undoAll({ ...this.#performers, ports: none, network: none, record: none })
  }

  async #undoAll(performers: Performers): Promise<void> {
    const failures: unknown[] = []
    await giveAll(performers, (step, error) => {
      this.#notUndone(step, error)
      failures.push(error)
    })
    if (failures.length > 0) throw asSnapswitchError(failures[0])
  }

  #notUndone(step: TakeoverStep, error: unknown): void {
    const { bridge } = this.record
    this.#host.log.error({ err: error, bridge, step }, 'a step of a takeover could not be undone')
  }

  async #write(phase: BridgeRecord['phase']): Promise<void> {
    this.record = { ...this.record, phase }
    await this.#host.records.write(this.record)
  }

  get #performers(): Performers {
    const { links, records } = this.#host
    const { record } = this
    return {
      record: { do: () => this.#write(this.#phaseAtFirst), undo: () => records.remove(record.bridge) },
      pair: {
        do: () => {
          this.#watchdog = makePair(links, links.get(record.bridge), record, this.#filtersVlans)
        },
        undo: () => {
          removePair(links, record)
          this.#watchdog?.end()
        },
      },
      network: { do: () => this.#ports.open(), undo: () => this.#ports.close() },
      bypass: { do: () => this.#handovers.open(), undo: () => this.#handovers.close() },
      ports: { do: () => this.#ports.takeAll(), undo: () => this.#ports.none() },
      confirm: { do: () => this.#write('taken'), undo: () => undefined },
    }
  }

  /** `BridgePorts` asks the daemon for ports, and the daemon has them brought in here. */
  moveIn(requests: readonly PortRequest[]): Promise<void> {
    return this.#handovers.moveIn(requests)
  }

  moveOut(names: readonly string[]): Promise<void> {
    return this.#handovers.moveOut(names)
  }

  /** Machines behind devices of the bridge that cannot be ports: a snapshot would be without them. */
  strays(): SnapswitchError[] {
    return this.#ports.strays()
  }

  /** The device of a restored machine comes into the bridge: it is kept from the bridge before it speaks. */
  join(port: BypassedPort, rules?: PortRules): void {
    const { links } = this.#host
    links.change(port.index, { master: this.record.index })
    const { conduct, vlans } = conductOf(rules)
    setPortConduct(links, port.index, conduct)
    if (vlans !== null && this.#filtersVlans) setPortVlans(links, port.index, vlans)
    this.#handovers.keepOut(port)
    links.change(port.index, { up: true })
  }

  /**
   * Brings the ports in line with the bridge's: what has joined it is taken, what has left it goes. Call it when
   * devices or machines have changed, and when what is under way in the network has ended; never throws. Until then the
   * bridge forwards for what has joined, and what has left is a port without frames.
   */
  async follow(): Promise<void> {
    const { log } = this.#host
    const { bridge } = this.record
    this.isPostponed = false
    try {
      await this.#follow()
      if (this.problem !== null) log.info({ bridge }, 'a bridge that was taken over is as it should be again')
      this.problem = null
    } catch (thrown) {
      const problem = asSnapswitchError(thrown)
      if (isBusy(problem)) {
        this.isPostponed = true
        return
      }
      if (this.problem?.message !== problem.message)
        log.warn({ err: problem, bridge }, 'a bridge that was taken over is not as it should be')
      this.problem = problem
    }
  }

  async #follow(): Promise<void> {
    const { links } = this.#host
    const { index, bridge, hostEnd } = this.record
    const link = links.findByIndex(index)
    if (link === null) {
      await this.#ports.none(AT_ONCE)
      throw lost(`bridge ${bridge} was deleted`)
    }
    const now = lookAt(links, link)
    const here = now.ports.filter((port) => port.link.name !== hostEnd)
    if (!now.ports.some((port) => port.link.name === hostEnd)) {
      await this.#ports.none(AT_ONCE)
      throw lost(`${hostEnd}, the host’s end of bridge ${bridge}, was taken out of it`)
    }
    this.#followMtu(here)
    const own = now.settings.vlanFiltering ? (now.vlans.get(index) ?? null) : null
    if (own !== null) this.#ports.followHost(own)
    await this.#ports.follow(this.#handovers.ports().map(({ ifindex }) => ifindex))
    for (const port of here) this.#handovers.keepOutStill(port.link)
    if (link.name !== bridge) {
      throw lost(
        `bridge ${bridge} is called ${link.name} now`,
        `Rename it back: ip link set ${link.name} name ${bridge}`,
      )
    }
    if (this.#ports.refused !== null) throw this.#ports.refused
    const { uplink } = this.record
    const devices = here.map((port) => port.link.name)
    if (uplink !== null && !devices.includes(uplink)) throw noUplink(bridge, uplink, devices)
    // What would have been refused, and has come since: the switch goes on without it.
    refuseBridge({ ...now, filters: NO_FILTERS })
  }

  #followMtu(here: readonly BridgePort[]): void {
    const { links } = this.#host
    const mtu = pairMtu(here.map(({ link }) => link))
    for (const name of [this.record.switchEnd, this.record.hostEnd]) {
      const end = links.find(name)
      if (end !== null && end.mtu !== mtu) links.change(end.index, { mtu })
    }
  }
}

function lost(message: string, action?: string): SnapswitchError {
  const otherwise = 'Give it back with `snapswitch give`, and take it again when it is whole.'
  return new SnapswitchError('BRIDGE_LOST', message, action ?? otherwise)
}
