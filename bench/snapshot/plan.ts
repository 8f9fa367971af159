// What is measured: the cells (how many machines, how much memory, which policy, which traffic), and the lab of each.

import type { LabPlan, MachinePlan } from '../../test/lab/lab.js'
import { TRUNK_MTU } from '../forwarding/subject.js'

/**
 * `ring`: only the guests' own ring and UDP streams. `guests`: bulk TCP between two guests as well. `members` and
 * `plain`: bulk TCP and a UDP stream between two namespaces as well, behind ports that are cut with a machine, or are
 * no members.
 */
export type Load = 'ring' | 'guests' | 'members' | 'plain'
export type Policy = 'buffer' | 'drop'
export type Driver = 'qemu' | 'libvirt'

export interface Cell {
  readonly id: string
  readonly machines: 2 | 4 | 8
  readonly memoryMiB: number
  readonly policy: Policy
  readonly load: Load
  /** What runs the machines. */
  readonly driver: Driver
  readonly rounds: number
}

export const network = 'lab0'
export const hosts = ['a', 'b'] as const

type Wanted = readonly [machines: Cell['machines'], memoryMiB: number, policy: Policy, load: Load]

// Not the full product: memory is varied with two machines, their number with 256 MiB, and each policy where frames
// cross.
const full: readonly Wanted[] = [
  [2, 128, 'buffer', 'ring'],
  [2, 256, 'buffer', 'ring'],
  [2, 512, 'buffer', 'ring'],
  [2, 1024, 'buffer', 'ring'],
  [4, 256, 'buffer', 'ring'],
  [4, 256, 'drop', 'ring'],
  [8, 256, 'buffer', 'ring'],
  [8, 256, 'drop', 'ring'],
  [2, 256, 'buffer', 'guests'],
  [2, 256, 'buffer', 'members'],
  [2, 256, 'drop', 'members'],
  [2, 256, 'buffer', 'plain'],
]

/** What the targets need, and no more; the longest is not the last, which has what time is left. */
const brief: readonly Wanted[] = [
  [2, 128, 'buffer', 'ring'],
  [2, 1024, 'buffer', 'ring'],
  [8, 256, 'buffer', 'ring'],
  [2, 256, 'buffer', 'guests'],
  [2, 256, 'buffer', 'members'],
]

const quick: readonly Wanted[] = [
  [2, 128, 'buffer', 'ring'],
  [4, 128, 'drop', 'ring'],
  [2, 128, 'buffer', 'guests'],
  [2, 128, 'buffer', 'members'],
]

const sizes = { whole: full, brief, quick } as const

/** Only when asked for by name: they need a libvirtd. */
const domains: readonly Wanted[] = [
  [2, 128, 'buffer', 'ring'],
  [2, 512, 'buffer', 'ring'],
]

export function cells(size: keyof typeof sizes, rounds: number): Cell[] {
  return sizes[size].map((wanted) => cellOf(wanted, 'qemu', rounds))
}

/** How long a cell takes on two cores with emulated machines, about. */
export const secondsOf = ({ machines, rounds }: Cell): number => 10 + machines * (5 + rounds * 0.7)

export const libvirtCells = (rounds: number): Cell[] => domains.map((wanted) => cellOf(wanted, 'libvirt', rounds))

function cellOf([machines, memoryMiB, policy, load]: Wanted, driver: Driver, rounds: number): Cell {
  const id = `${driver === 'libvirt' ? 'libvirt-' : ''}${machines}x${memoryMiB}-${policy}-${load}`
  return { id, machines, memoryMiB, policy, load, driver, rounds }
}

/** Datagrams a second of one stream between hosts; all streams together stay near 800, which emulated guests carry. */
const streamRate: Readonly<Record<Cell['machines'], number>> = { 2: 250, 4: 125, 8: 60 }
/** More than any run comes to. */
const endless = 1_000_000_000

const address = (index: number) => `10.77.0.${index + 1}`
export const machineName = (index: number) => `vm${index + 1}`
export const machineAddress = address

/**
 * Machines alternate between the hosts, so that each hop of the ring crosses the trunk. Each sends to the next one
 * (over the trunk) and, from four machines on, to the one after (on its own host).
 */
export function labPlan({ machines: count, memoryMiB }: Cell): LabPlan {
  const ring = Array.from({ length: count }, (_, index) => address(index))
  const rate = streamRate[count]
  const machine = (index: number): MachinePlan => {
    const from = (distance: number) => (index + count - distance) % count
    const to = (distance: number) => address((index + distance) % count)
    const send = [`${index + 1}@${to(1)}:5001/${rate}`]
    const receive = [`${from(1) + 1}@5001`]
    if (count > 2) {
      send.push(`${index + 101}@${to(2)}:5002/${rate}`)
      receive.push(`${from(2) + 101}@5002`)
    }
    const work = { ring, hops: endless, hopDelayUs: 1200, journalEvery: 20 }
    const job = { ip: `${address(index)}/24`, node: index, ...work, send, receive }
    return { name: machineName(index), host: hosts[index % 2]!, job }
  }
  return { network, hosts, memoryMiB, trunkMtu: TRUNK_MTU, machines: ring.map((_, index) => machine(index)) }
}
