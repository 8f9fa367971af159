// Opens gates in virtual time, in portions and at the pace at which guests read, as switch/agent/gates.ts does.

import type { Daemon } from './daemon.js'

const STEP_MS = 1
const OPEN_MS = 2000

export function releaseGates(
  daemon: Daemon,
  ports: readonly number[],
  done: () => void,
  failed: (reason: string) => void,
): void {
  const { worker, world, host } = daemon
  const { snapshots } = worker.forwarder
  const most = ports.map((port) => room(daemon, port))
  worker.call(
    'release',
    () => {
      snapshots.release(ports, worker.now, most)
      const whose = new Set(ports.map((port) => world.nics[port].guest.name))
      world.note(host.name, `gate of ${[...whose].join(' ')} opens`)
      return snapshots.opening().filter((port) => ports.includes(port))
    },
    (opening) => drain(daemon, opening, world.time.now + OPEN_MS, done, failed),
    failed,
  )
}

/** Done when the network has moved on; gates may take longer. */
export function advanceNetwork(daemon: Daemon, epoch: number, done: () => void, failed: () => void): void {
  const { worker, world, host } = daemon
  const { snapshots } = worker.forwarder
  world.note(host.name, `advance e${epoch}`)
  worker.call(
    'advance',
    () => {
      snapshots.advance(epoch, worker.now, world.scenario.portion)
      return snapshots.opening()
    },
    (opening) => {
      drain(daemon, opening, world.time.now + OPEN_MS, nothing, nothing)
      done()
    },
    failed,
  )
}

function drain(
  daemon: Daemon,
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
  const { snapshots } = worker.forwarder
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
      (opening) => drain(daemon, opening, end, done, failed),
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
