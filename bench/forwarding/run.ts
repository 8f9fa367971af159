// One run: rounds over all subjects in turn, so that whatever the machine does slowly hits all of them alike.

import { Lab } from '../lab/lab.js'
import type { Figures, Row } from './figures.js'
import { compileGear, type Gear } from './gear.js'
import { Session } from './session.js'
import { median } from './statistics.js'
import type { Cores, Subject } from './subject.js'

export interface Plan {
  readonly rounds: number
  readonly subjects: readonly Subject[]
  /** Length of a frame or round-trip trial; a lossless trial takes half. */
  readonly trialMs: number
  readonly tcpSeconds: number
  /** One host: endpoints on one core, the switch on the other. */
  readonly oneHost: Cores
  /** Two hosts: four parties on two cores; the scheduler places them. */
  readonly twoHosts: Cores
}

/** Light enough that every subject carries it. */
const LIGHT_RATE = 50_000
const ORDER_RATE = 20_000
/** The middle one counts: where the scheduler puts four parties on two cores differs from flow to flow. */
const TWO_HOSTS_FLOWS = 3
const SIZES = [60, 512, 1514] as const

export async function runPlan(plan: Plan, say: (line: string) => void): Promise<Row[]> {
  const workshop = new Lab()
  const rows: Row[] = []
  try {
    const gear = await compileGear(workshop.scratch)
    const total = plan.rounds * plan.subjects.length
    const started = performance.now()
    for (let round = 1; round <= plan.rounds; round++) {
      for (let turn = 0; turn < plan.subjects.length; turn++) {
        // Each round begins with another subject: none always follows the same neighbour's warm caches.
        const subject = plan.subjects[(turn + round - 1) % plan.subjects.length]!
        const row = await measure(subject, round, plan, gear)
        rows.push(row)
        const left = ((performance.now() - started) / rows.length) * (total - rows.length)
        say(
          `round ${round}/${plan.rounds}  ${subject.title.padEnd(22)} ${summary(row)}  (${Math.ceil(left / 1e3)} s to go)`,
        )
      }
    }
  } finally {
    await workshop.destroy()
  }
  return rows
}

async function measure(subject: Subject, round: number, plan: Plan, gear: Gear): Promise<Row> {
  const figures: Figures = {}
  try {
    if (subject.parts.some((part) => part !== 'twoHosts')) {
      const session = await Session.open(subject, 'one-host', gear, plan.oneHost)
      try {
        await oneHost(session, subject, plan, figures)
      } finally {
        await session.close()
      }
    }
    if (subject.parts.includes('twoHosts')) {
      const session = await Session.open(subject, 'two-hosts', gear, plan.twoHosts)
      try {
        await twoHosts(session, plan, figures)
      } finally {
        await session.close()
      }
    }
    return { round, subject: subject.id, figures, error: null }
  } catch (error) {
    return { round, subject: subject.id, figures, error: error instanceof Error ? error.message : String(error) }
  }
}

async function oneHost(session: Session, subject: Subject, plan: Plan, figures: Figures): Promise<void> {
  const has = (part: Subject['parts'][number]) => subject.parts.includes(part)
  const milliseconds = plan.trialMs
  if (has('light')) {
    figures.cpuIdle = await session.idleShare(milliseconds)
    const order = await session.order(ORDER_RATE, milliseconds / 2)
    figures.orderLost = order.offered - order.received
    figures.orderLate = order.late
    const light = await session.cpuAt(LIGHT_RATE, 60, milliseconds)
    figures.cpuProcessLight = light.processCpuPerMillion
    figures.cpuMachineLight = light.machineCpuPerMillion
  }
  if (has('frames')) {
    for (const size of SIZES) {
      const saturation = await session.saturation(size, milliseconds)
      figures[`pps${size}`] = saturation.deliveredPerSecond
      if (size === 60) {
        figures.offered60 = saturation.offeredPerSecond
        figures.cpuProcess = saturation.processCpuPerMillion
        figures.cpuMachine = saturation.machineCpuPerMillion
      }
      // Above what it delivers when saturated no subject is without loss; the sender itself bounds the search as well.
      if (has('lossless')) {
        const ceiling = Math.min(saturation.deliveredPerSecond * 1.02, saturation.offeredPerSecond)
        figures[`pps${size}Lossless`] = await session.lossless(size, ceiling, milliseconds / 2)
      }
    }
  }
  if (has('roundTrips')) {
    const idle = await session.roundTrips({ samples: 50_000, gapUs: 0, milliseconds })
    figures.rttIdleP50 = idle.p50
    figures.rttIdleP99 = idle.p99
    const paced = await session.roundTrips({ samples: 50_000, gapUs: 1000, milliseconds: milliseconds * 1.5 })
    figures.rttPacedP50 = paced.p50
    figures.rttPacedP99 = paced.p99
    const loaded = await session.roundTripsUnderFrames(LIGHT_RATE, milliseconds)
    figures.rttLoadedP50 = loaded.p50
    figures.rttLoadedP99 = loaded.p99
    const beside = await session.roundTripsUnderTcp(milliseconds * 1.5)
    figures.rttTcpP50 = beside.p50
    figures.rttTcpP99 = beside.p99
  }
  if (has('tcp')) {
    const { bitsPerSecond, retransmits } = await session.tcp(plan.tcpSeconds)
    figures.tcp = bitsPerSecond
    figures.tcpRetransmits = retransmits
  }
}

async function twoHosts(session: Session, plan: Plan, figures: Figures): Promise<void> {
  const flows = []
  for (let i = 0; i < TWO_HOSTS_FLOWS; i++) flows.push(await session.tcp(plan.tcpSeconds))
  figures.tcpTwoHosts = median(flows.map((flow) => flow.bitsPerSecond))
  figures.tcpTwoHostsRetransmits = median(flows.map((flow) => flow.retransmits))
  figures.pps60TwoHosts = (await session.saturation(60, plan.trialMs)).deliveredPerSecond
}

function summary({ figures, error }: Row): string {
  if (error !== null) return `FAILED: ${error.split('\n')[0]}`
  const told: string[] = []
  if (figures.pps60 !== undefined) told.push(`${Math.round(figures.pps60 / 1e3)} k frames/s`)
  if (figures.tcp !== undefined) told.push(`TCP ${(figures.tcp / 1e9).toFixed(2)} Gbit/s`)
  if (figures.tcpTwoHosts !== undefined) told.push(`two hosts ${(figures.tcpTwoHosts / 1e9).toFixed(2)} Gbit/s`)
  if (figures.rttIdleP50 !== undefined) told.push(`RTT ${figures.rttIdleP50.toFixed(0)} us`)
  return told.join(', ')
}
