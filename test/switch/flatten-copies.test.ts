// Copies of disks that come to nothing: a part of which one disk is copied, and for the next there is no room.

import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { FrozenDiskRecord } from '../../src/api/schemas.js'
import { flattenPart } from '../../switch/agent/disks/flattening.js'
import { copyForRestores, fetchedFiles } from '../../switch/agent/disks/state-files.js'
import { LocalStore } from '../../switch/agent/local-store.js'
import { memberOf, partOf } from '../coordinator/fixtures.js'
import { fileLimit, patience } from '../patience.js'

t.setTimeout(fileLimit(30_000))

/** A store whose disk has room for so many more copies. */
class NarrowStore extends LocalStore {
  copies = 0

  override async freeBytes(): Promise<number> {
    return this.copies-- > 0 ? Number.MAX_SAFE_INTEGER : 0
  }
}

async function workshop(t: Test) {
  const directory = mkdtempSync(join(tmpdir(), 'snapswitch-flatten-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  const store = new NarrowStore(join(directory, 'state'))
  mkdirSync(store.state)
  const write = async (name: string, content: string) => {
    writeFileSync(join(directory, name), content)
    return store.reference(join(directory, name))
  }
  /** Of two images. */
  const disk = async (name: string): Promise<FrozenDiskRecord> => {
    const base = await write(`${name}.raw`, name.repeat(65_536))
    const overlay = join(directory, `${name}.qcow2`)
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', base.path, '-F', 'raw', overlay])
    const layers = [
      { file: await store.reference(overlay), format: 'qcow2' as const },
      { file: base, format: 'raw' as const },
    ]
    return { name, layers, overlay: join(directory, `${name}.now.qcow2`) }
  }
  const memory = await write('memory', 'x')
  const take = async (snapshot: string, disks: FrozenDiskRecord[]) => {
    const member = { ...memberOf('a', 'vm1'), memory, disks }
    await store.writeFile('lab0', snapshot, 'vms/vm1/definition.json', JSON.stringify(member.definition))
    await store.writePart({ ...partOf('a', [], snapshot, 1), members: [member] })
  }
  const tidied: string[] = []
  const keeper = { exclusively: <T>(work: () => Promise<T>) => work(), soon: () => void tidied.push('soon') }
  const flatten = (snapshot: string) =>
    flattenPart({ store }, keeper, 'lab0', snapshot, performance.now() + patience(20_000))
  const reasons = async () => (await fetchedFiles(store)).map(({ reason }) => reason)
  return { store, disk, take, flatten, reasons, tidied }
}

t.test('copies of a part whose next disk finds no room are kept by nothing', async (t) => {
  const { store, disk, take, flatten, reasons, tidied } = await workshop(t)
  const [one, other] = [await disk('one'), await disk('other')]
  await take('s1', [one, other])
  store.copies = 1
  await t.rejects(flatten('s1'), { code: 'STORE_FULL', message: /other/ })
  t.same(await reasons(), [null])
  t.same(tidied, ['soon'], 'and go soon')
})

t.test('a copy that was there before stays', async (t) => {
  const { store, disk, take, flatten, reasons } = await workshop(t)
  const [one, other] = [await disk('one'), await disk('other')]
  await take('s1', [one])
  await take('s2', [one, other])
  store.copies = 1
  const { members } = await flatten('s1')
  t.equal(members.length, 1)
  t.same(await reasons(), [copyForRestores], 'the manifest will name it')
  store.copies = 1
  await t.rejects(flatten('s2'), { code: 'STORE_FULL' })
  t.same(await reasons(), [copyForRestores])
})
