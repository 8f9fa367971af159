// Opens gates in virtual time, in portions and at the pace at which guests read, as switch/agent/gates.ts does.

import type { Daemon } from './daemon.js'
import type { Nic } from './guest.js'

const STEP_MS = 1
const OPEN_MS = 2000

/** A machine's ports in other networks than the one that is cut: frames wait while it stands still, and that is all. */
export function gateOthers(
  daemon: Daemon,
  [nic, ...others]: readonly Nic[],
  done: () => void,
  failed: (reason: string) => void,
): void {
  if (nic === undefined) {
    done()
    return
  }
  const { worker } = daemon
  const { snapshots } = worker.forwarders[nic.network]
  const next = () => gateOthers(daemon, others, done, failed)
  worker.call('gate', () => snapshots.gate([nic.index], worker.now, true), next, failed)
}

/** Failed at the first that fails, as all at once are. */
export function releaseOthers(
  daemon: Daemon,
  nics: readonly Nic[],
  done: () => void,
  failed: (reason: string) => void,
): void {
  let awaited = nics.length
  if (awaited === 0) done()
  for (const nic of nics) {
    const opened = () => {
      if (--awaited === 0) done()
    }
    const broke = (reason: string) => {
      if (awaited > 0) failed(reason)
      awaited = 0
    }
    releaseGates(daemon, nic.network, [nic.index], opened, broke)
  }
}

export function releaseGates(
  daemon: Daemon,
  network: number,
  ports: readonly number[],
  done: () => void,
  failed: (reason: string) => void,
): void {
  const { worker, world, host } = daemon
  const { snapshots, byIndex } = worker.forwarders[network]
  const most = ports.map((port) => room(daemon, port))
  worker.call(
    'release',
    () => {
      const waited = ports.some((port) => byIndex[port]?.closedForOther && byIndex[port]?.hold.length > 0)
      if (waited) world.marks.add('frame waited in another network')
      snapshots.release(ports, worker.now, most)
      const whose = new Set(ports.map((port) => world.nics[port].guest.name))
      world.note(host.name, `gate of ${[...whose].join(' ')} opens`)
      return snapshots.opening().filter((port) => ports.includes(port))
    },
    (opening) => drain(daemon, network, opening, world.time.now + OPEN_MS, done, failed),
    failed,
  )
}

/** Done when the network has moved on; gates may take longer. */
export function advanceNetwork(
  daemon: Daemon,
  network: number,
  epoch: number,
  done: () => void,
  failed: () => void,
): void {
  const { worker, world, host } = daemon
  const { snapshots } = worker.forwarders[network]
  world.note(host.name, `advance e${epoch}`)
  worker.call(
    'advance',
    () => {
      snapshots.advance(epoch, worker.now, world.scenario.portion)
      return snapshots.opening()
    },
    (opening) => {
      drain(daemon, network, opening, world.time.now + OPEN_MS, nothing, nothing)
      done()
    },
    failed,
  )
}

function drain(
  daemon: Daemon,
  network: number,
  ports: readonly number[],
  end: number,
  done: () => void,
  failed: (reason: string) => void,
): void {
  if (ports.length === 0) {
    done()
    return
  }
  const { worker, world } = daemon
  const { snapshots } = worker.forwarders[network]
  daemon.after(STEP_MS, () => {
    const late = world.time.now >= end
    const most = ports.map((port) => (late ? Number.POSITIVE_INFINITY : room(daemon, port)))
    worker.call(
      'drain',
      () => {
        const released = snapshots.drain(ports, worker.now, most)
        if (released > 0) world.marks.add('gate opened in portions')
        if (released > 0) world.note(daemon.host.name, `${released} more of what was held go out`)
        return snapshots.opening().filter((port) => ports.includes(port))
      },
      (opening) => drain(daemon, network, opening, end, done, failed),
      failed,
    )
  })
}

function room({ world }: Daemon, port: number): number {
  return Math.max(0, world.scenario.portion - world.nics[port].unread)
}

function nothing(): void {
  // Whoever asked has been answered.
}
