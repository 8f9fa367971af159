// Two hosts with guests, recorded through two snapshots and a restore: ten replays of each recording, side by side, in
// other processes and time zones, come to one digest.

import { join } from 'node:path'
import t from 'tap'
import type { Manifest } from '../../src/api/schemas.js'
import { until } from '../lab/command.js'
import { Lab, type LabPlan } from '../lab/lab.js'
import { HOP_DELAY_US } from '../lab/ring.js'
import { fileLimit } from '../patience.js'
import { Recording, replayed, ZONES } from './processes.js'

t.setTimeout(fileLimit(300_000))

const REPLAYS = 10
const [one, two] = ['10.81.0.1', '10.81.0.2'] as const
const ring = { ring: [one, two], hops: 10_000_000, hopDelayUs: HOP_DELAY_US }
const plan: LabPlan = {
  network: 'lab0',
  hosts: ['a', 'b'],
  memoryMiB: 128,
  machines: [
    {
      name: 'vm1',
      host: 'a',
      job: { ...ring, ip: `${one}/24`, node: 0, send: [`1@${two}:5001/60`], receive: ['2@5002'] },
    },
    {
      name: 'vm2',
      host: 'b',
      job: { ...ring, ip: `${two}/24`, node: 1, send: [`2@${one}:5002/60`], receive: ['1@5001'] },
    },
  ],
}

t.test('two snapshots and a restore', async (t) => {
  const lab = await Lab.build(plan)
  t.teardown(() => lab.destroy())
  for (const host of plan.hosts) await lab.startSwitch(host)
  await lab.startCoordinator()
  await lab.startMachines()
  const hops = (name: string) => lab.machine(name).console.state?.ring?.hop ?? 0
  const goOn = async () => {
    for (const name of ['vm1', 'vm2']) {
      const before = hops(name)
      await until(`the ring at ${name}`, 90_000, () => hops(name) > before + 20 || undefined)
    }
  }
  await goOn()
  const recordings = await Promise.all(
    plan.hosts.map((host) =>
      new Recording(lab.switchSocket(host), 'lab0', join(lab.directory, `${host}.pcapng`)).begun(),
    ),
  )
  await goOn()
  const first = await lab.snapswitchJson<Manifest>(['snapshot', 'create', 'lab0', '--name', 'first', '--record'])
  // The run is recorded already, and this recording goes on through the cut.
  for (const part of first.parts) t.match(part, { run: undefined, runProblem: /a recording of it runs already/ })
  await goOn()
  await lab.snapswitchJson(['snapshot', 'create', 'lab0', '--name', 'second'])
  await goOn()
  lab.restartConsoles()
  await lab.snapswitchJson(['snapshot', 'restore', 'first', '--replace'], undefined, 120_000)
  await goOn()
  for (const recording of recordings) t.equal(await recording.stop(), 0, recording.said)
  for (const { path } of recordings) {
    const runs = Array.from({ length: REPLAYS }, (_, at) => replayed(path, ZONES[at % ZONES.length], '--state'))
    const found = await Promise.all(runs)
    t.match(found[0], { same: true, truncated: false, end: 'asked' }, 'the same comes out')
    t.equal(new Set(found.map(({ digest }) => digest)).size, 1, 'one digest')
    t.equal(found[0]!.restores.length, 1, 'it says that there was a restore')
    t.same(
      found[0]!.cuts.map(({ epoch }) => epoch),
      [1, 2],
    )
    t.match(found[0]!.state, { epoch: 3, fence: 3 })
    t.comment(`${found[0]!.frames} frames, digest ${found[0]!.digest}`)
  }
})
