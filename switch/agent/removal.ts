// Removing one host's part of a snapshot: its images go, and the disk layers that it froze are merged back into the
// running machines' disks where nothing else stands on them.

import type { LocalPart, MemberPart } from '../../src/api/schemas.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import type { FrozenDisk } from '../../src/hypervisor/hypervisor.js'
import type { Host } from './host.js'
import { filesOf } from './local-store.js'

const INSPECT_MS = 3000
const MERGE_MS = 60_000

/** Harmless when there is no such part. Throws SNAPSHOT_NEEDED, and then nothing was changed. */
export async function removePart(host: Host, network: string, snapshot: string): Promise<void> {
  const others = (await host.store.parts()).filter((part) => part.network !== network || part.snapshot !== snapshot)
  await refuseIfNeeded(host, network, snapshot, others)
  const part = await host.store.readPart(network, snapshot)
  const needed = new Set(others.flatMap((other) => filesOf(other).map((file) => file.path)))
  for (const member of part?.members ?? []) await mergeDisks(host, member, needed)
  // The record of a machine that stands still outlives the snapshot that has paused it.
  if (part === null && (await host.journal.hasStuck(network, snapshot))) return
  await host.store.remove(network, snapshot)
}

/** Merging writes to the frozen layer: not to one that another snapshot names. Disks that stay layered cost only space. */
async function mergeDisks(host: Host, member: MemberPart, needed: ReadonlySet<string>): Promise<void> {
  const disks: FrozenDisk[] = member.disks
    .filter(({ layers, copied }) => layers.slice(0, copied ? 2 : 1).every(({ file }) => !needed.has(file.path)))
    .map(({ name, overlay, copied, layers }) => ({
      name,
      overlay,
      ...(copied === undefined ? {} : { copied }),
      layers: layers.map(({ file, format }) => ({ file: file.path, format })),
    }))
  if (disks.length === 0 || !(await host.machines.isThere(member.vm))) return
  const deadline = performance.now() + MERGE_MS
  try {
    await host.machines.using(member.vm, deadline, async (control) => {
      for (const disk of disks) await control.mergeFrozen(disk, deadline)
    })
  } catch (thrown) {
    host.log.warn({ err: thrown, vm: member.vm }, 'disks stay layered')
  }
}

/** A running machine, or another snapshot, may stand on files that lie in this snapshot's directory. */
async function refuseIfNeeded(host: Host, network: string, snapshot: string, others: readonly LocalPart[]) {
  const inside = (path: string) => path.startsWith(`${host.store.directory(network, snapshot)}/`)
  for (const other of others) {
    if (filesOf(other).some((file) => inside(file.path))) {
      throw new SnapswitchError(
        'SNAPSHOT_NEEDED',
        `snapshot ${other.network}/${other.snapshot} stands on disks of ${snapshot}`,
        `Delete ${other.snapshot} first.`,
      )
    }
  }
  for (const vm of host.machines.names()) {
    if (!(await host.machines.isThere(vm))) continue
    const deadline = performance.now() + INSPECT_MS
    const info = await host.machines.using(vm, deadline, (control) => control.inspect(deadline))
    if (info.disks.some((disk) => disk.layers.some((layer) => inside(layer.file)))) {
      throw new SnapswitchError(
        'SNAPSHOT_NEEDED',
        `machine ${vm} runs on disks of snapshot ${snapshot}`,
        `Shut ${vm} down first, or keep the snapshot.`,
      )
    }
  }
}
