// A baseline's way of taking snapshots of all machines of a lab, and of restoring them: by QMP, with whatever its
// switches must be told before and after.

import type { Lab as Machines } from '../../test/lab/lab.js'
import type { MemberStamps, Round } from '../snapshot/rows.js'
import type { Taker } from '../snapshot/session.js'
import type { Taken } from '../snapshot/take.js'
import { loadFrom, type Saved, SavedMachine } from './machine.js'

export const nowUs = () => Math.round((performance.timeOrigin + performance.now()) * 1000)
const message = (error: unknown) => (error instanceof Error ? error.message : String(error))

/** The stamps of a baseline's snapshot in the form of a manifest's; what it has no counterpart of is not a number. */
function stampsOf(saved: Saved, openedAtUs: number): MemberStamps {
  const none = Number.NaN
  return {
    vm: saved.vm,
    host: saved.host,
    gatedAtUs: saved.pausedAtUs,
    settledAtUs: none,
    pausedAtUs: saved.pausedAtUs,
    cutAtUs: saved.cutAtUs,
    disksAtUs: none,
    savingAtUs: saved.startedAtUs,
    resumedAtUs: saved.resumedAtUs,
    // Early frames are dropped until the last machine has been cut.
    releasedAtUs: Math.max(saved.resumedAtUs, openedAtUs),
    sealedAtUs: saved.resumedAtUs,
    held: 0,
    early: 0,
    recorded: 0,
    residue: 0,
    lost: 0,
    memoryImageBytes: saved.bytes,
  }
}

export interface Baseline {
  begin(): Promise<void>
  /** `kept`: the name under which what is saved stays. */
  save(machine: SavedMachine, kept?: string): Promise<Saved>
  /** Frames that were dropped as early since the last call. */
  end(): Promise<number>
  close(): Promise<void>
}

/**
 * `together`: all machines at once, as a broadcast command makes each host do it; else one after the other, each
 * snapshot beginning with another one.
 */
export async function takerOf(lab: Machines, baseline: Baseline, together = true): Promise<Taker> {
  const machines: SavedMachine[] = []
  let restored: SavedMachine[] = []
  let first = 0
  const close = async () => {
    for (const machine of [...machines, ...restored]) machine.close()
    await baseline.close()
  }
  try {
    for (const machine of lab.machines.values()) machines.push(await SavedMachine.open(machine))
  } catch (error) {
    await close()
    throw error
  }
  const saveAll = async (kept?: string): Promise<Saved[]> => {
    if (together) return Promise.all(machines.map((machine) => baseline.save(machine, kept)))
    const saved: Saved[] = []
    for (let turn = 0; turn < machines.length; turn++)
      saved.push(await baseline.save(machines[(first + turn) % machines.length]!, kept))
    first = (first + 1) % machines.length
    return saved
  }
  const take = async (round: number): Promise<Taken> => {
    const askedAtUs = nowUs()
    const nothing: Pick<Round, 'globalMs' | 'members' | 'closures'> = {
      globalMs: Number.NaN,
      members: [],
      closures: [],
    }
    try {
      await baseline.begin()
      const saved = await saveAll()
      const early = await baseline.end()
      const answeredAtUs = nowUs()
      const members = saved.map((one, index) => ({ ...stampsOf(one, answeredAtUs), early: index === 0 ? early : 0 }))
      const globalMs = (answeredAtUs - askedAtUs) / 1000
      return { round, askedAtUs, answeredAtUs, ...nothing, globalMs, members, error: null }
    } catch (error) {
      return { round, askedAtUs, answeredAtUs: nowUs(), ...nothing, error: message(error) }
    }
  }
  const remove = async () => {
    for (const machine of machines) machine.forget()
  }
  const keep = async (name: string) => {
    await baseline.begin()
    await saveAll(name)
    await baseline.end()
  }
  // All are loaded before any runs: the best that can be made of what was saved.
  const restore = async (name: string) => {
    for (const machine of [...machines, ...restored]) machine.close()
    const names = [...lab.machines.keys()]
    for (const machine of machines) machine.putDiskBack(name)
    await Promise.all(
      machines.map((machine, at) =>
        lab.startMachine(names[at]!, undefined, { incoming: loadFrom(machine.memory(name)) }),
      ),
    )
    restored = await Promise.all([...lab.machines.values()].map((machine) => SavedMachine.loaded(machine)))
    await Promise.all(restored.map((machine) => machine.run()))
  }
  const memoryOf = async (name: string, machine: string) =>
    machines[[...lab.machines.keys()].indexOf(machine)]!.memory(name)
  return { take, remove, keep, restore, memoryOf, close }
}
