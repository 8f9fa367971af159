// One subject in one round, between two endpoints on one host and on two.

import type { Gear } from './gear.js'
import { Session } from './session.js'
import { median } from './statistics.js'
import type { Cores, Subject } from './subject.js'

export interface Plan {
  /** Length of a frame or round-trip trial; a lossless trial takes half. */
  readonly trialMs: number
  /** Traffic before the first trial. */
  readonly warmUpMs: number
  readonly tcpSeconds: number
  readonly sizes: readonly (60 | 512 | 1514)[]
  readonly hasLossless: boolean
  readonly oneHost: Cores
  readonly twoHosts: Cores
}

type Figures = Record<string, number>

/** Light enough that every subject carries it. */
const LIGHT_RATE = 50_000
/** What idle time is known by is coarse. */
const LIGHT_TRIALS = 4
const ORDER_RATE = 20_000
/** The middle one counts: where the scheduler puts four parties on two cores differs from flow to flow. */
const TWO_HOSTS_FLOWS = 3

export async function measure(subject: Subject, plan: Plan, gear: Gear, figures: Figures): Promise<void> {
  if (subject.parts.some((part) => part !== 'twoHosts')) {
    const session = await Session.open(subject, 'one-host', gear, plan.oneHost)
    try {
      await session.warmUp(plan.warmUpMs)
      await oneHost(session, subject, plan, figures)
    } finally {
      await session.close()
    }
  }
  if (!subject.parts.includes('twoHosts')) return
  const session = await Session.open(subject, 'two-hosts', gear, plan.twoHosts)
  try {
    await session.warmUp(plan.warmUpMs)
    await twoHosts(session, plan, figures)
  } finally {
    await session.close()
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
    const light = await session.cpuAt(LIGHT_RATE, 60, LIGHT_TRIALS * milliseconds)
    figures.cpuProcessLight = light.processCpuPerMillion
    figures.cpuMachineLight = light.machineCpuPerMillion
  }
  if (has('frames')) await frames(session, has('lossless') && plan.hasLossless, plan, figures)
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
    const { bitsPerSecond, retransmits, cpuPerGbit } = await session.tcp(plan.tcpSeconds)
    figures.tcp = bitsPerSecond
    figures.tcpRetransmits = retransmits
    figures.cpuPerGbit = cpuPerGbit
  }
}

async function frames(session: Session, withLossless: boolean, plan: Plan, figures: Figures): Promise<void> {
  for (const size of plan.sizes) {
    const saturation = await session.saturation(size, plan.trialMs)
    figures[`pps${size}`] = saturation.deliveredPerSecond
    if (size === 60) {
      figures.offered60 = saturation.offeredPerSecond
      figures.cpuProcess = saturation.processCpuPerMillion
      figures.cpuMachine = saturation.machineCpuPerMillion
    }
    if (!withLossless) continue
    // Above what it delivers when saturated no subject is without loss; the sender itself bounds the search as well.
    const ceiling = Math.min(saturation.deliveredPerSecond * 1.02, saturation.offeredPerSecond)
    figures[`pps${size}Lossless`] = await session.lossless(size, ceiling, plan.trialMs / 2)
  }
}

async function twoHosts(session: Session, plan: Plan, figures: Figures): Promise<void> {
  const flows = []
  for (let i = 0; i < TWO_HOSTS_FLOWS; i++) flows.push(await session.tcp(plan.tcpSeconds))
  figures.tcpTwoHosts = median(flows.map((flow) => flow.bitsPerSecond))
  figures.tcpTwoHostsRetransmits = median(flows.map((flow) => flow.retransmits))
  figures.cpuPerGbitTwoHosts = median(flows.map((flow) => flow.cpuPerGbit))
  const { p50 } = await session.roundTrips({ samples: 50_000, gapUs: 0, milliseconds: plan.trialMs })
  figures.rttTwoHostsP50 = p50
  figures.pps60TwoHosts = (await session.saturation(60, plan.trialMs)).deliveredPerSecond
}
