// Where a machine's disks are now: as its hypervisor says, or as was last known when it does not run.

import { setTimeout } from 'node:timers/promises'
import { unknownMachine } from '../../../src/api/names.js'
import type { MachineDisks } from '../../../src/api/schemas.js'
import type { MachineInfo } from '../../../src/hypervisor/hypervisor.js'
import type { DaemonHost } from '../host.js'
import { hasOverlays } from '../leftovers.js'
import { diskNotWhole, notRunning } from '../refusals.js'
import { diskFrozen, onFrozen } from './frozen.js'

const ENDING_MS = 300

/** `mayAsk` false: only what is on record. Throws MACHINE_UNKNOWN, SNAPSHOT_BUSY, and what asking it throws. */
export async function whereDisksAre(
  host: DaemonHost,
  vm: string,
  mayAsk: boolean,
  deadline: number,
): Promise<MachineDisks> {
  const recorded = host.disks.chains(vm)
  const isKnown = host.machines.spec(vm) !== undefined
  if (recorded === null && !isKnown) throw unknownMachine(host.name, vm, host.machines.names())
  const asked = (disks: readonly { name: string; layers: MachineDisks['disks'][number]['layers'] }[]) =>
    disks.map(({ name, layers }) => ({ name, layers: layers.map(({ file, format }) => ({ file, format })) }))
  const isThere = isKnown && (await host.machines.isThere(vm))
  if (!isThere) await checkWhole(host, vm)
  if (!mayAsk || !isThere) {
    const disks = Object.entries(recorded ?? {}).map(([name, layers]) => ({ name, layers: [...layers] }))
    return { vm, running: false, disks: asked(disks), problems: [] }
  }
  let info: MachineInfo
  try {
    info = await host.machines.using(vm, deadline, (control) => control.inspect(deadline))
  } catch (thrown) {
    // One that has just ended answers for a moment yet.
    await setTimeout(ENDING_MS)
    if (await host.machines.isThere(vm)) throw thrown
    return whereDisksAre(host, vm, false, deadline)
  }
  const { disks } = info
  const wrong = await onFrozen(host, vm, disks)
  const live = asked(disks.map(({ name, layers }) => ({ name, layers: [...layers] })))
  // One that runs on a frozen image: the right one is what a start script must use.
  const right = live.map((disk) => {
    const chain = wrong.some((one) => one.disk === disk.name) ? recorded?.[disk.name] : undefined
    return chain === undefined ? disk : { name: disk.name, layers: chain.map(({ file, format }) => ({ file, format })) }
  })
  const problems = wrong.map((one) => diskFrozen(vm, one))
  // One that its hypervisor has stopped, for want of room say, is not to be missed.
  if (info.state !== 'running') problems.push(notRunning(vm, info.state, info.stateDetail, host.machines.spec(vm)))
  return { vm, running: true, disks: right, problems: problems.map((problem) => problem.report()) }
}

/** Who starts a machine that was killed in a snapshot on its disk alone loses what is not back in it. */
async function checkWhole(host: DaemonHost, vm: string): Promise<void> {
  for (const { snapshot, machines } of await host.journal.unfinished()) {
    const mine = machines.find((one) => one.vm === vm)
    if (mine !== undefined && (await hasOverlays(host, vm, mine.record))) throw diskNotWhole(vm, snapshot)
  }
}
