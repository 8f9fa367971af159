// Merges images of a machine that is off: each overlay into the image directly below it, by qemu-img, which locks both.
// Committing empties the overlay, so that doing it again after a crash changes nothing.

import { stat } from 'node:fs/promises'
import { SnapswitchError } from '../../../src/errors/errors.js'
import type { Deadline, DiskLayer } from '../../../src/hypervisor/hypervisor.js'
import { filesOfBacking, readQcow2Header } from '../../../src/hypervisor/shared/qcow2-header.js'
import { carriesMore } from '../../../src/hypervisor/shared/qemu-collapse.js'
import { commitOverlay, holdsData, rebaseHeader } from '../../../src/hypervisor/shared/qemu-img.js'
import type { FileNames } from './names.js'

/** Throws SNAPSHOT_NEEDED when an overlay holds what a commit does not carry. Changes nothing. */
export async function checkOffline(overlays: readonly DiskLayer[]): Promise<void> {
  for (const { file } of overlays) {
    const header = await readQcow2Header(file)
    const obstacle =
      header === null || !header.whole
        ? 'it is no qcow2 image that can be read'
        : header.internalSnapshots > 0
          ? `it holds ${header.internalSnapshots} internal snapshots (savevm)`
          : header.bitmaps > 0
            ? `it holds ${header.bitmaps} dirty bitmaps of a backup program`
            : header.dataFile
              ? 'it has an external data file'
              : null
    if (obstacle !== null) throw carriesMore(file, obstacle)
  }
}

/** Commits `overlay` into `base`, which nobody has open. */
export async function mergeOffline(
  overlay: DiskLayer,
  base: DiskLayer,
  names: FileNames,
  deadline: Deadline,
): Promise<void> {
  await checkOffline([overlay])
  await refuseStale(overlay, base, deadline)
  await nameBase(overlay, base, names, deadline)
  await commitOverlay(overlay.file, base.file, deadline)
}

/**
 * A base that was written after its overlay was used without it: by a machine that was started on the base, most
 * likely. Either holds what somebody may want; merging would mix them.
 */
async function refuseStale(overlay: DiskLayer, base: DiskLayer, deadline: Deadline): Promise<void> {
  const [above, below] = [await stat(overlay.file), await stat(base.file)]
  if (above.mtimeMs >= below.mtimeMs || !(await holdsData(overlay, deadline))) return
  throw new SnapswitchError(
    'SNAPSHOT_NEEDED',
    `${overlay.file} stands on ${base.file}, which was written later: the machine was used without the overlay`,
    `Decide which of the two holds what you want. \`qemu-img commit ${overlay.file}\` merges them, \`touch ${overlay.file}\` has snapswitch do it.`,
  )
}

/** An overlay's header must name its base as it lies on this host. */
async function nameBase(overlay: DiskLayer, base: DiskLayer, names: FileNames, deadline: Deadline): Promise<void> {
  const header = await readQcow2Header(overlay.file)
  const named = header?.backing == null ? [] : filesOfBacking(header.backing, overlay.file)
  if (
    header?.backingFormat === base.format &&
    named.length === 1 &&
    (await names.of(named[0]!)) === (await names.of(base.file))
  )
    return
  await rebaseHeader(overlay, base, deadline)
}
