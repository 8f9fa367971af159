// The files of a machine's part as they lie on this host.

import type { FileReference, FrozenLayer, MemberPart } from '../../src/api/schemas.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import type { DiskLayer, FrozenDisk, LoadRequest, Medium } from '../../src/hypervisor/hypervisor.js'

/** Where a file lies on this host; null: nowhere (images.ts, `finder`). */
export type Find = (file: FileReference) => Promise<string | null>

export type LocatedFiles = Pick<LoadRequest, 'memoryFile' | 'disks' | 'media' | 'files'>

/** Throws STORE_DAMAGED when one is not here. */
export async function locateFiles(find: Find, part: MemberPart): Promise<LocatedFiles> {
  const locate = async (file: FileReference) => {
    const path = await find(file)
    if (path !== null) return path
    throw new SnapswitchError(
      'STORE_DAMAGED',
      `${file.path} of ${part.vm} is not here, or was changed since the snapshot`,
      'Bring the file back, or use another snapshot.',
    )
  }
  const layersOf = async (frozen: readonly FrozenLayer[]) => {
    const layers: DiskLayer[] = []
    for (const { file, format, data } of frozen)
      layers.push({ file: await locate(file), format, ...(data && { dataFile: await locate(data) }) })
    return layers
  }
  const memoryFile = await locate(part.memory)
  const disks: FrozenDisk[] = []
  for (const disk of part.disks) {
    disks.push({ name: disk.name, overlay: disk.overlay, layers: await layersOf(disk.layers) })
  }
  const media: Medium[] = []
  for (const { name, file, format, removable, backing } of part.media ?? []) {
    const path = file === null ? null : await locate(file)
    media.push({ name, file: path, format, removable, ...(backing && { backing: await layersOf(backing) }) })
  }
  const files = new Map<string, string>()
  for (const { file } of part.files ?? []) files.set(file.path, await locate(file))
  return { memoryFile, disks, media, files }
}
