// Files that were fetched from other hosts (kernel, firmware, discs), made a restored domain's own: its stored
// configuration names them for as long as there is one, while what was fetched goes when no snapshot needs it.

import { copyFile, link } from 'node:fs/promises'
import path from 'node:path'
import { SnapswitchError } from '../../errors/errors.js'
import type { LoadRequest, Medium } from '../hypervisor.js'

export interface OwnFiles {
  /** Where each file is now, by its path in the definition. */
  readonly files: ReadonlyMap<string, string>
  readonly media: readonly Medium[]
}

/**
 * Names of what is made go to `made`. A file that lies outside of the state directory is somebody's, and stays where it
 * is.
 */
export async function makeOwn(
  { directory, files = new Map(), media = [] }: Pick<LoadRequest, 'directory' | 'files' | 'media'>,
  made: string[],
): Promise<OwnFiles> {
  const state = path.resolve(directory, '../../..')
  const taken = new Map<string, string>()
  const own = async (file: string): Promise<string> => {
    if (!file.startsWith(`${state}/`) || file.startsWith(`${directory}/`)) return file
    const known = taken.get(file)
    if (known !== undefined) return known
    const name = path.join(directory, `file-${taken.size + 1}`)
    try {
      // One file under two names: it takes no room.
      await link(file, name).catch(() => copyFile(file, name))
    } catch (error) {
      throw new SnapswitchError('STORE_IO', `${file} cannot be kept as ${name}`, 'Check the directory.', error)
    }
    made.push(name)
    taken.set(file, name)
    return name
  }
  const placed = new Map<string, string>()
  for (const [was, is] of files) placed.set(was, await own(is))
  const inDrives: Medium[] = []
  for (const medium of media) {
    const backing = []
    for (const layer of medium.backing ?? []) backing.push({ ...layer, file: await own(layer.file) })
    const file = medium.file === null ? null : await own(medium.file)
    inDrives.push({ ...medium, file, ...(backing.length > 0 && { backing }) })
  }
  return { files: placed, media: inDrives }
}
