// The coordinator's calls to the hosts' agents: they take time, may not arrive, and end with an answer, an error or the
// timeout; the agent may go on with what it was asked for all the same.

import type { Agents, Call } from '../../coordinator/agents.js'
import type { LocalEvent } from '../../src/api/schemas.js'
import { asSnapswitchError, SnapswitchError } from '../../src/errors/errors.js'
import type { Agent } from '../../switch/agent/agent.js'
import { ANSWER_SHARE } from '../../switch/agent/routes.js'
import type { Coordinator } from './coordinator.js'
import type { Daemon } from './daemon.js'
import { networkName } from './networks.js'

const REQUEST = 61
const REPLY = 62

type Done<T> = (result: T) => void
type Failed = (error: unknown) => void

/** One network's agents. What the simulation never asks for is not there. */
export function agentsOf(coordinator: Coordinator, network: string): Agents {
  const { world } = coordinator
  const call = <T>(host: string, { timeoutMs }: Call, act: (agent: Agent, daemon: Daemon) => Promise<T>) =>
    new Promise<T>((resolve, reject) => {
      const end = once(coordinator, timeoutMs, reject)
      reach(coordinator, host, (back) => {
        const answer = connection(coordinator, host, back, (error) => end(() => reject(error)))
        if (answer === null) return
        const { daemon, close } = answer
        act(daemon.agent as Agent, daemon).then(
          (result) => {
            close()
            back(() => end(() => resolve(result)))
          },
          (error) => {
            noteBusy(coordinator, error)
            close()
            back(() => end(() => reject(error)))
          },
        )
      })
    })
  const unused = (): never => {
    throw new Error('nobody asks a virtual agent for that')
  }
  return {
    preflight: (host, { timeoutMs, ...rest }) =>
      call(host, { timeoutMs, ...rest }, (agent, { clock }) =>
        agent.preflight(network, clock.now().ms + timeoutMs * (1 - ANSWER_SHARE)),
      ),
    prepare: (host, snapshot, request, options) =>
      call(host, options, async (agent) => {
        await agent.prepare({ network, snapshot, ...request })
      }),
    take: (host, snapshot, { timeoutMs }) => {
      world.note('coord', `TAKE → ${host}`)
      return streamed((listener, failed) => {
        const end = once(coordinator, timeoutMs, failed)
        reach(coordinator, host, (back) => {
          const lost = (error: SnapswitchError) => end(() => failed(error))
          const answer = connection(coordinator, host, back, lost)
          if (answer === null) return
          const { daemon, close } = answer
          checkEarly(daemon, network)
          const tell = async () => {
            for await (const event of (daemon.agent as Agent).take(network, snapshot)) {
              const last = event.type === 'done' || event.type === 'failed'
              back(() => (last ? end(() => listener(event)) : end.isOver() || listener(event)))
            }
          }
          tell()
            .catch((error) => back(() => end(() => failed(error))))
            .finally(close)
        })
      })
    },
    discard: (host, snapshot, epoch, options) =>
      call(host, options, (agent) => agent.discard(network, snapshot, epoch)),
    restoreCheck: (host, _snapshot, request, options) =>
      call(host, options, (agent) => agent.restores.check(network, request)),
    transfer: ({ file, to }, _snapshot, options) =>
      call(to, options, (_agent, { drive, host }) => drive.durably(() => host.disk.files.add(file.digest))),
    restoreLoad: (host, snapshot, request, options) =>
      call(host, options, (agent) => agent.restores.load(network, snapshot, request)),
    restorePause: (host, snapshot, order, options) =>
      call(host, options, (agent) => agent.restores.pause(network, snapshot, order)),
    restoreSwitch: (host, snapshot, options) => {
      coordinator.pastBarrier.add(network)
      return call(host, options, (agent) => agent.restores.switchOver(network, snapshot, options.timeoutMs))
    },
    restoreResume: (host, snapshot, options) =>
      call(host, options, (agent) => agent.restores.resume(network, snapshot)),
    restoreAbort: (host, snapshot, epoch, options) =>
      call(host, options, (agent) => {
        world.marks.add('restore undone')
        return agent.restores.abort(network, snapshot, epoch)
      }),
    left: (host, { vms, released }, options) =>
      call(host, options, (agent) => agent.restores.left(network, vms ?? [], released ?? [])),
    ports: (host, options) =>
      call(host, options, async (_agent, { ports }) =>
        ports.all().map(({ name, network, device, kind, vm, mtu }) => ({
          name,
          network,
          device,
          kind,
          vm,
          mtu,
          epoch: null,
          gate: 'open' as const,
          up: true,
          waiting: false,
          problem: null,
          counters: noCounters,
        })),
      ),
    close: async () => undefined,
    health: unused,
    verify: unused,
    rehearse: unused,
    flatten: unused,
    adoptFlat: unused,
    part: unused,
    deleteSnapshot: unused,
    prune: unused,
    download: unused,
  }
}

/** Ends a call but once, while the coordinator lives; by itself when the time is up. */
function once(coordinator: Coordinator, timeoutMs: number, late: Failed) {
  let over = false
  const end = (act: () => void) => {
    if (over || !coordinator.alive) return
    over = true
    timer.act = null
    coordinator.world.time.promised = true
    act()
  }
  end.isOver = () => over || !coordinator.alive
  const timer = coordinator.world.time.after(timeoutMs, () =>
    end(() => late(new SnapswitchError('REQUEST_TIMEOUT', 'no answer in time', 'None.'))),
  )
  return end
}

/** The daemon there, as long as it lives; null, and the caller is told, when none answers. */
function connection(
  coordinator: Coordinator,
  host: string,
  back: (act: () => void) => void,
  lost: (error: SnapswitchError) => void,
): { daemon: Daemon; close: () => void } | null {
  const { world } = coordinator
  const { daemon } = world.hostOf(host)
  const broken = () =>
    back(() => lost(new SnapswitchError('SOCKET_UNREACHABLE', `the switch of ${host} does not answer`, 'None.')))
  if (daemon === null || !daemon.listening) {
    broken()
    return null
  }
  world.step(daemon.host)
  world.time.promised = true
  return { daemon, close: daemon.whenEnded(broken) }
}

/** The way to a host and back: takes time, keeps the order of what goes back, loses everything while it is cut off. */
function reach(coordinator: Coordinator, host: string, there: (back: (act: () => void) => void) => void): void {
  const { world } = coordinator
  const { time, scenario } = world
  const to = world.hostOf(host)
  const nth = coordinator.calls++
  const cutOff = () =>
    scenario.faults.some(
      (fault) =>
        fault.kind === 'cut off' && fault.host === to.index && time.now >= fault.at && time.now < fault.at + fault.for,
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
      time.at(backAt, () => {
        if (!coordinator.alive) return
        world.coordinatorStep()
        time.promised = true
        act()
      })
    })
  })
}

/** Events as they come, for whoever iterates, until `done`, `failed` or an error. */
async function* streamed(
  begin: (listener: Done<LocalEvent>, failed: Failed) => void,
): AsyncGenerator<LocalEvent, void, undefined> {
  const waiting: (LocalEvent | { error: unknown })[] = []
  let wake: () => void = () => undefined
  const add = (piece: LocalEvent | { error: unknown }) => {
    waiting.push(piece)
    wake()
  }
  begin(add, (error) => add({ error }))
  for (;;) {
    const piece = waiting.shift()
    if (piece === undefined) {
      await new Promise<void>((resolve) => {
        wake = resolve
      })
      continue
    }
    if (!('type' in piece)) throw piece.error
    yield piece
    if (piece.type === 'done' || piece.type === 'failed') return
  }
}

/** Frames from after a cut must not wait for TAKE: they ask for it. */
function checkEarly({ world, host, worker, agent }: Daemon, network: string): void {
  const number = world.networks.find((one) => networkName(one) === network) ?? 0
  const isPrepared = agent?.sessions.snapshotOf(network)?.state === 'prepared'
  const since = isPrepared ? (worker?.earlySince[number] ?? null) : null
  if (since !== null && world.time.now - since > 1 + 2 * world.scenario.pace.poll)
    world.violation(4, `early frames have waited on ${host.name} for a TAKE instead of asking for the cut`)
}

function noteBusy({ world }: Coordinator, error: unknown): void {
  const { code, message } = asSnapswitchError(error)
  if (code === 'SNAPSHOT_BUSY' && message.includes(' of network ')) world.marks.add('busy with another network')
}

const noCounters = {
  rxFrames: 0,
  rxBytes: 0,
  txFrames: 0,
  txBytes: 0,
} as never
