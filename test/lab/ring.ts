// The token ring of a lab's machines, as their consoles tell of it. It goes on only if all machines do and all between
// them does, and counts what is lost or doubled.

import type { Test } from 'tap'
import { until } from './command.js'
import type { Lab, LabPlan } from './lab.js'

/**
 * What each machine waits before it passes the token on. A hop takes some milliseconds of emulated guests and of
 * switches: a quick ring that runs for as long as daemons start and images are written takes more of a test's processor
 * time than all that it tests.
 */
export const HOP_DELAY_US = 25_000

/** Machine `one` on host a, `two` on host b, and a ring over both. `prefix`: of their addresses, such as `10.80.0`. */
export function ringOfTwo(prefix: string, hops: number): LabPlan {
  const ring = { ring: [`${prefix}.1`, `${prefix}.2`], hops, hopDelayUs: HOP_DELAY_US, journalEvery: 5 }
  return {
    network: 'lab0',
    hosts: ['a', 'b'],
    memoryMiB: 128,
    machines: [
      { name: 'one', host: 'a', job: { ...ring, ip: `${prefix}.1/24`, node: 0 } },
      { name: 'two', host: 'b', job: { ...ring, ip: `${prefix}.2/24`, node: 1 } },
    ],
  }
}

/** The last hop that each machine has told of; -1: it has told nothing. */
export const hopsOf = (lab: Lab): number[] =>
  [...lab.machines.values()].map(({ console }) => console.state?.ring?.hop ?? -1)

export async function ringBegins(lab: Lab): Promise<void> {
  await until('the ring', 60_000, () => hopsOf(lab).every((hop) => hop > 10) || undefined)
}

/**
 * The ring goes on, from what the consoles say next; nothing was lost or doubled, the disks hold what memory says, and
 * no machine has booted anew.
 */
export async function ringGoesOn(t: Pick<Test, 'same' | 'match'>, lab: Lab): Promise<void> {
  await until('a first report of each machine', 60_000, () => hopsOf(lab).every((hop) => hop >= 0) || undefined)
  const before = Math.max(...hopsOf(lab))
  await until('the ring to go on', 60_000, () => hopsOf(lab).every((hop) => hop > before + 20) || undefined)
  for (const { console } of lab.machines.values()) {
    t.match(console.state, {
      ring: { resets: 0, duplicated: 0, skipped: 0, corrupt: 0, failed: false },
      disk: { mismatches: 0, errors: 0 },
    })
    t.same(console.errors, [])
    t.same(
      console.lines.filter(({ type }) => type === 'start'),
      [],
      'none booted anew',
    )
  }
}
