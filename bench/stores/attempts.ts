// One system: the network boots once and is saved some times while the client writes. Each image is then examined,
// every machine loaded alone, and restored, all together; what is wrong is counted.

import { setTimeout as sleep } from 'node:timers/promises'
import { until } from '../../test/lab/command.js'
import type { StoresReport } from '../../test/lab/console.js'
import { inGuest } from '../../test/lab/guest-shell.js'
import type { Lab } from '../../test/lab/lab.js'
import { atMost, bootTimeoutMs } from '../snapshot/machines.js'
import { type SnapshotSystem, type Taker, withTaker } from '../snapshot/session.js'
import { loadFrom, SavedMachine } from '../vnsnap/machine.js'
import {
  type Counts,
  cutCounts,
  endCounts,
  isWrongCut,
  isWrongEnd,
  type MachineState,
  type NetworkState,
} from './counts.js'
import { examine } from './examine.js'
import { clientName, memberNames, storesLab } from './plan.js'

export interface AttemptsPlan {
  readonly attempts: number
  /** Between two snapshots. */
  readonly workMs: number
  /** When it must end, as performance.now() tells it: fewer are restored then, one at least. */
  readonly untilMs: number
}

const SERVES_BOOTED_MS = 120_000
/** Redis's replicas give a silent primary up after a minute (`repl-timeout`), and connect again. */
const SERVES_MS = 80_000
const STOPS_MS = 30_000
/** For members to come to one state once nothing is written any more. */
const SETTLES_MS = 20_000
const LOOK_MS = 20

const told = (lab: Lab): StoresReport | undefined => lab.machine(clientName).console.state?.stores

/** Acknowledgements that must have grown before a service serves, by the name of the figure. */
const services: Readonly<Record<string, (report: StoresReport) => readonly number[]>> = {
  'etcd.all': ({ etcd }) => etcd.map(({ acked }) => acked),
  'etcd.first': ({ etcd }) => [etcd.reduce((sum, { acked }) => sum + acked, 0)],
  'redis.copied': ({ redis }) => [redis.copied],
  'redis.first': ({ redis }) => [redis.acked],
}

interface Watch {
  /** Where the seconds begin, as performance.now() tells it. */
  readonly fromMs: number
  readonly limitMs: number
  /** True: nobody waits any more. */
  isOver(): boolean
}

/** Seconds until each service has acknowledged more than `before`; those that have not are left out. */
async function serves(
  lab: Lab,
  before: StoresReport,
  { fromMs, limitMs, isOver }: Watch,
): Promise<Record<string, number>> {
  const untilMs = fromMs + atMost(limitMs)
  const seconds: Record<string, number> = {}
  const all = Object.entries(services)
  while (Object.keys(seconds).length < all.length && performance.now() < untilMs && !isOver()) {
    const report = told(lab)
    for (const [name, of] of all) {
      if (report === undefined || seconds[name] !== undefined) continue
      const then = of(before)
      if (of(report).every((acked, index) => acked > then[index]!)) seconds[name] = (performance.now() - fromMs) / 1000
    }
    await sleep(LOOK_MS)
  }
  return seconds
}

const nothing: StoresReport = {
  etcd: memberNames.map(() => ({ acked: 0, lost: 0, silent: 0 })),
  redis: { acked: 0, copied: 0, lost: 0, silent: 0 },
  begun: { etcd: 0, redis: 0 },
  idle: false,
}

async function beganWriting(lab: Lab): Promise<StoresReport> {
  return until('a report of the client', SETTLES_MS, () => told(lab))
}

async function examineNetwork(lab: Lab): Promise<NetworkState> {
  const members: MachineState[] = []
  for (const name of memberNames) members.push(await examine(lab, name))
  return { members, client: await examine(lab, clientName), begun: (await beganWriting(lab)).begun }
}

/** A machine of a snapshot, loaded by itself, behind a TAP that leads nowhere: what it held when it was saved. */
async function examineImage<T>(
  lab: Lab,
  taker: Taker,
  snapshot: string,
  name: string,
  read: () => Promise<T>,
): Promise<T> {
  const incoming = loadFrom(await taker.memoryOf(snapshot, name))
  await lab.startMachine(name, undefined, { incoming, tap: 'alone' })
  const machine = await SavedMachine.loaded(lab.machine(name))
  try {
    await machine.run()
    return await read()
  } finally {
    machine.close()
    await lab.killMachines()
  }
}

async function examineImages(
  lab: Lab,
  taker: Taker,
  snapshot: string,
): Promise<{ cut: NetworkState; before: StoresReport }> {
  const members: MachineState[] = []
  for (const name of memberNames) members.push(await examineImage(lab, taker, snapshot, name, () => examine(lab, name)))
  return examineImage(lab, taker, snapshot, clientName, async () => {
    const before = await beganWriting(lab)
    const client = await examine(lab, clientName)
    return { cut: { members, client, begun: before.begun }, before }
  })
}

/** Restores, waits until all serve or long enough, ends the writing, and counts. */
async function restoreAndCount(
  lab: Lab,
  taker: Taker,
  snapshot: string,
  { cut, before }: { cut: NetworkState; before: StoresReport },
): Promise<Counts> {
  lab.restartConsoles()
  const fromMs = performance.now()
  let hasFailed = false
  const restored = taker.restore(snapshot).catch((error: unknown) => {
    hasFailed = true
    throw error
  })
  const served = serves(lab, before, { fromMs, limitMs: SERVES_MS, isOver: () => hasFailed })
  const [seconds] = await Promise.all([served, restored])
  const still = Object.keys(services).length - Object.keys(seconds).length
  await inGuest(lab, clientName, 'touch /run/stop')
  await until('an idle client', STOPS_MS, () => (told(lab)?.idle === true ? true : undefined))
  const settled = performance.now() + atMost(SETTLES_MS)
  for (;;) {
    const counts = endCounts(cut, await examineNetwork(lab))
    if (isWrongEnd({ ...counts, still }) && performance.now() < settled) continue
    const last = told(lab)!
    const broken = [...last.etcd, last.redis].reduce((sum, { lost, silent }) => sum + lost + silent, 0)
    const brokenBefore = [...before.etcd, before.redis].reduce((sum, { lost, silent }) => sum + lost + silent, 0)
    return { ...counts, still, 'end.reconnects': broken - brokenBefore, ...seconds }
  }
}

/** The counts of each attempt. */
export async function measureStores(
  system: SnapshotSystem,
  plan: AttemptsPlan,
  say: (line: string) => void,
): Promise<Counts[]> {
  return withTaker(system, await storesLab(), boot, async (lab, taker) => {
    const names = Array.from({ length: plan.attempts }, (_, index) => `attempt${index + 1}`)
    for (const name of names) {
      await sleep(plan.workMs)
      await ready(lab)
      await taker.keep(name)
    }
    await lab.killMachines()
    const all: Counts[] = []
    let longestMs = 0
    for (const name of names) {
      const began = performance.now()
      if (all.length > 0 && began + longestMs > plan.untilMs) break
      const looked = await examineImages(lab, taker, name)
      const counts = { ...cutCounts(looked.cut), ...(await restoreAndCount(lab, taker, name, looked)) }
      await lab.killMachines()
      const words = [isWrongCut(counts) ? 'inconsistent' : 'consistent', isWrongEnd(counts) ? 'went wrong' : 'went on']
      say(`  ${system.id}, ${name}: ${words.join(', ')} ${JSON.stringify(counts)}`)
      all.push(counts)
      longestMs = Math.max(longestMs, performance.now() - began)
    }
    return all
  })
}

async function boot(lab: Lab): Promise<void> {
  await Promise.all(memberNames.map((name) => lab.startMachine(name, bootTimeoutMs)))
  await lab.startMachine(clientName, bootTimeoutMs)
  await ready(lab)
}

/** All services serve. */
async function ready(lab: Lab): Promise<void> {
  const seconds = await serves(lab, told(lab) ?? nothing, {
    fromMs: performance.now(),
    limitMs: SERVES_BOOTED_MS,
    isOver: () => false,
  })
  const missing = Object.keys(services).filter((name) => seconds[name] === undefined)
  if (missing.length > 0) throw new Error(`before any snapshot: ${missing.join(', ')} too late`)
}
