// The files of a machine's part as they lie on this host.

import { filesOfMember } from '../../src/api/files.js'
import type { FileReference, FrozenLayer, MemberPart } from '../../src/api/schemas.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import type { DiskLayer, FrozenDisk, LoadRequest, Medium } from '../../src/hypervisor/hypervisor.js'

/** Where a file lies on this host; null: nowhere (images.ts, `finder`). */
export type Find = (file: FileReference) => Promise<string | null>

export type LocatedFiles = Pick<LoadRequest, 'memoryFile' | 'disks' | 'media' | 'files'>

const asTheyAre = async (path: string): Promise<string> => path

/**
 * Throws STORE_DAMAGED when one is not here. `openedAt`: where the machine's own process opens a file by name; its
 * memory is handed over as a descriptor.
 */
export async function locateFiles(find: Find, part: MemberPart, openedAt = asTheyAre): Promise<LocatedFiles> {
  const here = new Map<FileReference, string>()
  // All first: a file whose group is changed is digested again when it is looked for.
  for (const file of filesOfMember(part)) {
    const path = await find(file)
    if (path === null) {
      throw new SnapswitchError(
        'STORE_DAMAGED',
        `${file.path} of ${part.vm} is not here, or was changed since the snapshot`,
        'Bring the file back, or use another snapshot.',
      )
    }
    here.set(file, path)
  }
  const open = (file: FileReference) => openedAt(here.get(file)!)
  const layersOf = async (frozen: readonly FrozenLayer[]) => {
    const layers: DiskLayer[] = []
    for (const { file, format, data } of frozen)
      layers.push({ file: await open(file), format, ...(data && { dataFile: await open(data) }) })
    return layers
  }
  const disks: FrozenDisk[] = []
  for (const disk of part.disks) {
    disks.push({ name: disk.name, overlay: disk.overlay, layers: await layersOf(disk.layers) })
  }
  const media: Medium[] = []
  for (const { name, file, format, removable, backing } of part.media ?? []) {
    const path = file === null ? null : await open(file)
    media.push({ name, file: path, format, removable, ...(backing && { backing: await layersOf(backing) }) })
  }
  const files = new Map<string, string>()
  for (const { file } of part.files ?? []) files.set(file.path, await open(file))
  return { memoryFile: here.get(part.memory)!, disks, media, files }
}
