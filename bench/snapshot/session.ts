// One cell from its lab's first namespace to its last: boot, traffic, a stretch without snapshots, the rounds, and
// what is left.

import { setTimeout as sleep } from 'node:timers/promises'
import { CoordinatorClient } from '../../src/api/coordinator-client.js'
import type { LibvirtDaemon } from '../../test/hypervisor/libvirt-daemon.js'
import { startDomain, startLibvirt, withDomains } from '../../test/lab/domains.js'
import { Lab, type LabPlan } from '../../test/lab/lab.js'
import type { Lab as Bench } from '../lab/lab.js'
import { boot, bootTimeoutMs, count, growth } from './machines.js'
import { type Cell, hosts, labPlan, network } from './plan.js'
import type { Bulk, Round, Row } from './rows.js'
import { removeOne, type Taken, takeOne } from './take.js'
import { makeEndpoints, startEndpointTraffic, startGuestTraffic, type Traffic, withEndpointPort } from './traffic.js'

const CONTROL_MS = 3000
/** Between two snapshots, so that an RTO of one (200 ms at least) is not taken for the next one's. */
const REST_MS = 500

const building = new Set<Promise<Lab>>()
let closing = false

/** Takes down every lab: the way out after a signal or an error. */
export async function destroyMachines(): Promise<void> {
  closing = true
  for (const lab of [...building]) await lab.then((built) => built.destroy()).catch(() => undefined)
}

const nowUs = () => Math.round((performance.timeOrigin + performance.now()) * 1000)
const message = (error: unknown) => (error instanceof Error ? error.message : String(error))

/** A lab that a signal takes down too. */
export function buildLab(plan: LabPlan): Promise<Lab> {
  if (closing) throw new Error('the bench is being taken down')
  const built = Lab.build(plan)
  building.add(built)
  return built
}

export async function leaveLab(built: Promise<Lab>): Promise<void> {
  await built.then((lab) => lab.destroy()).catch(() => undefined)
  building.delete(built)
}

export interface Taker {
  take(round: number): Promise<Taken>
  /** Throws the images away of one that was taken. */
  remove(round: number): Promise<void>
  /** Takes a snapshot that `restore` brings back once all machines have ended. */
  keep(name: string): Promise<void>
  restore(name: string): Promise<void>
  /** A machine's memory in a snapshot that was kept: a file as its QEMU sees it, which `-incoming` can read. */
  memoryOf(name: string, machine: string): Promise<string>
  close(): Promise<void>
}

/** What joins the machines and takes the snapshots, where it is not snapswitch. */
export interface SnapshotSystem {
  readonly id: string
  readonly title: string
  readonly setup: string
  readonly policy: Cell['policy']
  /** What its machines must have beyond the lab's own. */
  plan(plan: LabPlan): LabPlan
  /** Once the hosts are there, before any machine runs; the call that it returns, once all run. */
  start(lab: Lab, network: string): Promise<() => Promise<Taker>>
}

/** Machines of a system, booted, and its way of taking snapshots; taken down whatever happens. */
export async function withTaker<T>(
  system: SnapshotSystem,
  plan: LabPlan,
  boot: (lab: Lab) => Promise<void>,
  use: (lab: Lab, taker: Taker) => Promise<T>,
): Promise<T> {
  const built = buildLab(system.plan(plan))
  let taker: Taker | undefined
  try {
    const lab = await built
    const open = await system.start(lab, network)
    await boot(lab)
    taker = await open()
    return await use(lab, taker)
  } finally {
    await taker?.close().catch(() => undefined)
    await leaveLab(built)
  }
}

/** `system`: in the place of the switches and the coordinator; for loads `ring` and `guests` of QEMU's machines. */
export async function runCell(cell: Cell, say: (line: string) => void, system?: SnapshotSystem): Promise<Row> {
  const plan = labPlan(cell)
  const built = buildLab(system?.plan(plan) ?? plan)
  let bench: Bench | undefined
  let traffic: Traffic | undefined
  let taker: Taker | undefined
  const libvirts = new Map<string, LibvirtDaemon>()
  const rounds: Round[] = []
  let [control, bulk, error]: [Row['control'], Bulk | null, string | null] = [null, null, null]
  let bootSeconds = 0
  try {
    const lab = await built
    const behindPorts = cell.load === 'members' || cell.load === 'plain'
    if (behindPorts) bench = await makeEndpoints(lab)
    const open = await system?.start(lab, network)
    for (const host of system === undefined ? hosts : []) {
      if (cell.driver === 'libvirt') libvirts.set(host, await startLibvirt(lab, host))
      const config = switchConfig(lab, host, libvirts.get(host))
      await lab.startSwitch(host, behindPorts ? withEndpointPort(config, host, cell.load) : config)
    }
    if (system === undefined) await lab.startCoordinator()
    const began = performance.now()
    await boot(lab, (name) => {
      const libvirt = libvirts.get(lab.machine(name).plan.host)
      return libvirt === undefined
        ? lab.startMachine(name, bootTimeoutMs)
        : startDomain(libvirt, lab, name, { timeoutMs: bootTimeoutMs })
    })
    bootSeconds = (performance.now() - began) / 1000
    if (bench !== undefined) traffic = await startEndpointTraffic(bench)
    else if (cell.load === 'guests') traffic = await startGuestTraffic(lab)
    taker = open === undefined ? coordinatorOf(lab, cell) : await open()
    let counted = await count(lab)
    const calmFrom = performance.now()
    await sleep(CONTROL_MS)
    let next = await count(lab)
    control = { seconds: (performance.now() - calmFrom) / 1000, counted: growth(counted, next) }
    counted = next
    for (let round = 1; round <= cell.rounds; round++) {
      const taken = await taker.take(round)
      // At once: each round finds the machines as the first did, and the disk does not fill.
      if (taken.error === null) await taker.remove(round)
      const removedAtUs = nowUs()
      await sleep(REST_MS)
      next = await count(lab)
      rounds.push({ ...taken, removedAtUs, counted: growth(counted, next) })
      if (taken.error !== null) say(`  ${cell.id}, round ${round}: ${taken.error}`)
      counted = next
    }
    if (traffic !== undefined) bulk = await traffic.stop()
  } catch (thrown) {
    error = message(thrown)
  } finally {
    await taker?.close().catch(() => undefined)
    for (const libvirt of libvirts.values()) await libvirt.end().catch(() => undefined)
    await leaveLab(built)
    await (traffic ?? bench)?.destroy().catch(() => undefined)
  }
  return { cell, bootSeconds, control, rounds, bulk, error }
}

const RESTORE_MS = 120_000

/** By the command, as a person restores. */
export function keptBy(lab: Lab, net: string): Pick<Taker, 'keep' | 'restore' | 'memoryOf'> {
  return {
    keep: async (name) => {
      await lab.snapswitchJson(['snapshot', 'create', net, '--name', name], undefined, RESTORE_MS)
    },
    restore: async (name) => {
      await lab.snapswitchJson(['snapshot', 'restore', name], undefined, RESTORE_MS)
    },
    memoryOf: async (name, machine) =>
      lab.machine(machine).host.inside('state', 'snapshots', net, name, 'vms', machine, 'memory.img'),
  }
}

function coordinatorOf(lab: Lab, { policy }: Cell): Taker {
  const client = new CoordinatorClient(lab.coordinatorSocket)
  return {
    take: (round) => takeOne(client, { network, policy }, round),
    remove: (round) => removeOne(client, network, round),
    ...keptBy(lab, network),
    close: () => client.close(),
  }
}

function switchConfig(lab: Lab, host: string, libvirt: LibvirtDaemon | undefined): Record<string, unknown> {
  const config = lab.switchConfig(host)
  const here = [...lab.machines.values()].filter(({ plan }) => plan.host === host).map(({ plan }) => plan.name)
  return libvirt === undefined ? config : withDomains(config, here, libvirt)
}
