// The write permissions that a frozen image loses, and has again later. It may lie in a directory of somebody who is
// not to be trusted: its name can mean any other file of the host by then. Files are therefore told by what they are,
// through a descriptor, and get back at most what they lost: no permission but to write, and no set-user-ID bit.

import { fchmodSync, fstatSync, readlinkSync } from 'node:fs'
import { type Static, Type } from '@sinclair/typebox'

const WRITE = 0o222
const OWNER_WRITE = 0o200
/** Set-user-ID and the like: no image has them, and they are neither given nor taken. */
const SPECIAL = 0o7000

export const ImageMode = Type.Object({
  /** Permissions to write that were taken. */
  write: Type.Integer({ minimum: 0, maximum: WRITE }),
  /** Numbers that 53 bits need not hold. The time of birth in nanoseconds is 0 where the file system keeps none. */
  device: Type.String(),
  inode: Type.String(),
  born: Type.String(),
  owner: Type.Integer(),
})
export type ImageMode = Static<typeof ImageMode>

/** Only a mode, as former versions recorded it. */
export type FormerMode = number

/** What freezing takes from a file; null where it takes nothing. */
export function takenFrom(fd: number): ImageMode | null {
  const { device, inode, born, owner, mode } = look(fd)
  return (mode & WRITE) === 0 ? null : { write: mode & WRITE, device, inode, born, owner }
}

/** Nobody may write to it from here on, but for root. */
export function take(fd: number): void {
  const { mode } = look(fd)
  if ((mode & WRITE) !== 0) fchmodSync(fd, mode & ~WRITE)
}

/** Gives a file back what was taken from it. Returns false, and does nothing, when it is another file. */
export function giveBack(fd: number, was: ImageMode | FormerMode, file: string): boolean {
  const found = look(fd)
  const write = typeof was === 'number' ? formerly(fd, found, was, file) : entitled(found, was)
  if (write === null) return false
  if ((write & ~found.mode) !== 0) fchmodSync(fd, found.mode | write)
  return true
}

/** Whether they are of one file, as far as that can be told. A device may have another number after a boot. */
export const isOneFile = (a: Omit<ImageMode, 'write'>, b: Omit<ImageMode, 'write'>) =>
  a.inode === b.inode && (a.born === b.born || a.born === '0' || b.born === '0')

type Found = Omit<ImageMode, 'write'> & { readonly mode: number }

/** The mode counts as without permissions, which leaves the file alone, where it is no image's. */
function look(fd: number): Found {
  const found = fstatSync(fd, { bigint: true })
  const mode = Number(found.mode & 0o7777n)
  return {
    device: String(found.dev),
    inode: String(found.ino),
    born: String(found.birthtimeNs),
    owner: Number(found.uid),
    mode: found.isFile() && (mode & SPECIAL) === 0 ? mode : 0,
  }
}

/**
 * libvirt gives images another owner when their domain ends. The new owner may write, then; for others to write takes
 * that it is for certain the file that they could write to.
 */
function entitled(found: Found, was: ImageMode): number | null {
  if (!isOneFile(found, was)) return null
  if (found.mode === 0) return 0
  const certain = found.owner === was.owner && (found.device === was.device || (was.born !== '0' && found.born !== '0'))
  return was.write & (certain ? WRITE : OWNER_WRITE)
}

/** Which file it was is not known: the name must not lead elsewhere, and what is root's is opened to nobody. */
function formerly(fd: number, found: Found, was: FormerMode, file: string): number | null {
  if (readlinkSync(`/proc/self/fd/${fd}`) !== file) return null
  if (found.mode === 0) return 0
  return was & (found.owner === 0 ? OWNER_WRITE : WRITE)
}
