// One cell from its lab's first namespace to its last: boot, traffic, a stretch without snapshots, the rounds, and what
// is left.

import { setTimeout as sleep } from 'node:timers/promises'
import { CoordinatorClient } from '../../src/api/client.js'
import type { Manifest } from '../../src/api/schemas.js'
import type { LibvirtDaemon } from '../../test/hypervisor/libvirt-daemon.js'
import { startDomain, startLibvirt, withDomains } from '../../test/lab/domains.js'
import { Lab } from '../../test/lab/lab.js'
import type { Lab as Bench } from '../lab/lab.js'
import { boot, bootTimeoutMs, count, growth } from './machines.js'
import { type Cell, hosts, labPlan, network } from './plan.js'
import type { Bulk, Round, Row } from './rows.js'
import { makeEndpoints, startEndpointTraffic, startGuestTraffic, type Traffic, withEndpointPort } from './traffic.js'

const CONTROL_MS = 3000
/** Between two snapshots, so that an RTO of one (200 ms at least) is not taken for the next one's. */
const REST_MS = 500
const SNAPSHOT_DEADLINE_MS = 120_000

const building = new Set<Promise<Lab>>()
let closing = false

/** Takes down every lab: the way out after a signal or an error. */
export async function destroyMachines(): Promise<void> {
  closing = true
  for (const lab of [...building]) await lab.then((built) => built.destroy()).catch(() => undefined)
}

const nowUs = () => Math.round((performance.timeOrigin + performance.now()) * 1000)
const message = (error: unknown) => (error instanceof Error ? error.message : String(error))

export async function runCell(cell: Cell, say: (line: string) => void): Promise<Row> {
  if (closing) throw new Error('the bench is being taken down')
  const built = Lab.build(labPlan(cell))
  building.add(built)
  let bench: Bench | undefined
  let traffic: Traffic | undefined
  let client: CoordinatorClient | undefined
  const libvirts = new Map<string, LibvirtDaemon>()
  const rounds: Round[] = []
  let [control, bulk, error]: [Row['control'], Bulk | null, string | null] = [null, null, null]
  let bootSeconds = 0
  try {
    const lab = await built
    const behindPorts = cell.load === 'members' || cell.load === 'plain'
    if (behindPorts) bench = await makeEndpoints(lab)
    for (const host of hosts) {
      if (cell.driver === 'libvirt') libvirts.set(host, await startLibvirt(lab, host))
      const config = switchConfig(lab, host, libvirts.get(host))
      await lab.startSwitch(host, behindPorts ? withEndpointPort(config, host, cell.load) : config)
    }
    await lab.startCoordinator()
    const began = performance.now()
    await boot(lab, (name) => {
      const libvirt = libvirts.get(lab.machine(name).plan.host)
      return libvirt === undefined
        ? lab.startMachine(name, bootTimeoutMs)
        : startDomain(libvirt, lab, name, bootTimeoutMs)
    })
    bootSeconds = (performance.now() - began) / 1000
    if (bench !== undefined) traffic = await startEndpointTraffic(bench)
    else if (cell.load === 'guests') traffic = await startGuestTraffic(lab)
    client = new CoordinatorClient(lab.coordinatorSocket)
    let counted = await count(lab)
    const calmFrom = performance.now()
    await sleep(CONTROL_MS)
    let next = await count(lab)
    control = { seconds: (performance.now() - calmFrom) / 1000, counted: growth(counted, next) }
    counted = next
    for (let round = 1; round <= cell.rounds; round++) {
      const taken = await takeOne(client, cell, round)
      await sleep(REST_MS)
      next = await count(lab)
      rounds.push({ ...taken, counted: growth(counted, next) })
      if (taken.error !== null) say(`  ${cell.id}, round ${round}: ${taken.error}`)
      counted = next
    }
    if (traffic !== undefined) bulk = await traffic.stop()
  } catch (thrown) {
    error = message(thrown)
  } finally {
    await client?.close().catch(() => undefined)
    for (const libvirt of libvirts.values()) await libvirt.end().catch(() => undefined)
    await built.then((lab) => lab.destroy()).catch(() => undefined)
    building.delete(built)
    await (traffic ?? bench)?.destroy().catch(() => undefined)
  }
  return { cell, bootSeconds, control, rounds, bulk, error }
}

function switchConfig(lab: Lab, host: string, libvirt: LibvirtDaemon | undefined): Record<string, unknown> {
  const config = lab.switchConfig(host)
  const here = [...lab.machines.values()].filter(({ plan }) => plan.host === host).map(({ plan }) => plan.name)
  return libvirt === undefined ? config : withDomains(config, here, libvirt)
}

async function takeOne(client: CoordinatorClient, cell: Cell, round: number): Promise<Omit<Round, 'counted'>> {
  const name = `round${round}`
  const limit = { deadlineMs: SNAPSHOT_DEADLINE_MS }
  const askedAtUs = nowUs()
  let manifest: Manifest | undefined
  let error: string | null = null
  try {
    for await (const item of client.create({ network, name, policy: cell.policy }, limit)) {
      if (item.type === 'manifest') manifest = item.manifest
      if (item.type === 'error') error = item.error.message
    }
    if (manifest?.state !== 'complete') error ??= manifest?.error?.message ?? 'the snapshot did not complete'
  } catch (thrown) {
    error = message(thrown)
  }
  const answeredAtUs = nowUs()
  // Removed at once: each round finds the machines as the first did, and the disk does not fill.
  if (error === null) await client.delete(network, name, limit)
  return { round, askedAtUs, answeredAtUs, removedAtUs: nowUs(), ...figuresOf(manifest), error }
}

function figuresOf(manifest: Manifest | undefined): Pick<Round, 'globalMs' | 'members' | 'closures'> {
  const parts = manifest?.parts ?? []
  const members = parts.flatMap(({ host, members: cut }) =>
    cut.map((member) => ({
      vm: member.vm,
      host,
      gatedAtUs: member.gatedAtUs,
      settledAtUs: member.settledAtUs ?? Number.NaN,
      pausedAtUs: member.pausedAtUs,
      cutAtUs: member.cutAtUs,
      disksAtUs: member.disksAtUs ?? Number.NaN,
      savingAtUs: member.savingAtUs ?? Number.NaN,
      resumedAtUs: member.resumedAtUs,
      releasedAtUs: member.releasedAtUs,
      sealedAtUs: member.sealedAtUs,
      held: member.held,
      early: member.early,
      recorded: member.recorded,
      residue: member.residue,
      lost: member.lost,
      memoryImageBytes: member.memory.bytes,
    })),
  )
  const closures = parts.flatMap((part) =>
    part.closures.map(({ expected, lost, byCount }) => ({ expected, lost, byCount })),
  )
  return { globalMs: manifest?.figures?.globalMs ?? Number.NaN, members, closures }
}
