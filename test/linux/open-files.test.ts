// Who has a file open: by descriptor, whatever name it was opened by, and loop devices.

import { spawn } from 'node:child_process'
import { linkSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { fileId, onCommandLines, openFiles } from '../../src/linux/open-files.js'

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
