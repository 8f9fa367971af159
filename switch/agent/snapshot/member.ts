// One machine on its way through a cut: what is known of it, and the steps that need more than one call. Used by
// session.ts, which decides nothing either: member-cut.ts does.

import type { Policy } from '../../../src/api/schemas.js'
import type { SnapswitchError } from '../../../src/errors/errors.js'
import { syncFile } from '../../../src/files/durable.js'
import type {
  Capture,
  MachineControl,
  MachineDefinition,
  MachineInfo,
  SealInfo,
} from '../../../src/hypervisor/hypervisor.js'
import { sleep } from '../../../src/runtime/clock.js'
import { Counter, Drop, ROW } from '../../forwarding/counters.js'
import type { PortEntry } from '../../ports/table.js'
import { diskFrozen, onFrozen } from '../disks/frozen.js'
import type { Host } from '../host.js'
import type { CutRecord } from '../journal.js'
import { notRunning } from '../refusals.js'

/**
 * How long a guest may take to read what it was sent before it is paused all the same; and how long not to read at all.
 */
const SETTLE_MS = 20
const STILL_MS = 5
const SETTLE_STEP_MS = 1

/** A machine on its way through the cut; times in microseconds of CLOCK_REALTIME. */
export interface Member {
  readonly vm: string
  readonly ports: readonly PortEntry[]
  /** In other networks. */
  readonly otherPorts: readonly PortEntry[]
  readonly control: MachineControl
  readonly info: MachineInfo
  readonly definition: MachineDefinition
  /** As it is on disk. */
  readonly record: CutRecord
  capture: Capture | null
  seal: SealInfo | null
  paused: boolean
  /** Why it could not be brought to run; null while that is not so. */
  stuck: SnapswitchError | null
  /** It has ended, and an overlay is left that it has written to: what takes that back stays on record. */
  left: boolean
  /** It is one of the machines that may be cut now. */
  hasSlot: boolean
  readonly times: {
    gatedAtUs: number
    /** When the wait for the guest to read ended; the pause is asked for then. */
    settledAtUs: number
    pausedAtUs: number
    cutAtUs: number
    disksAtUs?: number
    savingAtUs?: number
    resumedAtUs: number
    releasedAtUs: number
    sealedAtUs: number
  }
  residue: number
  lost: number
  /** When the snapshot began. */
  readonly before: MemberCounters
  /** The step under way: recovery waits for it, so that no two steps of one machine overlap. */
  step: Promise<void>
}

export interface SessionRequest {
  readonly network: string
  readonly snapshot: string
  readonly epoch: number
  readonly policy: Policy
  readonly deadlineMs: number
  readonly record?: boolean
}

/** Connects and does the slow work before the cut. On failure nothing is left. */
export async function prepareMember(
  host: Host,
  request: SessionRequest,
  vm: string,
  deadline: number,
  calledOff: AbortSignal,
): Promise<Member> {
  const control = await host.machines.attach(vm, deadline)
  try {
    const info = await control.inspect(deadline)
    if (info.state !== 'running') throw notRunning(vm, info.state, info.stateDetail, host.machines.spec(vm))
    const [wrong] = await onFrozen(host, vm, info.disks)
    if (wrong !== undefined) throw diskFrozen(vm, wrong)
    const definition = await control.definition(deadline)
    const label = `${request.snapshot}-e${request.epoch}`
    const disks = info.disks.map(({ name, layers }) => ({ name, layers: [...layers] }))
    const settings = await control.settings(deadline)
    const spec = host.machines.spec(vm)!
    const record = { label, incarnation: control.incarnation, spec, settings, disks }
    const chains = Object.fromEntries(disks.map(({ name, layers }) => [name, layers]))
    await host.disks.learn(vm, chains)
    await host.disks.noteOrigins(vm, chains)
    await host.journal.writeCut(request.network, request.snapshot, vm, record)
    const directory = host.store.machineImages(request.network, request.snapshot, vm)
    const creating = (file: string) => host.disks.noteMade(vm, file)
    await control.prepare({ directory, label, creating, calledOff }, deadline)
    // Stopping a guest flushes its disks; what is written back now does not prolong the pause.
    for (const { layers } of info.disks) {
      const { file, dataFile } = layers[0] ?? {}
      for (const written of [file, dataFile]) if (written !== undefined) await syncFile(written)
    }
    const ports = host.ports.ofMachine(vm, request.network)
    const otherPorts = host.ports.ofMachine(vm).filter((port) => port.network !== request.network)
    const times = {
      gatedAtUs: 0,
      settledAtUs: 0,
      pausedAtUs: 0,
      cutAtUs: 0,
      resumedAtUs: 0,
      releasedAtUs: 0,
      sealedAtUs: 0,
    }
    return {
      vm,
      ports,
      otherPorts,
      control,
      info,
      definition,
      record,
      capture: null,
      seal: null,
      paused: false,
      stuck: null,
      left: false,
      hasSlot: false,
      times,
      residue: 0,
      lost: 0,
      before: countersOf(host, ports),
      step: Promise.resolve(),
    }
  } catch (thrown) {
    await control.abandon().catch(() => undefined)
    await control.close().catch(() => undefined)
    throw thrown
  }
}

/** Frames to a machine's ports, as counted so far. */
interface MemberCounters {
  readonly held: number
  readonly early: number
  /** For want of room, or early under the policy `drop`. */
  readonly dropped: number
}

export function countersOf({ datapath }: Pick<Host, 'datapath'>, ports: readonly PortEntry[]): MemberCounters {
  const sum = (counter: number) =>
    ports.reduce((total, port) => total + datapath.counters[port.index * ROW + counter], 0)
  return {
    held: sum(Counter.held),
    early: sum(Counter.early),
    dropped: sum(Drop['hold-overflow']) + sum(Drop['early-dropped']),
  }
}

/** What counting a machine's unread frames needs. */
export type UnreadHost = Pick<Host, 'clock' | 'unread'>
type Devices = readonly Pick<PortEntry, 'index' | 'ifindex'>[]

/**
 * Waits until the guest has read what it was sent, but not long: what it has not read becomes residue. One that reads
 * nothing (its NIC is down, it has crashed) must not keep the machines waiting that are cut after it.
 */
export async function settle({ clock, unread: frames }: UnreadHost, ports: Devices): Promise<void> {
  const unread = () => ports.reduce((sum, port) => sum + frames.of(port.index, port.ifindex), 0)
  const now = () => clock.now().ms
  const end = now() + SETTLE_MS
  let least = unread()
  let still = now() + STILL_MS
  while (least > 0 && now() < Math.min(still, end)) {
    await sleep(clock, SETTLE_STEP_MS)
    const left = unread()
    if (left < least) still = now() + STILL_MS
    least = Math.min(least, left)
  }
}

/**
 * Frames that the paused guest has been sent and has not got, per port. A paused QEMU still takes one frame out of the
 * TAP, into a queue of its own that no image holds (test/linux/tap-qemu.test.ts). It may have done so before the first
 * look here, or does so before the second: the guest itself reads none.
 */
export async function residueOf({ clock, unread }: UnreadHost, ports: Devices): Promise<number[]> {
  const look = () => ports.map((port) => unread.of(port.index, port.ifindex))
  const first = look()
  if (first.every((count) => count === 0)) return first
  await sleep(clock, SETTLE_STEP_MS)
  return look().map((count, nth) => (first[nth] === 0 ? 0 : Math.max(first[nth], count + 1)))
}
