// What a snapshot costs in processor time, whoever gets it first: of the machines' QEMUs beyond their vCPUs (saving
// memory), and of everything else on the hosts (switches, writers, commands). It says how much of a slow-down the
// machine itself makes: what is measured in seconds of the clock depends on cores and on other work.

import { readdirSync } from 'node:fs'
import type { Lab } from '../../test/lab/lab.js'
import { processesIn } from '../../test/lab/namespaces.js'
import { threadSeconds, wholeSeconds } from '../lab/cpu.js'

export interface SaveCpu {
  /** Seconds. */
  readonly machines: number
  readonly switches: number
}

interface Machine {
  readonly pid: number
  readonly vcpu: number
}

export class SaveCpuMeter {
  readonly #machines: readonly Machine[]
  readonly #others: readonly number[]

  private constructor(machines: readonly Machine[], others: readonly number[]) {
    this.#machines = machines
    this.#others = others
  }

  /** Of machines that have worked for a while: the thread of each that ran longest is its vCPU. */
  static async of(lab: Lab): Promise<SaveCpuMeter> {
    const machines = (await lab.runningMachines()).map(({ id: { pid } }) => ({ pid, vcpu: busiestThread(pid) }))
    const here = await Promise.all(lab.plan.hosts.map((host) => processesIn(lab.namespace(host))))
    const daemons = [...lab.daemons.values()].map(({ id }) => id.pid)
    const others = new Set([...here.flat().map(({ pid }) => pid), ...daemons])
    for (const { pid } of machines) others.delete(pid)
    return new SaveCpuMeter(machines, [...others])
  }

  look(): SaveCpu {
    const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0)
    return {
      machines: sum(this.#machines.map(({ pid, vcpu }) => wholeSeconds(pid) - threadSeconds(pid, vcpu))),
      switches: sum(this.#others.map(wholeSeconds)),
    }
  }
}

function busiestThread(pid: number): number {
  const threads = readdirSync(`/proc/${pid}/task`).map(Number)
  return threads.reduce((busiest, one) => (threadSeconds(pid, one) > threadSeconds(pid, busiest) ? one : busiest))
}
