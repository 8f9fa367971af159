// Snapshots on a plain Linux bridge without coordination: one by one, or at once.

import { run } from '../../test/lab/command.js'
import type { Lab as Machines } from '../../test/lab/lab.js'
import type { SnapshotSystem } from '../snapshot/session.js'
import { takerOf } from './taker.js'

/** A Linux bridge on each host, with its machines and its trunk. */
export async function makeBridges(lab: Machines): Promise<void> {
  for (const host of lab.plan.hosts) {
    const namespace = lab.namespace(host)
    const others = lab.plan.hosts.filter((one) => one !== host).map((one) => `to-${one}`)
    const taps = [...lab.machines.values()].filter(({ plan }) => plan.host === host).map(({ tap }) => tap)
    await run('ip', ['-n', namespace, 'link', 'add', 'br0', 'type', 'bridge'])
    for (const device of [...others, ...taps])
      await run('ip', ['-n', namespace, 'link', 'set', device, 'master', 'br0'])
    await run('ip', ['-n', namespace, 'link', 'set', 'br0', 'up'])
  }
}

function uncoordinated(id: string, title: string, order: string, together: boolean): SnapshotSystem {
  return {
    id,
    title,
    setup: `a Linux bridge on each host; the machines are stopped, saved, and run on, ${order}, and nothing else`,
    policy: 'drop',
    plan: (plan) => plan,
    async start(lab) {
      await makeBridges(lab)
      const nothing = async () => undefined
      return () =>
        takerOf(
          lab,
          {
            begin: nothing,
            save: (machine, kept) => machine.saveStopped(nothing, kept),
            end: async () => 0,
            close: nothing,
          },
          together,
        )
    },
  }
}

export const uncoordinatedSystem = uncoordinated('uncoordinated', 'one by one', 'one after the other', false)

/** By a script that starts all at the same time. */
export const atOnceSystem = uncoordinated('at-once', 'all at once', 'all at the same time', true)
