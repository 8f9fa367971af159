// `scripts/bench forwarding --paired N`: 60-byte frames by subjects that are all there at once, in short trials by
// turns, with real-time priority, so that ratios hold beside other work, too. Rates only.

import { execFileSync } from 'node:child_process'
import { twoCores } from '../run/machine.js'
import type { Gear } from './gear.js'
import { Session } from './session.js'
import { median } from './statistics.js'
import type { Subject, Topology } from './subject.js'

/** Short enough for the rest of the machine. */
const TRIAL_MS = 150
/** Before all others but the kernel's own threads. */
const PRIORITY = '40'
/** Frames before the first trial: what a subject notices of its traffic it has noticed by then. */
const WARM = { rate: 5000, ms: 4500 }

/** Ratios are of neighbouring trials, to the first subject. */
export async function paired(subjects: readonly Subject[], rounds: number, gear: Gear): Promise<void> {
  execFileSync('chrt', ['--fifo', '--pid', PRIORITY, String(process.pid)])
  for (const topology of ['one-host', 'two-hosts'] as const) await measure(subjects, topology, rounds, gear)
}

async function measure(subjects: readonly Subject[], topology: Topology, rounds: number, gear: Gear): Promise<void> {
  const { oneHost, twoHosts } = twoCores()
  const sessions: Session[] = []
  const rates: number[][] = subjects.map(() => [])
  try {
    for (const subject of subjects)
      sessions.push(await Session.open(subject, topology, gear, topology === 'one-host' ? oneHost : twoHosts))
    for (const session of sessions) await session.cpuAt(WARM.rate, 60, WARM.ms)
    for (let round = 0; round < rounds; round++)
      for (const [i, session] of sessions.entries())
        rates[i]!.push((await session.saturation(60, TRIAL_MS)).deliveredPerSecond)
  } finally {
    for (const session of sessions) await session.close()
  }
  for (const [i, { id }] of subjects.entries()) {
    const own = rates[i]!
    const ratio = median(own.map((rate, round) => rate / rates[0]![round]!))
    const [least, most] = [Math.min(...own), Math.max(...own)].map((rate) => (rate / 1000).toFixed(0))
    const rate = (median(own) / 1000).toFixed(0)
    process.stdout.write(`${topology} ${id.padEnd(22)} ${rate} (${least} to ${most}) thousand/s, ${ratio.toFixed(3)}\n`)
  }
}
