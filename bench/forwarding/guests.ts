// The guests part: two small virtual machines on one host, their TAPs joined by the switch. Emulated guests take most
// of the time themselves: ratios between switches are near 1 then, and say that a switch does not matter.

import { setTimeout as sleep } from 'node:timers/promises'
import { until } from '../../test/lab/command.js'
import type { Lab } from '../../test/lab/lab.js'
import { machineName } from '../snapshot/plan.js'
import { buildLab, leaveLab } from '../snapshot/session.js'
import { startGuestTraffic, type Traffic } from '../snapshot/traffic.js'
import { makeBridges } from '../vnsnap/bridged.js'
import { bootRing, ringLab } from '../vnsnap/ring.js'

/** Two reports a second, for a ring that has gone round before; others shall have their time when one stands still. */
const NEXT_REPORT_MS = 15_000

export interface GuestsPlan {
  readonly memoryMiB: number
  readonly milliseconds: number
}

export interface GuestsSubject {
  readonly id: string
  readonly title: string
  join(lab: Lab): Promise<unknown>
}

const withSwitch = (id: string, title: string, fastPath: 'auto' | 'off'): GuestsSubject => ({
  id,
  title,
  join: (lab) => lab.startSwitch('a', { ...lab.switchConfig('a'), datapath: { fastPath } }),
})

export const guestsSubjects: readonly GuestsSubject[] = [
  { id: 'bridge', title: 'guests: Linux bridge', join: makeBridges },
  withSwitch('snapswitch-fast', 'guests: fast path', 'auto'),
  withSwitch('snapswitch-userspace', 'guests: userspace', 'off'),
]

export async function measureGuests(
  subject: GuestsSubject,
  { memoryMiB, milliseconds }: GuestsPlan,
  figures: Record<string, number>,
): Promise<void> {
  const built = buildLab(ringLab({ machines: 2, hosts: 1 }, memoryMiB))
  let traffic: Traffic | undefined
  try {
    const lab = await built
    await subject.join(lab)
    await bootRing(lab)
    const hop = () => lab.machine(machineName(0)).console.state?.ring?.hop ?? 0
    // A report comes twice a second: from one to another, when it comes.
    const nextReport = async () => {
      const last = hop()
      const next = await until('hops of the ring', NEXT_REPORT_MS, () => (hop() > last ? hop() : undefined))
      return { hop: next, atMs: performance.now() }
    }
    await nextReport()
    const from = await nextReport()
    await sleep(milliseconds)
    const to = await nextReport()
    figures.guestHop = ((to.atMs - from.atMs) / (to.hop - from.hop)) * 1000
    traffic = await startGuestTraffic(lab)
    await sleep(milliseconds)
    figures.guestTcp = (await traffic.stop()).bitsPerSecond
  } finally {
    await leaveLab(built)
    await traffic?.destroy().catch(() => undefined)
  }
}
