// disks.json: a state directory that was moved is refused, since all records name files by where it was.

import { mkdtempSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { DiskRecords } from '../../switch/agent/disks/records.js'
import { fileLimit } from '../patience.js'

t.setTimeout(fileLimit(30_000))

const open = (state: string) => DiskRecords.open(state, async () => ({ made: [], actives: [] }))

function places(t: Test) {
  const parent = mkdtempSync(join(tmpdir(), 'snapswitch-records-'))
  t.teardown(() => rmSync(parent, { recursive: true, force: true }))
  return { former: join(parent, 'former'), state: join(parent, 'state') }
}

t.test('records that were moved are refused, until a link leads to them', async (t) => {
  const { former, state } = places(t)
  await (await open(former)).noteMade('vm', join(former, 'machines/vm/e1/vda.qcow2'))
  renameSync(former, state)
  const refusal = { code: 'STORE_DAMAGED', message: new RegExp(`is from the state directory ${former},`) }
  await t.rejects(open(state), refusal)
  symlinkSync(state, former)
  for (const name of [state, former]) {
    const records = await open(name)
    t.ok(records.isOurs(join(former, 'machines/vm/e2/vda.qcow2')), name)
    t.ok(records.isOurs(join(name, 'machines/vm/e2/vda.qcow2')), name)
    await records.noteMade('vm', join(name, 'machines/vm/e2/vda.qcow2'))
  }
  rmSync(former)
  await t.rejects(open(state), refusal)
})

t.test('a copy beside the former one is another directory', async (t) => {
  const { former, state } = places(t)
  await open(former)
  await open(state)
  writeFileSync(join(state, 'disks.json'), readFileSync(join(former, 'disks.json')))
  await t.rejects(open(state), { code: 'STORE_DAMAGED' })
})

t.test('records of a former version do not say where they are from, and do from the next change on', async (t) => {
  const { state } = places(t)
  await open(state)
  const path = join(state, 'disks.json')
  const { state: said, ...rest } = JSON.parse(readFileSync(path, 'utf8')) as { state?: string }
  t.equal(said, state)
  writeFileSync(path, JSON.stringify(rest))
  await (await open(state)).noteMade('vm', '/vms/vm-vda.s1-e1.qcow2')
  t.match(JSON.parse(readFileSync(path, 'utf8')), { state })
})
