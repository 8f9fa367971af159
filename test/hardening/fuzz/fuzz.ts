// Runs fuzz cases. A case is a target and a seed, nothing else: it fails again wherever it is run again.

import { Random } from '../../simulation/chance.js'
import * as codecs from './codecs.js'
import { forwarder } from './forwarder.js'
import { gso } from './gso.js'
import * as captures from './traces.js'

const targets = { forwarder, gso, ...codecs, ...captures } as const satisfies Record<string, (random: Random) => void>
export type Target = keyof typeof targets
export const targetNames = Object.keys(targets) as Target[]

/** A case takes some milliseconds; one that takes this long loops. */
const SLOW_MS = 5000

/** @throws Error that names the case, with what went wrong as its cause */
export function runCase(target: Target, seed: number): void {
  const before = performance.now()
  try {
    targets[target](new Random(seed))
  } catch (cause) {
    const what = cause instanceof Error ? cause.message : String(cause)
    throw new Error(`${what}\nto see it again: npm run fuzz -- --target ${target} --seed ${seed}`, { cause })
  }
  const took = performance.now() - before
  if (took > SLOW_MS) throw new Error(`${target} with seed ${seed} took ${Math.round(took)} ms`)
}

/** Cases with the seeds from `seed` on, until `milliseconds` have passed. Returns how many there were. */
export function runFor(target: Target, seed: number, milliseconds: number): number {
  const end = performance.now() + milliseconds
  let cases = 0
  while (performance.now() < end) runCase(target, (seed + cases++) >>> 0)
  return cases
}
