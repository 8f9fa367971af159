// Forwarding between two ports of a switch that has more and more of them: the others are up, and silent but for
// frames that are flooded to them.

import type { Gear } from '../forwarding/gear.js'
import { Session } from '../forwarding/session.js'
import { type Cores, parts, type Subject, vethAttachment } from '../forwarding/subject.js'
import { bridge } from '../forwarding/subjects/bridge.js'
import { snapswitchFast, startDaemon } from '../forwarding/subjects/snapswitch.js'
import { machineSeconds } from '../lab/cpu.js'
import type { Lab } from '../lab/lab.js'
import { commandAt, sleep } from '../lab/processes.js'
import { residentBytes } from './machines.js'

const titles = { snapswitch: 'fast path', userspace: 'userspace', bridge: 'Linux bridge' } as const

export interface PortsCell {
  readonly id: string
  readonly title: string
  readonly ports: number
  readonly kind: keyof typeof titles
}

export interface PortsPlan {
  readonly trialMs: number
  readonly tcpSeconds: number
  readonly cores: Cores
}

/** The ends first: a run with little time must have them. */
export const portsCells: readonly PortsCell[] = [2, 200, 16, 64].flatMap((ports) =>
  (['snapswitch', 'bridge', 'userspace'] as const).map((kind) => ({
    id: `${kind}-${ports}p`,
    title: `${titles[kind]}, ${ports} ports`,
    ports,
    kind,
  })),
)

/** Frames a second that arrive, on all ports together: any switch carries them. */
const FLOODED_RATE = 40_000
const MOST_BROADCASTS = 2000

const idleDevices = (ports: number) => Array.from({ length: ports - 2 }, (_, index) => `idle${index}`)

async function addIdle(lab: Lab, devices: readonly string[]): Promise<void> {
  if (devices.length === 0) return
  await lab.ip(
    'a',
    devices.flatMap((device) => [
      `link add ${device} type veth peer name far-${device}`,
      `link set ${device} up`,
      `link set far-${device} up`,
    ]),
  )
}

/** The measured subject with its further ports. */
function subjectOf({ ports, kind, title }: PortsCell, running: { pids: readonly number[] }): Subject {
  const base = kind === 'bridge' ? bridge : snapswitchFast
  const devices = ['p1', 'p2', ...idleDevices(ports)]
  return {
    ...base,
    title,
    parts,
    async attach(lab, topology, cores) {
      if (kind === 'bridge') {
        const attached = await base.attach(lab, topology, cores)
        await addIdle(lab, idleDevices(ports))
        const joined = idleDevices(ports).map((device) => `link set ${device} master br0`)
        if (joined.length > 0) await lab.ip('a', joined)
        return attached
      }
      await vethAttachment(lab, topology)
      await addIdle(lab, idleDevices(ports))
      const daemon = await startDaemon(lab, 'a', cores.switch, devices, {
        poll: 'adaptive',
        color: true,
        ...(kind === 'userspace' ? {} : { fastPath: 'auto' }),
      })
      running.pids = [daemon.pid]
      return { pids: running.pids }
    },
  }
}

export async function measurePorts(
  cell: PortsCell,
  plan: PortsPlan,
  gear: Gear,
  figures: Record<string, number>,
): Promise<void> {
  const running: { pids: readonly number[] } = { pids: [] }
  const session = await Session.open(subjectOf(cell, running), 'one-host', gear, plan.cores)
  try {
    await session.warmUp()
    const trip = await session.roundTrips({ samples: 50_000, gapUs: 0, milliseconds: plan.trialMs })
    figures['ports.rtt'] = trip.p50
    figures['ports.pps60'] = (await session.saturation(60, plan.trialMs)).deliveredPerSecond
    figures['ports.tcp'] = (await session.tcp(plan.tcpSeconds)).bitsPerSecond
    figures['ports.flood'] = await floodCost(session, gear, cell, plan)
    if (running.pids.length === 0) return
    figures['ports.rss'] = residentBytes(running.pids) / 1e6
    figures['ports.cpuIdle'] = (await session.idleShare(plan.trialMs * 2)) * 100
  } finally {
    await session.close()
  }
}

/** CPU of the whole machine for a frame that goes to all ports, less what the machine does anyway; microseconds. */
async function floodCost(session: Session, gear: Gear, { ports }: PortsCell, { trialMs }: PortsPlan): Promise<number> {
  const idleFrom = machineSeconds()
  await sleep(trialMs)
  const idle = machineSeconds() - idleFrom
  const argv = [
    gear.frames,
    'send',
    'eth0',
    'ff:ff:ff:ff:ff:ff',
    '60',
    String(Math.min(MOST_BROADCASTS, FLOODED_RATE / ports)),
    String(trialMs),
    'sleep',
  ]
  const from = machineSeconds()
  const said = await commandAt(session.lab.place('e1', session.cores.sender), argv, { timeoutMs: trialMs + 10_000 })
  const busy = machineSeconds() - from
  const { offered } = JSON.parse(said) as { offered: number }
  return (Math.max(0, busy - idle) / offered) * 1e6
}
