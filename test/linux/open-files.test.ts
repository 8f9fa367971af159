// Who has a file open: by descriptor, whatever name it was opened by, and loop devices.

import { spawn } from 'node:child_process'
import { linkSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { fileId, onCommandLines, openFiles } from '../../src/linux/open-files.js'
import { fileLimit, patience } from '../patience.js'
import { fuse, HungFile } from './hung-file.js'

t.setTimeout(fileLimit(30_000))

t.test('a process that has a file open under another name', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'ssw-open-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const [one, other] = [join(directory, 'one'), join(directory, 'other')]
  writeFileSync(one, 'x')
  linkSync(one, other)
  const id = (await fileId(one))!
  t.equal(await fileId(other), id)
  t.equal(await fileId(join(directory, 'none')), null)
  t.same([...(await openFiles(new Set([id]))).holders], [])
  const child = spawn('sh', ['-c', 'exec 5<"$0"; echo open; read -r _', other], { stdio: ['pipe', 'pipe', 'inherit'] })
  await new Promise((resolve) => child.stdout.once('data', resolve))
  const { holders, hidden } = await openFiles(new Set([id]))
  t.same([...holders], [[id, [child.pid]]])
  t.same(hidden, [])
  t.same([...(await onCommandLines([one, other]))], [other])
  child.stdin.end()
  await new Promise((resolve) => child.once('close', resolve))
  t.same([...(await openFiles(new Set([id]))).holders], [])
})

t.test('a file system that does not answer', fuse, async (t) => {
  const hung = await HungFile.open(t)
  const id = (await fileId(`/proc/${hung.pid}/fd/4`))!
  t.same([...(await openFiles(new Set([id]))).holders], [[id, [hung.pid]]])
  hung.hold()
  const other = (await fileId(import.meta.filename))!
  t.same((await openFiles(new Set([other]))).hidden, [], 'nobody waits for it who looks for another file')
  t.equal(hung.asked, 0)
  // How long it is waited for decides nothing: it does not answer.
  const look = () => openFiles(new Set([id]), '/proc', patience(50))
  t.match((await look()).hidden, [
    new RegExp(`^process ${hung.pid} has /.*/file open, whose file system does not answer`),
  ])
  await hung.firstAsked
  t.equal((await look()).hidden.length, 1)
  t.equal(hung.asked, 1, 'each question keeps a thread: one is enough')
  hung.answer()
  t.same(await openFiles(new Set([id])), { holders: new Map([[id, [hung.pid]]]), hidden: [] })
})

t.test('on an overlayfs an inode may have two numbers', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'ssw-open-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const [file, one] = [join(directory, 'file'), join(directory, '1234567')]
  writeFileSync(file, 'x')
  mkdirSync(join(one, 'fd'), { recursive: true })
  mkdirSync(join(one, 'fdinfo'))
  symlinkSync(file, join(one, 'fd', '3'))
  writeFileSync(join(one, 'fdinfo', '3'), 'pos:\t0\nflags:\t0100000\nmnt_id:\t29\nino:\t7\n')
  const mounts = (type: string) =>
    writeFileSync(join(one, 'mountinfo'), `28 1 8:1 / / rw - overlay none rw\n29 28 0:25 / /mnt rw - ${type} none rw\n`)
  const id = (await fileId(file))!
  mounts('overlay')
  t.same([...(await openFiles(new Set([id]), directory)).holders], [[id, [1234567]]])
  mounts('ext4')
  t.same([...(await openFiles(new Set([id]), directory)).holders], [], 'elsewhere another number is another file')
})
