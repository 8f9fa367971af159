// Many schedules in a row, until a number of them or a time is reached. The first that fails is shrunk and drawn.

import { type Coverage, cover } from './coverage.js'
import { drawDiagram } from './diagram.js'
import { type Plant, runScenario } from './run.js'
import { drawScenario, type Scenario } from './scenario.js'
import { type ShrinkLimits, shrink } from './shrink.js'
import type { Violation } from './world.js'

export interface CampaignOptions extends ShrinkLimits {
  readonly seed: number
  /** Most schedules. */
  readonly schedules: number
  /** Most seconds of real time. */
  readonly seconds: number
  readonly plant?: Plant
  readonly draw?: (seed: number) => Scenario
  /** Changes what was drawn. */
  readonly adapt?: (scenario: Scenario) => Scenario
  /** Called every ten thousand schedules. */
  readonly onProgress?: (tally: Tally) => void
}

export interface Tally {
  schedules: number
  frames: number
  complete: number
  failed: number
  restored: number
  seconds: number
  readonly coverage: Coverage
}

export interface Failure {
  readonly seed: number
  readonly violation: Violation
  /** The smallest schedule found that fails in the same way, and how it went. */
  readonly scenario: Scenario
  readonly diagram: string
}

export interface Campaign {
  readonly tally: Tally
  readonly failure: Failure | null
}

export async function runCampaign(options: CampaignOptions): Promise<Campaign> {
  const { plant = () => ({}), draw = drawScenario, adapt = (scenario: Scenario) => scenario } = options
  const start = performance.now()
  const tally: Tally = { schedules: 0, frames: 0, complete: 0, failed: 0, restored: 0, seconds: 0, coverage: new Map() }
  while (tally.schedules < options.schedules && tally.seconds < options.seconds) {
    const seed = (options.seed + tally.schedules) | 0
    const scenario = adapt(draw(seed))
    const { world, violation } = await runScenario(scenario, plant)
    tally.schedules++
    tally.frames += world.frames.length
    cover(tally.coverage, world)
    for (const { order, error } of world.outcomes) {
      if (error !== null) tally.failed++
      else if (order.kind === 'restore') tally.restored++
      else tally.complete++
    }
    tally.seconds = (performance.now() - start) / 1000
    if (violation !== null) return { tally, failure: await explain(options, seed, scenario, violation) }
    if (tally.schedules % 10_000 === 0) options.onProgress?.(tally)
  }
  return { tally, failure: null }
}

export function describeTally(tally: Tally): string {
  const { schedules, frames, complete, failed, restored, seconds } = tally
  const rate = Math.round(schedules / Math.max(seconds, 0.001))
  return (
    `${schedules} schedules with ${frames} frames in ${seconds.toFixed(1)} s (${rate}/s): ` +
    `${complete} snapshots complete, ${restored} restores done, ${failed} failed as they should`
  )
}

async function explain(
  { plant = () => ({}), ...limits }: CampaignOptions,
  seed: number,
  scenario: Scenario,
  violation: Violation,
): Promise<Failure> {
  const shrunk = await shrink(scenario, violation, plant, limits)
  const { world, violation: again } = await runScenario(shrunk.scenario, plant, true)
  return { seed, violation: again ?? shrunk.violation, scenario: shrunk.scenario, diagram: drawDiagram(world, again) }
}
