// Campaigns in a thread of their own. In a test's thread tap follows each promise, which takes a fifth of a campaign's
// time.

import { once } from 'node:events'
import { isMainThread, parentPort, Worker } from 'node:worker_threads'
import { runCampaign, type Tally } from './campaign.js'
import { plantedFaults } from './faults.js'
import { fastPathFaults } from './faults-fast.js'
import { networkFaults } from './faults-networks.js'
import { uplinkFaults } from './faults-uplink.js'
import { runScenario } from './run.js'
import { drawOnTrunks, type Scenario } from './scenario.js'
import type { ShrinkLimits } from './shrink.js'

export const faults = [...plantedFaults, ...uplinkFaults, ...networkFaults, ...fastPathFaults]

export interface Task extends ShrinkLimits {
  readonly seed: number
  readonly schedules: number
  readonly seconds: number
  /** The name of one of `faults`; its schedules are drawn on trunks, and adapted as it says. */
  readonly fault?: string
}

export interface Result {
  readonly tally: Tally
  readonly failure: {
    readonly seed: number
    readonly invariant: number
    readonly message: string
    readonly scenario: Scenario
    readonly diagram: string
    /** What the same schedule breaks without the fault. */
    readonly without: string | null
  } | null
}

/** The thread. One task at a time. */
export class CampaignThread {
  readonly #worker = new Worker(new URL(import.meta.url))

  async run(task: Task): Promise<Result> {
    this.#worker.postMessage(task)
    const [result] = await once(this.#worker, 'message')
    return result as Result
  }

  async end(): Promise<void> {
    await this.#worker.terminate()
  }
}

async function perform({ fault: name, ...options }: Task): Promise<Result> {
  const fault = faults.find((one) => one.name === name)
  const adapted = fault?.adapt === undefined ? {} : { adapt: fault.adapt }
  const planted = fault === undefined ? {} : { plant: fault.plant, draw: drawOnTrunks, ...adapted }
  const { tally, failure } = await runCampaign({ ...options, ...planted })
  if (failure === null) return { tally, failure }
  const { seed, violation, scenario, diagram } = failure
  const { invariant, message } = violation
  const without = fault === undefined ? null : ((await runScenario(scenario)).violation?.message ?? null)
  return { tally, failure: { seed, invariant, message, scenario, diagram, without } }
}

if (!isMainThread) parentPort!.on('message', async (task: Task) => parentPort!.postMessage(await perform(task)))
