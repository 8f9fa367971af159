// Whose rights qemu-img gets for images that a machine's user can write: it opens what their headers name, and these
// may name anything.

import { execFile } from 'node:child_process'
import { lstat, realpath, stat } from 'node:fs/promises'
import path from 'node:path'
import { promisify } from 'node:util'
import { SnapswitchError } from '../../errors/errors.js'
import { asUser, isRoot } from './as-user.js'
import { filesOfBacking, readQcow2Header } from './qcow2-header.js'

const run = promisify(execFile)

interface Owner {
  readonly uid: number
  readonly gid: number
}

/** Whether nobody but root can put another file under this name. */
async function isInRootsPlace(file: string): Promise<boolean> {
  let directory = await realpath(path.dirname(file))
  for (;;) {
    if ((await stat(directory)).uid !== 0) return false
    if (directory === '/') return true
    directory = path.dirname(directory)
  }
}

/** What starts a command as that user, with the groups that it is known to have. */
async function as({ uid, gid }: Owner): Promise<string[]> {
  const known = await run('id', ['-G', '--', String(uid)]).catch(() => null)
  const groups = known?.stdout.trim().split(' ').map(Number) ?? []
  return asUser({ uid, gid: groups[0] ?? gid, groups })
}

/** For work on one image. */
export async function rightsFor(file: string): Promise<string[]> {
  const owner = await lstat(file)
  return owner.uid === 0 || !isRoot() ? [] : as(owner)
}

/** To write an overlay into its base. Throws STORE_DAMAGED where root would write elsewhere than to that base. */
export async function rightsToCommit(overlay: string, base: string): Promise<string[]> {
  if (!isRoot()) return []
  const [above, below] = [await lstat(overlay), await lstat(base)]
  if (above.uid !== 0 && above.uid === below.uid) return as(above)
  const areRoots = above.uid === 0 && below.uid === 0
  if (areRoots && (await isInRootsPlace(overlay)) && (await isInRootsPlace(base))) return []
  // Root alone may write to both: libvirt gives the images of domains that are off to root, in whatever directory.
  if (await standsOn(overlay, base)) return []
  throw new SnapswitchError(
    'STORE_DAMAGED',
    `${overlay} does not stand on ${base}: its header names another file`,
    'See with `qemu-img info` what it is, and who has changed it.',
  )
}

async function standsOn(overlay: string, base: string): Promise<boolean> {
  const header = await readQcow2Header(overlay)
  if (header?.backing == null || header.dataFile || !(await lstat(overlay)).isFile()) return false
  const [named, ...more] = filesOfBacking(header.backing, overlay)
  if (named === undefined || more.length > 0) return false
  const [found, wanted] = [await stat(named, { bigint: true }), await lstat(base, { bigint: true })]
  return wanted.isFile() && found.dev === wanted.dev && found.ino === wanted.ino
}
