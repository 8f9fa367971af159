// What a host says of the files of its snapshots, real ones: whole, gone, shorter, changed, no file any more,
// elsewhere.

import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, renameSync, rmSync, statSync, truncateSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import t from 'tap'
import { filesOf } from '../../src/api/files.js'
import type { FileReference, LocalPart } from '../../src/api/schemas.js'
import { findFaults, networkHealth } from '../../switch/agent/health.js'
import { LocalStore } from '../../switch/agent/local-store.js'
import { memberOf } from '../coordinator/fixtures.js'

const soon = () => performance.now() + 30_000

t.test('files of a part', async (t) => {
  const state = mkdtempSync(join(tmpdir(), 'ssw-health-'))
  t.teardown(() => rmSync(state, { recursive: true, force: true }))
  const store = new LocalStore(state)
  await store.open()
  const make = (name: string, content = `content of ${name}, and some more`): FileReference => {
    const path = join(state, name)
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, content)
    return { path, bytes: content.length, digest: createHash('sha256').update(content).digest('hex') }
  }
  const [memory, base, top, channel] = ['memory.img', 'base.qcow2', 'top.qcow2', 'channel'].map((name) => make(name))
  const layers = [top, base].map((file) => ({ file, format: 'qcow2' as const }))
  const member = { ...memberOf('a', 'vm1'), memory, disks: [{ name: 'disk0', layers, overlay: '/none' }] }
  const part: LocalPart = {
    host: 'a',
    bootId: 'x',
    network: 'lab0',
    snapshot: 's',
    epoch: 3,
    members: [member],
    channel,
    closures: [],
  }
  await store.writePart(part)
  const quick = async () => (await networkHealth(store, 'lab0', soon())).parts
  const faults = async (look: 'size' | 'content' = 'content') =>
    (await findFaults(store, filesOf(part), look, soon())).faults.map(
      ({ file, fault }) => `${fault} ${file.path.slice(state.length + 1)}`,
    )

  t.same(await quick(), [{ snapshot: 's', epoch: 3, faults: [], faultCount: 0, unchecked: 0 }])
  t.same(await faults(), [])
  t.same(await networkHealth(store, 'lab1', soon()), { parts: [] })

  // One byte, and no time stamp, as a disk does that loses data.
  const { atime, mtime } = statSync(memory.path)
  const changed = `${'x'}${`content of memory.img, and some more`.slice(1)}`
  writeFileSync(memory.path, changed)
  utimesSync(memory.path, atime, mtime)
  truncateSync(channel.path, 3)
  rmSync(base.path)
  t.same(
    await faults(),
    ['changed memory.img', 'missing base.qcow2', 'changed channel'].sort((x, y) => order(x) - order(y)),
  )
  t.same((await faults('size')).sort(), ['changed channel', 'missing base.qcow2'], 'a quick look sees sizes')
  t.match(await quick(), [{ faultCount: 2 }])

  mkdirSync(base.path)
  t.match((await findFaults(store, [base], 'size', soon())).faults, [
    { fault: 'changed', detail: 'it is no file any more' },
  ])
  rmSync(base.path, { recursive: true })
  mkdirSync(join(state, 'images'))
  make(`images/${base.digest}`, 'content of base.qcow2, and some more')
  t.notOk((await faults()).includes('missing base.qcow2'), 'a copy that was fetched is as good')
  renameSync(top.path, `${top.path}.away`)
  t.same((await findFaults(store, [top, base], 'size', performance.now() - 1)).unchecked, 2, 'no time')

  function order(text: string): number {
    return filesOf(part).findIndex(({ path }) => text.endsWith(path.slice(state.length + 1)))
  }
})
