// The machine that a run is made on: what it is, how quiet it is, which cores there are.

import { availableParallelism, cpus, loadavg, release, totalmem } from 'node:os'
import { guestImage } from '../../test/lab/image.js'
import { sweep as sweepMachines } from '../../test/lab/record.js'
import type { Cores } from '../forwarding/subject.js'
import { machineSeconds } from '../lab/cpu.js'
import { allCores, sweep } from '../lab/lab.js'
import { sleep } from '../lab/processes.js'

export interface Machine {
  readonly cpu: string
  readonly cores: number
  readonly memoryBytes: number
  readonly kernel: string
  readonly node: string
  /** Load of the last minute when the run began. After another bench, that bench is in it. */
  readonly loadBefore: number
  /** Cores that were busy in a second in which the bench itself did nothing: other work on the machine. */
  readonly busyBefore?: number
}

const REST_MS = 1000
/** More is said aloud. */
export const QUIET_LOAD = 0.5
export const QUIET_CORES = 0.2

export const load = () => Number(loadavg()[0]!.toFixed(2))

/** Cores that others keep busy. */
export async function busyCores(): Promise<number> {
  const [from, began] = [machineSeconds(), performance.now()]
  await sleep(REST_MS)
  return Number(Math.max(0, (machineSeconds() - from) / ((performance.now() - began) / 1000)).toFixed(2))
}

export const isQuiet = ({ loadBefore, busyBefore }: Machine) =>
  busyBefore === undefined ? loadBefore <= QUIET_LOAD : busyBefore <= QUIET_CORES

async function describeMachine(): Promise<Machine> {
  return {
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: availableParallelism(),
    memoryBytes: totalmem(),
    kernel: release(),
    node: process.version,
    loadBefore: load(),
    busyBefore: await busyCores(),
  }
}

/** Removes what killed runs have left, guests included. */
export async function sweepAll(): Promise<void> {
  await sweepMachines()
  await sweep()
}

export interface Begun {
  readonly machine: Machine
  readonly started: Date
  say(line: string): void
}

/** How every run begins: what killed runs left is removed, and a busy machine is said aloud. */
export async function begin(): Promise<Begun> {
  const say = (line: string) => process.stderr.write(`${line}\n`)
  await sweepAll()
  const machine = await describeMachine()
  if (!isQuiet(machine))
    say(`The machine is not quiet (load ${machine.loadBefore}, ${machine.busyBefore} cores busy): figures mean little.`)
  return { machine, started: new Date(), say }
}

/** What runs the guests, in words. */
export async function acceleratorName(): Promise<string> {
  return (await guestImage()).accelerator === 'kvm' ? 'KVM' : 'TCG (emulated)'
}

/** One host: endpoints on one core, the switch on another. Two hosts: all on both, placed by the scheduler. */
export function twoCores(): { readonly oneHost: Cores; readonly twoHosts: Cores } {
  const [first, second] = expandList(allCores())
  if (second === undefined) throw new Error('two cores are needed: one for the switch, one for the endpoints')
  const both = `${first},${second}`
  return {
    oneHost: { switch: String(second), sender: String(first), receiver: String(first) },
    twoHosts: { switch: both, sender: both, receiver: both },
  }
}

/** '0-2,5' -> [0, 1, 2, 5], as in /proc/PID/status. */
export function expandList(list: string): number[] {
  return list.split(',').flatMap((part) => {
    const [low, high] = part.split('-').map(Number)
    return Array.from({ length: (high ?? low!) - low! + 1 }, (_, index) => low! + index)
  })
}
