// The production coordinator in virtual time: its users, its catalogue, which outlives it, and its way to the hosts
// (agents.ts).

import { Coordinator as Product } from '../../coordinator/coordinator.js'
import { ConfiguredNetworks } from '../../coordinator/networks.js'
import type { ManifestStore } from '../../coordinator/store/catalogue.js'
import type { Manifest } from '../../src/api/schemas.js'
import { asSnapswitchError, type ErrorReport, SnapswitchError } from '../../src/errors/errors.js'
import { type Clock, sleep } from '../../src/runtime/clock.js'
import { agentsOf } from './agents.js'
import { silent } from './daemon.js'
import { networkName } from './networks.js'
import type { Order } from './scenario.js'
import { EPOCH_MS } from './worker.js'
import type { World } from './world.js'

const STORE = 63
/** Who is told that the network is busy asks again. */
const ASK_AGAIN_MS = 20

/** How an order ended. */
export interface Outcome {
  readonly order: Order
  readonly name: string
  readonly startedAt: number
  readonly endedAt: number
  readonly error: ErrorReport | null
}

export class Coordinator {
  readonly world: World
  readonly catalogue: ManifestStore
  alive = true
  /** Until it is up. */
  starting = false
  calls = 0
  /** Networks whose restore has been told to switch. */
  readonly pastBarrier = new Set<string>()
  readonly #product: Product
  /** What is under way: orders, and the recovery. */
  readonly #work = new Set<string>()
  /** The last order of each network. */
  readonly #last = new Map<number, Promise<void>>()
  readonly #waiting: (() => void)[] = []
  #stores = 0

  constructor(world: World) {
    this.world = world
    this.catalogue = this.#makeCatalogue()
    world.planted.coordinator?.(this)
    const hosts = Object.fromEntries(world.hosts.map(({ name }) => [name, { socket: name }]))
    const networks = Object.fromEntries(world.networks.map((network) => [networkName(network), { hosts }]))
    this.#product = new Product({
      networks: new ConfiguredNetworks(networks, (network) => agentsOf(this, network)),
      catalogue: this.catalogue,
      logger: silent,
      version: '1',
      clock: this.clock,
    })
  }

  get busy(): string | null {
    if (this.starting) return 'starting'
    const [what = null] = this.#work
    return what
  }

  /** It is up: what a former one left is put right, and what has been waiting begins. */
  open(): void {
    this.starting = false
    this.#doing('recovery', this.#product.recover())
    for (const act of this.#waiting.splice(0)) act()
  }

  end(): void {
    this.alive = false
  }

  take(order: Order, nth: number): void {
    if (this.#work.size > 0) this.world.marks.add('snapshot on the heels of another')
    const { network = 0 } = order
    const act = () => {
      // Who restores waits for the snapshot.
      const before = order.kind === 'restore' ? this.#last.get(network) : undefined
      const work = (before ?? Promise.resolve()).then(() => this.#perform(order, `s${nth}`))
      this.#last.set(network, work)
      this.#doing(`${order.kind} ${nth}`, work)
    }
    if (this.starting) this.#waiting.push(act)
    else act()
  }

  #doing(what: string, work: Promise<void>): void {
    this.#work.add(what)
    this.world.time.promised = true
    work.then(
      () => this.#work.delete(what),
      (thrown) => this.world.crashedWith(thrown),
    )
  }

  async #perform(order: Order, name: string): Promise<void> {
    const { world } = this
    const network = networkName(order.network ?? 0)
    const startedAt = world.time.now
    const error = await this.#ask(order, network, name).then(
      () => null,
      (thrown: unknown) => asSnapswitchError(thrown).report(),
    )
    if (error?.code === 'INTERNAL' && error.message.includes('defect')) world.crashedWith(error)
    world.outcomes.push({ order, name, startedAt, endedAt: world.time.now, error })
    world.note('coord', `${order.kind} ${error === null ? 'done' : `failed: ${error.message}`}`)
  }

  async #ask(order: Order, network: string, name: string): Promise<void> {
    if (order.kind === 'restore') return this.#restore(network, order)
    const { policy, recorded } = this.world.scenario
    const request = { network, name, policy, record: recorded, deadlineMs: order.deadline, wait: true }
    await this.#product.create(request, () => undefined)
  }

  async #restore(network: string, order: Order & { kind: 'restore' }): Promise<void> {
    const { world } = this
    const limit = world.time.now + order.deadline
    for (;;) {
      try {
        return await this.#restoreOnce(network, order)
      } catch (thrown) {
        if (asSnapswitchError(thrown).code !== 'SNAPSHOT_BUSY' || world.time.now >= limit) throw thrown
        await sleep(this.clock, ASK_AGAIN_MS)
      }
    }
  }

  async #restoreOnce(network: string, order: Order & { kind: 'restore' }): Promise<void> {
    const { world, pastBarrier } = this
    const hosts = world.hosts.map(({ name }) => name)
    const manifest = [...world.catalogue.values()]
      .filter((one) => one.network === network && one.state === 'complete')
      .pop()
    if (manifest === undefined) throw new SnapswitchError('SNAPSHOT_UNKNOWN', 'there is no complete snapshot', 'None.')
    const placement = Object.fromEntries(
      manifest.parts.flatMap((part) =>
        part.members.map(({ vm }) => [vm, hosts[(hosts.indexOf(part.host) + order.shift) % hosts.length]]),
      ),
    )
    const guests = Object.keys(placement).map((vm) => world.guestOf(vm))
    const before = guests.filter(({ alive }) => alive).map((guest) => ({ guest, life: guest.life }))
    const request = { placement, replace: true, deadlineMs: order.deadline }
    try {
      await this.#product.restore(network, manifest.name, request, () => undefined)
      pastBarrier.delete(network)
    } catch (thrown) {
      // Another one may be under way, past its barrier or not.
      if (asSnapswitchError(thrown).code === 'SNAPSHOT_BUSY') throw thrown
      const crashes = new Set(world.scenario.faults.map((fault) => (fault.kind === 'crash machine' ? fault.vm : -1)))
      // Until the barrier an undone restore has ended nothing.
      if (!pastBarrier.has(network))
        for (const { guest, life } of before)
          if (guest.life !== life && !crashes.has(guest.index))
            world.violation(4, `${guest.name} was ended by a restore that has not come to its barrier`)
      pastBarrier.delete(network)
      throw thrown
    }
  }

  #makeCatalogue(): ManifestStore {
    const { world } = this
    const { catalogue } = world
    const write = (act: () => void) =>
      new Promise<void>((resolve) => {
        this.clock.after(world.wait(STORE, 0, this.#stores++, world.scenario.pace.store), () => {
          world.coordinatorStep()
          act()
          this.clock.after(0, resolve)
        })
      })
    return {
      write: (manifest: Manifest) =>
        write(() => {
          catalogue.set(manifest.name, manifest)
          world.note('coord', `manifest ${manifest.name} e${manifest.epoch} ${manifest.state}`)
        }),
      remove: (_network, name) => write(() => catalogue.delete(name)),
      read: async (network, name) => {
        const manifest = catalogue.get(name)
        if (manifest === undefined) throw new SnapswitchError('SNAPSHOT_UNKNOWN', `${network}/${name}`, 'None.')
        return manifest
      },
      list: async () =>
        [...catalogue.values()].map((manifest) => ({
          network: manifest.network,
          name: manifest.name,
          manifest,
          error: null,
        })),
      maxEpoch: async (network) =>
        Math.max(0, ...[...catalogue.values()].map((one) => (one.network === network ? one.epoch : 0))),
    }
  }

  readonly clock: Clock = {
    now: () => {
      const { now } = this.world.time
      return { ms: now, wallUs: Math.round((EPOCH_MS + now) * 1000) }
    },
    after: (ms, act) => {
      const entry = this.world.time.after(ms, () => {
        if (!this.alive) return
        this.world.time.promised = true
        act()
      })
      return () => {
        entry.act = null
      }
    },
  }
}
