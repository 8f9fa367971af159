// Whether a program may be run as root: nobody but root can have put it there, or can put another in its place. Looks
// at every directory and link on the way, as sshd does with its key files.

import { lstatSync, readlinkSync } from 'node:fs'
import path from 'node:path'

const OTHERS_WRITE = 0o022
const STICKY = 0o1000
const EXECUTE = 0o111
/** As many as the kernel follows (path_resolution(7)). */
const MOST_LINKS = 40

/** What is wrong with the program; null when it may be run. */
export function whyNotRun(program: string): string | null {
  if (!path.isAbsolute(program)) return `${program} is no absolute path`
  const left = program.split('/').filter((name) => name !== '')
  let links = 0
  let here = '/'
  for (;;) {
    const fault = faultOf(here, left.length === 0)
    if (fault !== null) return fault
    if (left.length === 0) return null
    const name = left.shift()!
    const next = name === '..' ? path.dirname(here) : path.join(here, name)
    const stat = lstatSync(next, { throwIfNoEntry: false })
    if (stat === undefined) return `${next} does not exist`
    if (!stat.isSymbolicLink()) {
      if (left.length > 0 && !stat.isDirectory()) return `${next} is no directory`
      here = next
      continue
    }
    if (stat.uid !== 0) return `${next} belongs to user ${stat.uid}, not to root`
    if (++links > MOST_LINKS) return `${program} has too many symbolic links`
    const target = readlinkSync(next)
    if (path.isAbsolute(target)) here = '/'
    left.unshift(...target.split('/').filter((part) => part !== '' && part !== '.'))
  }
}

/** In a directory with the sticky bit, only its owner can take a file's place. */
function faultOf(file: string, isProgram: boolean): string | null {
  const { uid, mode, ...stat } = statOf(file)
  if (uid !== 0) return `${file} belongs to user ${uid}, not to root`
  const isShared = (mode & OTHERS_WRITE) !== 0
  if (!isProgram) return isShared && (mode & STICKY) === 0 ? `others than root may write to ${file}` : null
  if (!stat.isFile) return `${file} is no file`
  if (isShared) return `others than root may write to ${file}`
  return (mode & EXECUTE) === 0 ? `${file} is not executable` : null
}

function statOf(file: string) {
  const stat = lstatSync(file)
  return { uid: stat.uid, mode: stat.mode, isFile: stat.isFile() }
}
