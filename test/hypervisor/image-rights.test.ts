// Overlays that a machine's user can write are merged with that user's rights, whatever their headers name.

import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  closeSync,
  lchownSync,
  openSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import path from 'node:path'
import t from 'tap'
import { openFilesOf } from '../../src/hypervisor/shared/open-files.js'
import { commitOverlay, holdsData, rebaseHeader } from '../../src/hypervisor/shared/qemu-img.js'
import { fileLimit } from '../patience.js'
import { root } from '../switch/world.js'
import { soon } from './boot-guest.js'
import { scratch } from './machines.js'

t.setTimeout(fileLimit(60_000))

const uid = 45_078
const bytes = 65_536
const O_PATH = 0o10000000

function rawFile(directory: string, name: string, owner: number): string {
  const file = path.join(directory, name)
  writeFileSync(file, Buffer.alloc(bytes, 'old'), { mode: 0o600 })
  chownSync(file, owner, owner)
  return file
}

/** One that holds other data than what its header names. */
function overlayOn(named: string, directory: string, owner: number): string {
  const file = path.join(directory, 'overlay.qcow2')
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', named, '-F', 'raw', file])
  execFileSync('qemu-io', ['-f', 'qcow2', '-c', `write -P 110 0 ${bytes}`, file])
  chownSync(file, owner, owner)
  return file
}

function home(owner: number): string {
  const directory = scratch('home')
  chmodSync(directory, 0o711)
  chownSync(directory, owner, owner)
  return directory
}

const isOld = (file: string) => readFileSync(file).equals(Buffer.alloc(bytes, 'old'))
const isNew = (file: string) => readFileSync(file).equals(Buffer.alloc(bytes, 'n'))

t.test('a user’s overlay that names a file of root', root, async (t) => {
  const directory = home(uid)
  const base = rawFile(directory, 'base', uid)
  const roots = rawFile(scratch('roots'), 'secret', 0)
  const overlay = overlayOn(roots, directory, uid)
  await t.rejects(commitOverlay(overlay, base, soon(10_000)), { code: 'STORE_IO' })
  t.ok(isOld(roots))
  t.ok(isOld(base))
})

t.test('a user’s overlay on the user’s base', root, async (t) => {
  const directory = home(uid)
  const base = rawFile(directory, 'base', uid)
  const overlay = overlayOn(base, directory, uid)
  await rebaseHeader({ file: overlay, format: 'qcow2' }, { file: base, format: 'raw' }, soon(10_000))
  t.ok(await holdsData({ file: overlay, format: 'qcow2' }, soon(10_000)))
  await commitOverlay(overlay, base, soon(10_000))
  t.ok(isNew(base))
  t.match(statSync(base), { uid, gid: uid })
})

t.test('a user’s overlay, and a link in the place of the base', root, async (t) => {
  const directory = home(uid)
  const roots = rawFile(scratch('roots'), 'secret', 0)
  const base = path.join(directory, 'base')
  symlinkSync(roots, base)
  for (const owner of [uid, 0]) {
    lchownSync(base, owner, owner)
    await t.rejects(commitOverlay(overlayOn(base, directory, uid), base, soon(10_000)))
    t.ok(isOld(roots))
  }
})

t.test('of several owners, or root’s in a directory of others: the header decides', root, async (t) => {
  for (const [directory, above, below] of [
    [home(0), uid, 0],
    [home(0), 0, 0],
    [home(uid), 0, 0],
    [home(uid), 0, uid],
    [home(uid), uid, 0],
  ] as const) {
    const base = rawFile(directory, 'base', below)
    const other = rawFile(directory, 'other', 0)
    const wrong = overlayOn(other, directory, above)
    const isRoots = above + below === 0 && statSync(directory).uid === 0
    if (!isRoots) {
      await t.rejects(commitOverlay(wrong, base, soon(10_000)), { code: 'STORE_DAMAGED' })
      t.ok(isOld(other))
    }
    await commitOverlay(overlayOn(base, directory, above), base, soon(10_000))
    t.ok(isNew(base))
  }
})

t.test('a descriptor that gives no access is no open file', async (t) => {
  const file = path.join(scratch(), 'file')
  writeFileSync(file, '')
  const isOpen = () => openFilesOf(process.pid)!.some((one) => one.path === file)
  const name = openSync(file, O_PATH)
  t.notOk(isOpen())
  const open = openSync(file, 'r')
  t.ok(isOpen())
  closeSync(open)
  closeSync(name)
})
