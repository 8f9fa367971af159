// Makes a failing scenario smaller as long as it fails in the same way: fewer orders, faults, frames, machines, hosts;
// then plainer numbers. Luck is drawn by key, so what is left behaves as it did.

import { type Plant, runScenario } from './run.js'
import { LAN_STATION, OUTSIDE, type Scenario } from './scenario.js'
import type { Violation } from './world.js'

export interface Shrunk {
  readonly scenario: Scenario
  readonly violation: Violation
  readonly runs: number
}

export interface ShrinkLimits {
  /** Most runs. */
  readonly shrinkRuns?: number | undefined
  /** A scenario of so few frames is small enough. */
  readonly fewFrames?: number | undefined
}

/** `scenario` must fail with `violation`. */
export async function shrink(
  scenario: Scenario,
  violation: Violation,
  plant: Plant,
  { shrinkRuns: budget = 700, fewFrames = -1 }: ShrinkLimits,
): Promise<Shrunk> {
  let best = scenario
  let found = violation
  let runs = 0
  const attempt = async (candidate: Scenario): Promise<boolean> => {
    if (runs >= budget || best.sends.length <= fewFrames) return false
    runs++
    const again = (await runScenario(candidate, plant)).violation
    if (again === null || kindOf(again) !== kindOf(violation)) return false
    best = candidate
    found = again
    return true
  }
  for (let better = true; better && runs < budget; ) {
    better = false
    for (const key of ['orders', 'faults', 'sends', 'outside'] as const) {
      if (await removePieces(key, () => best, attempt)) better = true
    }
    for (let vm = best.machines.length - 1; vm >= 0; vm--)
      if (best.machines.length > 1 && (await attempt(withoutMachine(best, vm)))) better = true
    for (let host = best.hosts - 1; host >= 0; host--)
      if (best.hosts > 1 && (await attempt(withoutHost(best, host)))) better = true
    if (await reroll(() => best, attempt)) better = true
    for (const simpler of simplifications(best)) if (await attempt({ ...best, ...simpler })) better = true
  }
  return { scenario: best, violation: found, runs }
}

/** Failures are the same when the rule is, and the words are but for the numbers. */
function kindOf(violation: Violation): string {
  return `${violation.invariant} ${violation.message.replace(/\d+/g, 'N').slice(0, 60)}`
}

/**
 * Where the luck of what is left depends on what is taken out after all: half of the frames may fail with other luck.
 */
async function reroll(current: () => Scenario, attempt: (candidate: Scenario) => Promise<boolean>): Promise<boolean> {
  let better = false
  for (let luck = 1; luck <= 24 && current().sends.length > 3; luck++) {
    const { sends, seed } = current()
    const rest = sends.filter((_, at) => (at + (luck >> 1)) % 2 === 0)
    if (await attempt({ ...current(), sends: rest, seed: seed + luck })) better = true
  }
  return better
}

/** Takes out halves, quarters, … down to single elements. */
async function removePieces(
  key: 'orders' | 'faults' | 'sends' | 'outside',
  current: () => Scenario,
  attempt: (candidate: Scenario) => Promise<boolean>,
): Promise<boolean> {
  let better = false
  for (let size = Math.ceil(current()[key].length / 2); size >= 1; size = size === 1 ? 0 : Math.ceil(size / 2)) {
    for (let at = current()[key].length - size; at >= 0; at -= size) {
      const scenario = current()
      const rest = [...scenario[key].slice(0, at), ...scenario[key].slice(at + size)]
      if (await attempt(withStations({ ...scenario, [key]: rest }))) better = true
    }
  }
  return better
}

/** Without frames from and to stations that are not there. */
function withStations(scenario: Scenario): Scenario {
  const isThere = (vm: number, station: number) => vm !== OUTSIDE || scenario.outside.includes(station)
  const sends = scenario.sends.filter((send) => isThere(send.vm, send.nic) && isThere(send.toVm, send.toNic))
  return { ...scenario, sends }
}

function withoutMachine(scenario: Scenario, vm: number): Scenario {
  const moved = (index: number) => (index > vm ? index - 1 : index)
  return {
    ...scenario,
    machines: scenario.machines.filter((_, index) => index !== vm),
    sends: scenario.sends
      .filter((send) => send.vm !== vm && send.toVm !== vm)
      .map((send) => ({ ...send, vm: moved(send.vm), toVm: moved(send.toVm) })),
    faults: scenario.faults
      .filter((fault) => !('vm' in fault) || fault.vm !== vm)
      .map((fault) => ('vm' in fault ? { ...fault, vm: moved(fault.vm) } : fault)),
  }
}

/** Its machines go to the one before it. */
function withoutHost(scenario: Scenario, host: number): Scenario {
  const moved = (index: number) => (index > host || (index === host && host > 0) ? index - 1 : index)
  const movedStation = (station: number) => (station === LAN_STATION ? station : moved(station))
  return withStations({
    ...scenario,
    hosts: scenario.hosts - 1,
    machines: scenario.machines.map((machine) => ({ ...machine, host: moved(machine.host) })),
    outside: scenario.outside.filter((one) => one !== host).map(movedStation),
    sends: scenario.sends
      .filter((send) => !(send.vm === OUTSIDE && send.nic === host) && !(send.toVm === OUTSIDE && send.toNic === host))
      .map((send) => ({
        ...send,
        nic: send.vm === OUTSIDE ? movedStation(send.nic) : send.nic,
        toNic: send.toVm === OUTSIDE ? movedStation(send.toNic) : send.toNic,
      })),
    faults: scenario.faults
      .map((fault) => {
        if ('host' in fault) return { ...fault, host: moved(fault.host) }
        return 'a' in fault ? { ...fault, a: moved(fault.a), b: moved(fault.b) } : fault
      })
      .filter((fault) => !('a' in fault) || fault.a !== fault.b),
  })
}

function simplifications(scenario: Scenario): Partial<Scenario>[] {
  const { trunk, pace, machines, orders, sends } = scenario
  const list: Partial<Scenario>[] = [
    { epoch: 0 },
    { keyed: false },
    { fastPath: false },
    { ageing: 300 },
    { policy: 'buffer' },
    { hold: 10_000 },
    { record: 10_000 },
    { portion: 256 },
    { trunk: { ...trunk, loss: 0 } },
    { trunk: { ...trunk, duplicate: 0 } },
    { trunk: { ...trunk, reorder: false } },
    { trunk: { ...trunk, jitter: 0 } },
    { machines: machines.map((machine) => ({ ...machine, stopped: false })) },
    { orders: orders.map((order) => ({ ...order, deadline: 20_000 })) },
    { sends: sends.map((send) => ({ ...send, at: Math.round(send.at) })) },
    { sends: sends.map((send) => ({ ...send, form: 'raw' as const })) },
    { sends: sends.map((send) => ({ ...send, form: send.form === 'raw' ? 'raw' : ('ipv4' as const) })) },
    { sends: sends.map((send) => ({ ...send, floating: false })) },
  ]
  for (const key of Object.keys(pace) as (keyof typeof pace)[]) {
    if (pace[key] > 0.5) list.push({ pace: { ...pace, [key]: Math.max(0.5, Math.floor(pace[key] / 3)) } })
  }
  const oneNic = machines.map((machine) => ({ ...machine, nics: 1 }))
  if (sends.every((send) => (send.vm === OUTSIDE || send.nic === 0) && (send.toVm === OUTSIDE || send.toNic === 0)))
    list.push({ machines: oneNic })
  return list.filter((change) =>
    Object.entries(change).some(
      ([key, value]) => JSON.stringify(scenario[key as keyof Scenario]) !== JSON.stringify(value),
    ),
  )
}
