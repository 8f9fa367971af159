// The coordinator in virtual time: performs what the production sequences decide, as coordinator/runner.ts and
// coordinator/coordinator.ts do it, over calls that take time and may not arrive. Its catalogue outlives it.

import {
  beginRestore,
  type RestoreCall,
  type RestoreEffect,
  type RestoreEvent,
  restoreTable,
} from '../../coordinator/sequence/restore.js'
import { planRestore } from '../../coordinator/sequence/restore-plan.js'
import {
  beginSnapshot,
  type SnapshotCall,
  type SnapshotEffect,
  type SnapshotEvent,
  snapshotTable,
} from '../../coordinator/sequence/snapshot.js'
import { failedManifest } from '../../coordinator/sequence/snapshot-rules.js'
import { type Instant, retryDelayMs, type Step, step, type Table } from '../../coordinator/sequence/table.js'
import { contentOf } from '../../src/api/files.js'
import type { LocalEvent, Manifest, RestorePaused, RestoreSwitched } from '../../src/api/schemas.js'
import type { ErrorReport } from '../../src/errors/errors.js'
import type { Agent, Answer } from './agent.js'
import { networkName, networkNumber } from './networks.js'
import type { Order } from './scenario.js'
import { EPOCH_MS } from './worker.js'
import { problem, type World } from './world.js'

const REQUEST = 61
const REPLY = 62
const STORE = 63
const discardCallMs = 5_000
const recoveryAttempts = 5

/** How an order ended. */
export interface Outcome {
  readonly order: Order
  readonly name: string
  readonly startedAt: number
  readonly endedAt: number
  readonly error: ErrorReport | null
}

interface Waiting {
  readonly networks: readonly number[]
  readonly what: string
  act(release: () => void): void
}

interface Desk<Event> {
  feed(event: Event): void
  later(ms: number, act: () => void): void
}

export class Coordinator {
  readonly world: World
  alive = true
  /** Until it is up. */
  starting = false
  /** What is under way, by network: an order, or the recovery. */
  private readonly held = new Map<number, string>()
  private readonly waiting: Waiting[] = []
  private calls = 0
  private stores = 0

  constructor(world: World) {
    this.world = world
    world.planted.coordinator?.(this)
  }

  get busy(): string | null {
    if (this.starting) return 'starting'
    const [what = null] = this.held.values()
    return what
  }

  /** Puts right what a former one left. */
  start(): void {
    for (const network of this.world.networks) {
      const unfinished = this.manifests(network).filter(isUnfinished)
      if (unfinished.length > 0)
        this.exclusively([network], 'recovery', (release) => this.discardAll(unfinished, recoveryAttempts, release))
    }
  }

  /** It is up: first what a former one left, then what has been waiting. */
  open(): void {
    this.starting = false
    const { held } = this
    this.start()
    if (held.size === 0) this.beginWaiting()
  }

  end(): void {
    this.alive = false
  }

  take(order: Order, nth: number): void {
    const { network = 0 } = order
    this.exclusively([network], `${order.kind} ${nth}`, (release) => {
      const startedAt = this.world.time.now
      const name = `s${nth}`
      const end = (error: ErrorReport | null) => {
        const endedAt = this.world.time.now
        this.world.outcomes.push({ order, name, startedAt, endedAt, error })
        this.world.note('coord', `${order.kind} ${error === null ? 'done' : `failed: ${error.message}`}`)
        release()
      }
      if (order.kind === 'restore') return this.restore(network, order, end)
      const unfinished = this.manifests(network).filter(isUnfinished)
      this.discardAll(unfinished, 1, () => this.snapshot(network, name, order.deadline, end))
    })
  }

  private snapshot(network: number, name: string, deadlineMs: number, end: (error: ErrorReport | null) => void): void {
    const { world } = this
    const hosts = world.hosts.map((host) => host.name)
    const maxKnownEpoch = Math.max(0, ...this.manifests(network).map((manifest) => manifest.epoch))
    const input = {
      network: networkName(network),
      name,
      policy: world.scenario.policy,
      version: '1',
      hosts,
      maxKnownEpoch,
      deadlineMs,
    }
    const perform = (effect: SnapshotEffect, desk: Desk<SnapshotEvent>): boolean => {
      const call = <T>(
        host: string,
        what: SnapshotCall,
        timeoutMs: number,
        act: Act<T>,
        event: (result: T) => SnapshotEvent,
      ) =>
        this.call(network, host, timeoutMs, act, {
          done: (result) => desk.feed(event(result)),
          refused: (error) => desk.feed({ type: 'agentFailed', host, call: what, error }),
        })
      switch (effect.do) {
        case 'preflight': {
          const { host, timeoutMs } = effect
          call(
            host,
            'preflight',
            timeoutMs,
            (agent, answer: Answer<SnapshotPreflight>) => agent.preflight(answer),
            (preflight) => ({
              type: 'preflighted',
              host,
              preflight,
            }),
          )
          return false
        }
        case 'prepare': {
          const { host, request, timeoutMs } = effect
          const act: Act<null> = (agent, answer) => agent.prepare({ snapshot: name, ...request }, answer)
          call(host, 'prepare', timeoutMs, act, () => ({ type: 'prepared', host }))
          return false
        }
        case 'take': {
          const { host, timeoutMs } = effect
          world.note('coord', `TAKE → ${host}`)
          this.stream(
            network,
            host,
            timeoutMs,
            (agent, listener) => agent.take(name, listener),
            (event) => desk.feed({ type: 'local', host, event }),
            (error) => desk.feed({ type: 'agentFailed', host, call: 'take', error }),
          )
          return false
        }
        case 'discard': {
          const { host, epoch, delayMs, timeoutMs } = effect
          desk.later(delayMs, () =>
            call(
              host,
              'discard',
              timeoutMs,
              (agent, answer: Answer<null>) => agent.discard(name, epoch, answer),
              () => ({
                type: 'discarded',
                host,
              }),
            ),
          )
          return false
        }
        case 'store':
          this.store(effect.manifest, () => desk.feed({ type: 'stored' }))
          return false
        case 'timer':
          desk.later(effect.afterMs, () => desk.feed({ type: 'deadline', timer: effect.timer }))
          return false
        case 'progress':
          return false
        case 'finish':
          end(effect.outcome.type === 'complete' ? null : effect.outcome.error)
          return true
      }
    }
    this.run(snapshotTable, beginSnapshot(input, this.instant()), perform)
  }

  private restore(network: number, order: Order & { kind: 'restore' }, end: (error: ErrorReport | null) => void): void {
    const { world } = this
    const hosts = world.hosts.map((host) => host.name)
    const manifests = this.manifests(network)
    const manifest = manifests.filter(({ state }) => state === 'complete').pop()
    if (manifest === undefined) {
      end(problem('SNAPSHOT_UNKNOWN', 'there is no complete snapshot'))
      return
    }
    const placement = Object.fromEntries(
      manifest.parts.flatMap((part) =>
        part.members.map(({ vm }) => [vm, hosts[(hosts.indexOf(part.host) + order.shift) % hosts.length] as string]),
      ),
    )
    const { name } = manifest
    const plan = planRestore(manifest, placement, hosts)
    const maxKnownEpoch = Math.max(0, ...manifests.map(({ epoch }) => epoch))
    const guests = plan.members.map(({ part }) => world.guestOf(part.vm))
    const before = guests.filter(({ alive }) => alive).map((guest) => ({ guest, life: guest.life }))
    const crashes = new Set(world.scenario.faults.flatMap((fault) => (fault.kind === 'crash machine' ? fault.vm : [])))
    let past = false
    const input = { manifest, plan, replace: true, endFirst: false, maxKnownEpoch, deadlineMs: order.deadline }
    const perform = (effect: RestoreEffect, desk: Desk<RestoreEvent>): boolean => {
      const call = <T>(
        host: string,
        what: RestoreCall,
        timeoutMs: number,
        act: Act<T>,
        event: (result: T) => RestoreEvent,
      ) =>
        this.call(network, host, timeoutMs, act, {
          done: (result) => desk.feed(event(result)),
          refused: (error) => desk.feed({ type: 'agentFailed', host, call: what, error }),
        })
      switch (effect.do) {
        case 'preflight': {
          const { host, timeoutMs } = effect
          const act: Act<{ preflight: SnapshotPreflight; holds: string[] }> = (agent, answer) =>
            agent.preflight({
              done: (preflight) => {
                const holds = agent.members.map((guest) => guest.name)
                answer.done({ preflight, holds })
              },
              refused: answer.refused,
            })
          call(host, { do: 'preflight' }, timeoutMs, act, (result) => ({ type: 'preflighted', host, ...result }))
          return false
        }
        case 'check': {
          const { host, purpose, request, timeoutMs } = effect
          const act: Act<ReturnType<Agent['checkRestore']>> = (agent, answer) =>
            answer.done(agent.checkRestore(request))
          call(host, { do: 'check', purpose }, timeoutMs, act, (check) => ({ type: 'checked', host, purpose, check }))
          return false
        }
        case 'transfer': {
          const { file, to, timeoutMs } = effect
          const act: Act<null> = (agent, answer) =>
            agent.durably(
              () => agent.daemon.host.disk.files.add(file.digest),
              () => answer.done(null),
            )
          call(to, { do: 'transfer', content: contentOf(file) }, timeoutMs, act, () => ({
            type: 'transferred',
            host: to,
            content: contentOf(file),
          }))
          return false
        }
        case 'load': {
          const { host, request, timeoutMs } = effect
          const act: Act<{ loaded: string[]; channelFrames: number }> = (agent, answer) =>
            agent.loadRestore(name, request, answer)
          call(host, { do: 'load' }, timeoutMs, act, (loaded) => ({ type: 'loaded', host, loaded }))
          return false
        }
        case 'pause': {
          const { host, order, timeoutMs } = effect
          const act: Act<RestorePaused> = (agent, answer) => agent.pauseRestore(name, order, answer)
          call(host, { do: 'pause' }, timeoutMs, act, (paused) => ({ type: 'paused', host, paused }))
          return false
        }
        case 'switch': {
          const { host, delayMs, timeoutMs } = effect
          past = true
          const act: Act<RestoreSwitched> = (agent, answer) => agent.switchRestore(name, answer)
          desk.later(delayMs, () =>
            call(host, { do: 'switch' }, timeoutMs, act, (switched) => ({ type: 'switched', host, switched })),
          )
          return false
        }
        case 'resume': {
          const { host, delayMs, timeoutMs } = effect
          const act: Act<{ resumed: { vm: string; atUs: number }[] }> = (agent, answer) =>
            agent.resumeRestore(name, answer)
          desk.later(delayMs, () =>
            call(host, { do: 'resume' }, timeoutMs, act, (resumed) => ({ type: 'resumed', host, resumed })),
          )
          return false
        }
        case 'abort': {
          const { host, epoch, delayMs, timeoutMs } = effect
          const act: Act<null> = (agent, answer) => agent.abortRestore(name, epoch, answer)
          desk.later(delayMs, () =>
            call(host, { do: 'abort' }, timeoutMs, act, () => ({ type: 'aborted', host, running: [] })),
          )
          return false
        }
        case 'timer':
          desk.later(effect.afterMs, () => desk.feed({ type: 'deadline', timer: effect.timer }))
          return false
        case 'progress':
          return false
        case 'finish':
          // Until the barrier an undone restore has ended nothing.
          if (!past)
            for (const { guest, life } of before)
              if (guest.life !== life && !crashes.has(guest.index))
                world.violation(4, `${guest.name} was ended by a restore that has not come to its barrier`)
          end(effect.outcome.type === 'done' ? null : effect.outcome.error)
          return true
      }
    }
    this.run(restoreTable, beginRestore(input, this.instant()), perform)
  }

  /** Steps a sequence until an effect finishes it; events one at a time, in the order they come. */
  private run<State extends string, Data, Event extends { type: string }, Effect>(
    table: Table<State, Data, Event, Effect>,
    first: Step<State, Data, Effect>,
    perform: (effect: Effect, desk: Desk<Event>) => boolean,
  ): void {
    let at: { state: State; data: Data } = first
    let ended = false
    let stepping = false
    const queue: Event[] = []
    const take = (next: Step<State, Data, Effect>) => {
      at = next
      for (const effect of next.effects) {
        if (perform(effect, desk)) {
          ended = true
          return
        }
      }
    }
    const desk: Desk<Event> = {
      later: (ms, act) => {
        if (ms === 0) return act()
        this.after(ms, () => {
          if (!ended) act()
        })
      },
      feed: (event) => {
        if (ended || !this.alive) return
        queue.push(event)
        if (stepping) return
        stepping = true
        for (let event = queue.shift(); event !== undefined && !ended; event = queue.shift()) {
          this.world.coordinatorStep()
          take(step(table, at, event, this.instant()))
        }
        stepping = false
      },
    }
    stepping = true
    take(first)
    stepping = false
  }

  private discardAll(manifests: readonly Manifest[], attempts: number, done: () => void): void {
    const [manifest, ...others] = manifests
    if (manifest === undefined) {
      done()
      return
    }
    const { world } = this
    const hosts = manifest.state === 'pending' ? world.hosts.map((host) => host.name) : (manifest.undiscarded ?? [])
    const untold: string[] = []
    let awaited = hosts.length
    const end = () => {
      const error = manifest.error ?? problem('SNAPSHOT_FAILED', 'the coordinator ended while it was being taken')
      this.store(failedManifest(manifest, manifest.finishedAt ?? '', error, untold), () =>
        this.discardAll(others, attempts, done),
      )
    }
    if (awaited === 0) {
      end()
      return
    }
    for (const host of hosts) {
      const attempt = (nth: number) =>
        this.call(
          networkNumber(manifest.network),
          host,
          discardCallMs,
          (agent, answer: Answer<null>) => agent.discard(manifest.name, manifest.epoch, answer),
          {
            done: () => {
              if (--awaited === 0) end()
            },
            refused: () => {
              if (nth < attempts) return void this.after(retryDelayMs(nth + 1), () => attempt(nth + 1))
              untold.push(host)
              if (--awaited === 0) end()
            },
          },
        )
      attempt(1)
    }
  }

  private store(manifest: Manifest, done: () => void): void {
    const { world } = this
    this.after(world.wait(STORE, 0, this.stores++, world.scenario.pace.store), () => {
      world.coordinatorStep()
      world.catalogue.set(manifest.name, manifest)
      world.note('coord', `manifest ${manifest.name} e${manifest.epoch} ${manifest.state}`)
      this.after(0, done)
    })
  }

  /** One call of an agent. It ends with an answer, an error, or the timeout; the agent may go on with it all the same. */
  private call<T>(network: number, host: string, timeoutMs: number, act: Act<T>, answer: Answer<T>): void {
    let over = false
    const once = (end: () => void) => {
      if (over || !this.alive) return
      over = true
      timer.act = null
      end()
    }
    const timer = this.after(timeoutMs, () =>
      once(() => answer.refused(problem('REQUEST_TIMEOUT', 'no answer in time'))),
    )
    this.reach(host, (back) => {
      const daemon = this.world.hostOf(host).daemon
      const lost = problem('SOCKET_UNREACHABLE', `the switch of ${host} does not answer`)
      if (daemon === null) return back(() => once(() => answer.refused(lost)))
      this.world.step(daemon.host)
      const stop = daemon.whenEnded(() => back(() => once(() => answer.refused(lost))))
      act(daemon.agents[network], {
        done: (result) => {
          stop()
          back(() => once(() => answer.done(result)))
        },
        refused: (error) => {
          stop()
          back(() => once(() => answer.refused(error)))
        },
      })
    })
  }

  /** A call that answers with events, in order, until `done` or `failed`. */
  private stream(
    network: number,
    host: string,
    timeoutMs: number,
    act: (agent: Agent, listener: (event: LocalEvent) => void) => boolean,
    listener: (event: LocalEvent) => void,
    failed: (error: ErrorReport) => void,
  ): void {
    let over = false
    const once = (end: () => void) => {
      if (over || !this.alive) return
      over = true
      timer.act = null
      end()
    }
    const timer = this.after(timeoutMs, () => once(() => failed(problem('REQUEST_TIMEOUT', 'no end in time'))))
    this.reach(host, (back) => {
      const daemon = this.world.hostOf(host).daemon
      const lost = problem('SOCKET_UNREACHABLE', `the switch of ${host} broke off`)
      if (daemon === null) return back(() => once(() => failed(lost)))
      this.world.step(daemon.host)
      const stop = daemon.whenEnded(() => back(() => once(() => failed(lost))))
      const known = act(daemon.agents[network], (event) => {
        const last = event.type === 'done' || event.type === 'failed'
        if (last) stop()
        back(() => {
          if (over || !this.alive) return
          if (last) once(() => listener(event))
          else listener(event)
        })
      })
      if (known) return
      stop()
      back(() => once(() => failed(problem('SNAPSHOT_UNKNOWN', 'not prepared here'))))
    })
  }

  /** The way to a host and back: takes time, keeps the order of what goes back, loses everything while it is cut off. */
  private reach(host: string, there: (back: (act: () => void) => void) => void): void {
    const { world } = this
    const { time, scenario } = world
    const to = world.hostOf(host)
    const nth = this.calls++
    const cutOff = () =>
      scenario.faults.some(
        (fault) =>
          fault.kind === 'cut off' &&
          fault.host === to.index &&
          time.now >= fault.at &&
          time.now < fault.at + fault.for,
      )
    let backAt = 0
    let answers = 0
    let broken = false
    time.after(world.wait(REQUEST, to.index, nth, scenario.pace.call), () => {
      if (cutOff()) return
      there((act) => {
        // A stream that has lost a piece is of no use any more.
        if (cutOff()) broken = true
        if (broken) return
        backAt = Math.max(backAt, time.now + world.wait(REPLY, nth, answers++, scenario.pace.call))
        time.at(backAt, act)
      })
    })
  }

  /** In the order of the calls, as far as they are for the same network. */
  private exclusively(networks: readonly number[], what: string, act: (release: () => void) => void): void {
    this.waiting.push({ networks, what, act })
    if (!this.starting) this.beginWaiting()
  }

  private beginWaiting(): void {
    for (let next = this.nextFree(); next !== undefined; next = this.nextFree()) {
      const { networks, what, act } = next
      for (const network of networks) this.held.set(network, what)
      act(() => {
        for (const network of networks) this.held.delete(network)
        if (this.waiting.length > 0) this.world.marks.add('snapshot on the heels of another')
        this.beginWaiting()
      })
    }
  }

  private nextFree(): Waiting | undefined {
    const taken = new Set(this.held.keys())
    for (const [at, one] of this.waiting.entries()) {
      if (!one.networks.some((network) => taken.has(network))) return this.waiting.splice(at, 1)[0]
      for (const network of one.networks) taken.add(network)
    }
    return undefined
  }

  private manifests(network: number): Manifest[] {
    return [...this.world.catalogue.values()].filter((manifest) => manifest.network === networkName(network))
  }

  private after(ms: number, act: () => void) {
    return this.world.time.after(ms, () => {
      if (this.alive) act()
    })
  }

  private instant(): Instant {
    const { now } = this.world.time
    return { ms: now, wallUs: Math.round((EPOCH_MS + now) * 1000) }
  }
}

type SnapshotPreflight = Parameters<Parameters<Agent['preflight']>[0]['done']>[0]
type Act<T> = (agent: Agent, answer: Answer<T>) => void

function isUnfinished(manifest: Manifest): boolean {
  return manifest.state === 'pending' || (manifest.undiscarded ?? []).length > 0
}
