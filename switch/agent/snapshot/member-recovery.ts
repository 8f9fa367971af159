// One machine of a snapshot that is called off: it runs again, and nothing of its capture is left; or what is left
// stays on record, and is tried again (undoing.ts).

import { asSnapswitchError } from '../../../src/errors/errors.js'
import { hasOverlays, type UndoHost, undoOverlays } from '../leftovers.js'
import { resumeMachine } from '../resume.js'
import type { Member, SessionRequest } from './member.js'

/** What of a machine's cut its recovery looks at, and changes. */
export type CutMember = Pick<Member, 'vm' | 'control' | 'record' | 'capture' | 'seal' | 'paused' | 'stuck' | 'left'>

type Snapshot = Pick<SessionRequest, 'network' | 'snapshot'>

/** Past the session's deadline a machine still gets this long to run again. */
const RESUME_MS = 10_000
const MERGE_MS = 30_000

/** Never throws. What cannot be resumed stays on record. */
async function resume(host: UndoHost, request: Snapshot, member: CutMember): Promise<void> {
  const { vm } = member
  try {
    await resumeMachine(host, vm, member.control, host.clock.now().ms + RESUME_MS)
    member.paused = false
    if (member.capture === null) return
    // The driver could not take its overlays back from a machine that stood still.
    await takeBack(host, member)
  } catch (thrown) {
    const error = asSnapswitchError(thrown)
    host.log.error({ err: error, vm }, 'cannot resume')
    // One that has ended needs no resuming.
    if (error.code !== 'MACHINE_PAUSED') return
    member.stuck = error
    await keepRecord(host, request, vm)
  }
}

async function keepRecord({ journal, log }: UndoHost, { network, snapshot }: Snapshot, vm: string): Promise<void> {
  await journal.noteStuck(network, snapshot, vm).catch((failed) => log.error({ err: failed, vm }, 'no record'))
}

/** What the guest wrote since the cut goes back into its disks. */
async function takeBack(host: UndoHost, { vm, control, record }: CutMember): Promise<void> {
  const limit = host.clock.now().ms + MERGE_MS
  const { disks } = await control.inspect(limit)
  await undoOverlays(host, vm, control, record, disks, limit)
}

/**
 * Whatever happened: the guest runs, its gates are open, nothing of the capture is left. `openGates`: all of its
 * ports'. Never throws.
 */
export async function recover(
  host: UndoHost,
  request: Snapshot,
  member: CutMember,
  openGates: () => Promise<unknown>,
): Promise<void> {
  const { log } = host
  const quietly = async (what: string, work: Promise<unknown>) => {
    await work.catch((thrown) => log.warn({ err: thrown, vm: member.vm }, what))
  }
  if (member.paused && member.capture === null) await resume(host, request, member)
  await quietly('cannot release', openGates())
  if (member.capture === null) await quietly('cannot abandon', member.control.abandon())
  else {
    await quietly('capture failed', member.capture.sealed)
    if (member.paused) await resume(host, request, member)
    // The capture has succeeded, and the snapshot has not.
    if (member.seal !== null) await quietly('cannot merge', takeBack(host, member))
  }
  // A large QEMU that was killed takes seconds to end, and has its images for so long.
  await quietly('cannot tell what is left', noteLeft(host, request, member))
}

async function noteLeft(host: UndoHost, request: Snapshot, member: CutMember): Promise<void> {
  const { vm, record } = member
  if ((await host.machines.isThere(vm)) || !(await hasOverlays(host, vm, record))) return
  member.left = true
  await keepRecord(host, request, vm)
}
