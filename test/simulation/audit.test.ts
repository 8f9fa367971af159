// Faults planted in the rules, and found by the production audit in recordings of the run, without any of the
// simulation's own knowledge of who sent what.

import t from 'tap'
import type { AuditVerdict } from '../../src/api/schemas.js'
import { fileLimit } from '../patience.js'
import { auditOf } from './audit.js'
import { type PlantedFault, plantedFaults } from './faults.js'
import { fastPathFaults } from './faults-fast.js'
import { type Plant, runScenario } from './run.js'
import { drawOnTrunks, isCalm } from './scenario.js'
import type { Planted } from './world.js'

t.setTimeout(fileLimit(60_000))

const SEED = 8_000_000
const SCHEDULES = 2_000

const found = [
  'the drain is dropped',
  'early frames are delivered',
  'in-transit frames are not recorded',
  'in-transit frames are recorded and not delivered',
  'the gate is never closed',
  'the hold queue is flushed after later frames',
  'only the first NIC of a machine is flipped in time',
  'a network stays fast while gates are closed',
]

/** What the simulation sees with its own eyes ends no run. */
const unseen = (plant: Plant): Plant => {
  return () => {
    const planted = plant()
    const worker: Planted['worker'] = (worker) => {
      worker.daemon.world.violation = () => undefined
      planted.worker?.(worker)
    }
    return { ...planted, worker }
  }
}

/** Verdicts on the snapshots of a schedule. */
async function verdictsOf(seed: number, plant: Plant, adapt: PlantedFault['adapt']): Promise<AuditVerdict[]> {
  const drawn = drawOnTrunks(seed)
  const scenario = { ...(adapt?.(drawn) ?? drawn), recorded: true }
  if (!isCalm(scenario) || scenario.chain) return []
  const { world } = await runScenario(scenario, unseen(plant))
  return [...world.catalogue.values()].flatMap((manifest) =>
    manifest.state === 'complete' ? (auditOf(world, manifest)?.verdict ?? []) : [],
  )
}

for (const name of found) {
  t.test(`the audit finds: ${name}`, async (t) => {
    const { plant, adapt } = [...plantedFaults, ...fastPathFaults].find((one) => one.name === name)!
    for (let seed = SEED; seed < SEED + SCHEDULES; seed++) {
      if (!(await verdictsOf(seed, plant, adapt)).includes('violated')) continue
      t.notOk(
        (await verdictsOf(seed, () => ({}), adapt)).includes('violated'),
        `seed ${seed}: without the fault it finds nothing`,
      )
      return
    }
    t.fail(`not found in ${SCHEDULES} schedules`)
  })
}
