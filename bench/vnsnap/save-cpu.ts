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
  readonly #lab: Lab
  readonly #machines: readonly Machine[]
  /** Seconds of all others that were ever seen. Some begin with the first snapshot, as the writer of images does. */
  readonly #others = new Map<number, number>()

  private constructor(lab: Lab, machines: readonly Machine[]) {
    this.#lab = lab
    this.#machines = machines
  }

  /** Of machines that have worked for a while: the thread of each that ran longest is its vCPU. */
  static async of(lab: Lab): Promise<SaveCpuMeter> {
    const machines = await lab.runningMachines()
    return new SaveCpuMeter(
      lab,
      machines.map(({ id: { pid } }) => ({ pid, vcpu: busiestThread(pid) })),
    )
  }

  async look(): Promise<SaveCpu> {
    const here = await Promise.all(this.#lab.plan.hosts.map((host) => processesIn(this.#lab.namespace(host))))
    const daemons = [...this.#lab.daemons.values()].map(({ id }) => id.pid)
    const isMachine = (pid: number) => this.#machines.some((machine) => machine.pid === pid)
    for (const pid of new Set([...here.flat().map(({ pid }) => pid), ...daemons]))
      if (!isMachine(pid)) this.#others.set(pid, Math.max(this.#others.get(pid) ?? 0, wholeSeconds(pid)))
    const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0)
    return {
      machines: sum(this.#machines.map(({ pid, vcpu }) => wholeSeconds(pid) - threadSeconds(pid, vcpu))),
      switches: sum([...this.#others.values()]),
    }
  }
}

function busiestThread(pid: number): number {
  const threads = readdirSync(`/proc/${pid}/task`).map(Number)
  return threads.reduce((busiest, one) => (threadSeconds(pid, one) > threadSeconds(pid, busiest) ? one : busiest))
}
