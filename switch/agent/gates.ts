// Opens gates at the pace at which guests read. What was held may be more than a TAP's queue takes: it goes out in
// portions, each no larger than what the guest has made room for. Frames that come meanwhile wait behind it, so order
// never changes. A guest that does not read gets all of it when the time is up; what its device then drops is counted
// as `device-dropped`.

import { sleep } from '../../src/runtime/clock.js'
import type { PortEntry } from '../ports/table.js'
import { allOf } from './all-of.js'
import type { Host } from './host.js'

/** All that opening a gate needs. */
export type GatesHost = Pick<Host, 'clock' | 'datapath' | 'ports' | 'unread' | 'portion' | 'log'>

/**
 * Frames that may lie unread in a TAP's queue, which takes 500 (TUN_READQ_SIZE in drivers/net/tun.c), usually 1000; if
 * less, that.
 */
export const PORTION = 256
const STEP_MS = 1
/** Time for a guest to read what was held. */
const OPEN_MS = 2000

/** A machine's ports in other networks than the one that is cut: frames wait while it stands still, and that is all. */
export async function gateOthers(host: GatesHost, ports: readonly PortEntry[]): Promise<void> {
  for (const port of ports)
    await host.datapath.call('gate', { network: port.network, ports: [port.index], forOther: true })
}

export async function releaseOthers(host: GatesHost, ports: readonly PortEntry[]): Promise<void> {
  await Promise.all(ports.map((port) => release(host, port.network, [port.index])))
}

/** Returns when all gates are open: microseconds of CLOCK_REALTIME. */
export async function release(host: GatesHost, network: string, ports: readonly number[]): Promise<number> {
  const most = ports.map((port) => room(host, port))
  const { opening, atUs } = await host.datapath.call('release', { network, ports, most })
  return drain(
    host,
    network,
    opening.filter((port) => ports.includes(port)),
    atUs,
  )
}

/** The gates of a machine in all its networks. Throws when one cannot be opened; the others are open then. */
export async function releaseAll(
  host: GatesHost,
  network: string,
  ports: readonly number[],
  others: readonly PortEntry[],
): Promise<void> {
  await allOf([release(host, network, ports), releaseOthers(host, others)])
}

/** Returns when the network has moved on to `epoch`; gates may take until guests have read. */
export async function advance(host: GatesHost, network: string, epoch: number): Promise<void> {
  const { opening, atUs } = await host.datapath.call('advance', { network, epoch, most: host.portion })
  drain(host, network, opening, atUs).catch((thrown) => host.log.warn({ err: thrown, network }, 'cannot open gates'))
}

/**
 * The network moves on to an epoch without a cut: what it was for is called off. Harmless when it is past it. It moves
 * on a full disk, too: peers have moved on, and their frames would be held for a cut that never comes. A daemon that
 * is killed then has missed an epoch, and hears of it from them.
 */
export async function passEpoch(host: GatesHost & Pick<Host, 'epochs'>, network: string, epoch: number): Promise<void> {
  await host.epochs
    .raise(network, epoch)
    .catch((thrown) => host.log.error({ err: thrown, network, epoch }, 'an epoch is not on disk'))
  host.datapath.rememberEpoch(network, epoch)
  await advance(host, network, epoch)
}

async function drain(
  host: GatesHost,
  network: string,
  opening: readonly number[],
  openedAtUs: number,
): Promise<number> {
  const end = host.clock.now().ms + OPEN_MS
  let ports = opening
  let atUs = openedAtUs
  while (ports.length > 0) {
    await sleep(host.clock, STEP_MS)
    const late = host.clock.now().ms >= end
    const most = ports.map((port) => (late ? Number.POSITIVE_INFINITY : room(host, port)))
    if (most.every((frames) => frames === 0)) continue
    const answer = await host.datapath.call('drain', { network, ports, most })
    atUs = answer.atUs
    ports = ports.filter((port) => answer.opening.includes(port))
  }
  return atUs
}

/** How many more frames a port's device takes now. */
function room(host: Pick<Host, 'ports' | 'unread' | 'portion'>, port: number): number {
  const entry = host.ports.byIndex(port)
  if (entry === undefined) return host.portion
  const { ifindex, queueLength } = entry
  const most = queueLength === 0 ? host.portion : Math.min(host.portion, queueLength)
  try {
    return Math.max(0, most - host.unread.of(port, ifindex))
  } catch {
    // The device is going away, and its port with it.
    return host.portion
  }
}
