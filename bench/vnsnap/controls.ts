// What the machine itself costs a ring: QEMU's saves alone, as snapswitch has them made but without an epoch, gates or
// disks; and processor time alone, with nothing saved. The ring is on snapswitch's switches in both, as bystanders.

import type { Lab as Machines } from '../../test/lab/lab.js'
import { threadSeconds } from '../lab/cpu.js'
import { allCores, Lab as Bench } from '../lab/lab.js'
import { type Service, sleep } from '../lab/processes.js'
import { network } from '../snapshot/plan.js'
import type { SnapshotSystem, Taker } from '../snapshot/session.js'
import { nowUs, takerOf } from './taker.js'

/** Switches that know of no machine: their ports are plain ones. */
async function startBystanders(lab: Machines): Promise<void> {
  for (const host of lab.plan.hosts) {
    const config = lab.switchConfig(host)
    const { ports } = (config.networks as Record<string, { ports: Record<string, Record<string, unknown>> }>)[network]!
    const plain = Object.fromEntries(
      Object.entries(ports).map(([name, { vm, ...port }]) => [
        name,
        vm === undefined ? port : { ...port, kind: 'plain' },
      ]),
    )
    await lab.startSwitch(host, { ...config, machines: {}, networks: { [network]: { ports: plain } } })
  }
}

const nothing = async () => undefined

export const saveAloneSystem: SnapshotSystem = {
  id: 'save-alone',
  title: 'QEMU’s saves alone',
  setup:
    'a control: QEMU’s own background saves of both machines to a file each, as snapswitch has them made; no epoch, no disks',
  policy: 'drop',
  plan: (plan) => plan,
  async start(lab) {
    await startBystanders(lab)
    return () =>
      takerOf(lab, { begin: nothing, save: (machine) => machine.saveBehind(), end: async () => 0, close: nothing })
  },
}

const LOOK_MS = 2
const BURN_LIMIT_MS = 60_000

/** Not peers: no headline compares with them. */
export const controlsOf = (snapshotSeconds: () => number): SnapshotSystem[] => [
  saveAloneSystem,
  burnSystem(snapshotSeconds),
]

/** `seconds`: of a processor, that each snapshot's place takes, shared out to the hosts. */
const burnSystem = (seconds: () => number): SnapshotSystem => ({
  id: 'burn',
  title: 'busy loops alone',
  setup: 'a control: on each host a loop at ordinary priority, together as long as a snapshot takes of the processors',
  policy: 'drop',
  plan: (plan) => plan,
  async start(lab) {
    await startBystanders(lab)
    const bench = new Bench()
    return async () => burner(lab, bench, seconds)
  },
})

function burner(lab: Machines, bench: Bench, seconds: () => number): Taker {
  const loops: Service[] = []
  const burn = async (host: string) => {
    const limit = performance.now() + BURN_LIMIT_MS
    const loop = await bench.startAt({ namespace: lab.namespace(host), cores: allCores() }, [
      'sh',
      '-c',
      'while :; do :; done',
    ])
    loops.push(loop)
    while (threadSeconds(loop.pid, loop.pid) < seconds() / lab.plan.hosts.length) {
      if (performance.now() > limit) throw new Error('a busy loop got no core')
      await sleep(LOOK_MS)
    }
    // It stands still until the run is over: whoever counts what the run took finds it there.
    process.kill(loop.pid, 'SIGSTOP')
  }
  const remove = async () => {
    for (const loop of loops.splice(0)) await loop.stop('SIGKILL')
  }
  const none = async () => {
    throw new Error('nothing is saved')
  }
  return {
    take: async (round) => {
      const askedAtUs = nowUs()
      await Promise.all(lab.plan.hosts.map(burn))
      const answeredAtUs = nowUs()
      const globalMs = (answeredAtUs - askedAtUs) / 1000
      return {
        round,
        askedAtUs,
        answeredAtUs,
        globalMs,
        members: [],
        closures: [],
        error: null,
      }
    },
    remove,
    keep: none,
    restore: none,
    memoryOf: none,
    close: async () => {
      await remove()
      await bench.destroy()
    },
  }
}
