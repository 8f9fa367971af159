// The disks of a machine that is loaded: a fresh overlay for each, on its frozen chain.

import { open } from 'node:fs/promises'
import path from 'node:path'
import { SnapswitchError } from '../../errors/errors.js'
import type { Deadline, DiskLayer, LoadRequest } from '../hypervisor.js'
import { createOverlay, virtualSize } from './qemu-img.js'
import { storeFull } from './qemu-overlays.js'

export interface FreshDisk {
  readonly name: string
  readonly overlay: string
  /** The frozen chain that the overlay stands on. */
  readonly backing: readonly DiskLayer[]
}

/** Names of what is made go to `made`. Throws RESTORE_FAILED, STORE_FULL, STORE_IO. */
export async function makeFreshDisks(
  { definition, directory, disks }: Pick<LoadRequest, 'definition' | 'directory' | 'disks'>,
  made: string[],
  deadline: Deadline,
): Promise<FreshDisk[]> {
  const fresh: FreshDisk[] = []
  for (const { name, layers } of disks) {
    const overlay = path.join(directory, `${name.replace(/[^A-Za-z0-9_.-]+/g, '_').replace(/^[._]+/, '')}.qcow2`)
    if (made.includes(overlay)) {
      throw new SnapswitchError(
        'RESTORE_FAILED',
        `${definition.name} could not be loaded: two disks are named like ${name}`,
        'Give the machine’s disks names that differ in letters and digits, and take the snapshot again.',
      )
    }
    try {
      await (await open(overlay, 'wx', 0o600)).close()
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'ENOSPC') throw storeFull(directory, error)
      throw new SnapswitchError('STORE_IO', `${overlay} cannot be made: ${code}`, 'Check the directory.', error)
    }
    made.push(overlay)
    await createOverlay(overlay, layers[0]!, await virtualSize(layers[0]!, deadline), deadline)
    fresh.push({ name, overlay, backing: layers })
  }
  return fresh
}
