// The network part: one subject in one round, between two endpoints on one host and on two.

import type { Gear, RoundTrips } from '../forwarding/gear.js'
import { ADDRESS, Session } from '../forwarding/session.js'
import { median } from '../forwarding/statistics.js'
import type { Cores, Subject } from '../forwarding/subject.js'
import { commandAt, sleep } from '../lab/processes.js'
import { type PAYLOADS, type UDP_PAYLOADS, WIRE_SIZES } from './rows.js'

export interface NetworkSubject extends Subject {
  /** Processes that a frame passes through from endpoint to endpoint over two hosts. */
  readonly hops: number
  /** Two hosts are joined by a device `trunk`, whose counters tell what a frame comes to. */
  readonly hasTrunk: boolean
  /** Emulated: less is asked of it, and cores are its own. */
  readonly slow: boolean
}

export interface NetworkPlan {
  readonly trialMs: number
  readonly tcpSeconds: number
  readonly payloads: readonly (typeof PAYLOADS)[number][]
  readonly udpPayloads: readonly (typeof UDP_PAYLOADS)[number][]
  readonly oneHost: Cores
  readonly twoHosts: Cores
}

/** Light enough for every subject; an emulated one gets a tenth. */
const LIGHT_RATE = 20_000
const TWO_HOSTS_FLOWS = 3
const UDP_PORT = 9
/** 44 datagrams of 1472 bytes are the most that fit into one call's 65,507. */
const GSO = { size: 1472, segments: 44 } as const

type Figures = Record<string, number>

export async function measureNetwork(
  subject: NetworkSubject,
  plan: NetworkPlan,
  gear: Gear,
  figures: Figures,
): Promise<void> {
  figures.hops = subject.hops
  const rate = subject.slow ? LIGHT_RATE / 10 : LIGHT_RATE
  const one = await Session.open(subject, 'one-host', gear, plan.oneHost)
  try {
    await roundTrips(one, plan, rate, figures)
    const light = await one.cpuAt(rate, 60, plan.trialMs)
    figures.cpuPerFrame = light.machineCpuPerMillion
    figures.cpuPerFrameSwitch = light.processCpuPerMillion
    const flow = await one.tcp(plan.tcpSeconds)
    figures.tcp = flow.bitsPerSecond
    figures.cpuPerGbit = flow.cpuPerGbit
    await udp(one, 'udp', plan, figures)
  } finally {
    await one.close()
  }
  const two = await Session.open(subject, 'two-hosts', gear, plan.twoHosts)
  try {
    await two.warmUp()
    for (const size of plan.payloads) await idle(two, `rttTwoHosts.${size}`, size, plan.trialMs, figures)
    const flows = []
    for (let index = 0; index < TWO_HOSTS_FLOWS; index++) flows.push(await two.tcp(plan.tcpSeconds))
    figures.tcpTwoHosts = median(flows.map(({ bitsPerSecond }) => bitsPerSecond))
    figures.cpuPerGbitTwoHosts = median(flows.map(({ cpuPerGbit }) => cpuPerGbit))
    await udp(two, 'udpTwoHosts', plan, figures)
    if (subject.hasTrunk)
      for (const size of WIRE_SIZES) figures[`wire.${size}`] = await bytesAdded(two, size, plan.trialMs)
  } finally {
    await two.close()
  }
}

function note(figures: Figures, name: string, { p50, p99, max }: RoundTrips): void {
  figures[`${name}.p50`] = p50
  figures[`${name}.p99`] = p99
  figures[`${name}.max`] = max
}

async function idle(
  session: Session,
  name: string,
  size: number,
  milliseconds: number,
  figures: Figures,
): Promise<void> {
  note(figures, name, await session.roundTrips({ samples: 50_000, gapUs: 0, milliseconds, size }))
}

async function roundTrips(session: Session, plan: NetworkPlan, rate: number, figures: Figures): Promise<void> {
  const milliseconds = plan.trialMs
  await session.warmUp()
  for (const size of plan.payloads) await idle(session, `rtt.${size}`, size, milliseconds, figures)
  note(figures, 'rttPaced', await session.roundTrips({ samples: 50_000, gapUs: 1000, milliseconds }))
  note(figures, 'rttFrames', await session.roundTripsUnderFrames(rate, milliseconds))
  note(figures, 'rttTcp', await session.roundTripsUnderTcp(milliseconds))
}

async function udp(session: Session, name: string, plan: NetworkPlan, figures: Figures): Promise<void> {
  for (const size of plan.udpPayloads) figures[`${name}.${size}`] = await udpRate(session, size, 1, plan.trialMs)
  // A kernel before 6.11 refuses it on a device without checksum offload.
  const rate = await udpRate(session, GSO.size, GSO.segments, plan.trialMs).catch(() => undefined)
  if (rate !== undefined) figures[`${name}.gso`] = rate
}

/** Bits of payload a second that arrive while the sender sends as fast as it can. */
async function udpRate(session: Session, size: number, segments: number, milliseconds: number): Promise<number> {
  const { lab, gear, cores } = session
  const receiver = await lab.start('e2', cores.receiver, [gear.udp, 'receive', String(UDP_PORT)])
  await receiver.until('ready', (said) => said.includes('ready'))
  const argv = [gear.udp, 'send', ADDRESS.e2, String(UDP_PORT), String(size), String(segments), String(milliseconds)]
  try {
    const said = await commandAt(lab.place('e1', cores.sender), argv, { timeoutMs: milliseconds + 10_000 })
    const { seconds } = JSON.parse(said) as { seconds: number }
    await sleep(100)
    await receiver.stop('SIGTERM')
    return ((JSON.parse(receiver.output) as { bytes: number }).bytes * 8) / seconds
  } finally {
    await receiver.stop('SIGKILL')
  }
}

const WATCHED = 40

/** Bytes that a frame of `size` has more on the wire between the hosts than at its endpoint; as tcpdump sees them. */
async function bytesAdded(session: Session, size: number, milliseconds: number): Promise<number> {
  const argv = ['tcpdump', '-l', '-n', '-e', '-q', '-c', String(WATCHED), '-i', 'trunk', 'greater', String(size)]
  const watch = await session.lab.start('b', session.cores.switch, argv)
  await watch.until('listening', (said) => said.includes('listening'))
  await session.cpuAt(LIGHT_RATE / 10, size, milliseconds)
  await watch.until(`${WATCHED} frames`, (said) => said.includes(`${WATCHED} packets captured`))
  return median(frameLengths(watch.output)) - size
}

/** Of each frame, out of lines as `tcpdump -e` writes them; the first length of a line is the whole frame's. */
export function frameLengths(said: string): number[] {
  return said.split('\n').flatMap((line) => {
    const length = /length (\d+)/.exec(line)?.[1]
    return length === undefined ? [] : [Number(length)]
  })
}
