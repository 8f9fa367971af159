// Runs a scenario and says what became of it.

import { checkInvariants } from './invariants.js'
import { observe } from './observe.js'
import type { Scenario } from './scenario.js'
import { type Planted, Violation, World } from './world.js'

export interface Run {
  readonly world: World
  /** Null: all invariants held. */
  readonly violation: Violation | null
}

/** `planted` makes the fault anew for each run: what it remembers must not pass from one to the next. */
export type Plant = () => Planted

export async function runScenario(scenario: Scenario, plant: Plant = () => ({}), traced = false): Promise<Run> {
  const world = new World(scenario, plant(), traced)
  try {
    observe(world)
    await world.run()
    checkInvariants(world)
    return { world, violation: null }
  } catch (thrown) {
    if (thrown instanceof Violation) return { world, violation: thrown }
    // A crash of the product's code is a failure like any other: it is shrunk and shown.
    const crash = new Violation(0, thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown))
    return { world, violation: crash }
  }
}
