// Files of snapshots by their content: equal content under several paths, other content under equal paths, copies of
// several ages, and a file that changes.

import { createHash } from 'node:crypto'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import t from 'tap'
import type { FileReference, LocalPart, MemberPart } from '../../src/api/schemas.js'
import { Digests } from '../../src/files/digests.js'
import { copyForRestores, fetchedFiles } from '../../switch/agent/disks/state-files.js'
import { Images } from '../../switch/agent/images.js'
import { LocalStore } from '../../switch/agent/local-store.js'
import { locateFiles } from '../../switch/agent/located-files.js'
import { partOf } from '../coordinator/fixtures.js'
import { until } from '../lab/command.js'
import { root } from './world.js'

type Test = { teardown(act: () => void): void }

function workshop(t: Test) {
  const state = mkdtempSync(join(tmpdir(), 'snapswitch-images-'))
  t.teardown(() => rmSync(state, { recursive: true, force: true }))
  const parts: LocalPart[] = []
  const write = (name: string, content: string): FileReference => {
    const path = join(state, name)
    mkdirSync(join(path, '..'), { recursive: true })
    writeFileSync(path, content)
    return { path, bytes: content.length, digest: createHash('sha256').update(content).digest('hex') }
  }
  /** A part of this host with one machine whose memory is that file. */
  const name = (file: FileReference) => {
    const part = partOf('a', ['vm1'], 'demo', 4)
    parts.push({ ...part, members: part.members.map((member) => ({ ...member, memory: file, disks: [] })) })
  }
  return { state, write, name, images: new Images(state, new Digests(), async () => parts) }
}

t.test('a file is found wherever this host has it', async (t) => {
  const { state, write, name, images } = workshop(t)
  const here = write('disks/blank.img', 'blank')
  const asked = { ...here, path: '/on/another/host.img' }
  t.equal(await images.find(asked), null, 'a path of another host means nothing here')
  name(here)
  t.equal(await images.find(asked), here.path, 'a path that a part names')
  await images.receive(here.digest, Readable.from([Buffer.from('blank')]))
  t.equal(await images.find(here), here.path, 'the file itself comes before a copy')
  rmSync(here.path)
  t.equal(await images.find(here), join(state, 'images', here.digest), 'a copy that was fetched')
  rmSync(join(state, 'images'), { recursive: true })
  t.equal(await images.find(here), null)
  const old = write(`snapshots/lab0/other/files/${here.digest}`, 'blank')
  t.equal(await images.find(here), old.path, 'a copy that a former version has fetched')
})

t.test('other content under the same path is another file; so is one of another size', async (t) => {
  const { write, name, images } = workshop(t)
  const golden = write('golden.img', 'version 1')
  name(golden)
  t.equal(await images.find(golden), golden.path)
  t.equal(await images.find({ ...golden, bytes: golden.bytes + 1 }), null)
  const changed = write('golden.img', 'version 2')
  t.equal(await images.find(golden), null, 'it was changed since')
  t.equal(await images.find(changed), changed.path)
})

t.test('what is not what its name says is not kept', async (t) => {
  const { state, images } = workshop(t)
  const digest = 'a'.repeat(64)
  await t.rejects(images.receive(digest, Readable.from([Buffer.from('x')])), { code: 'STORE_DAMAGED' })
  t.throws(() => statSync(join(state, 'images', digest)))
  await t.rejects(images.openFile('lab0', 'demo', digest), { code: 'SNAPSHOT_UNKNOWN' })
})

t.test('a copy is given to others as the file itself is', async (t) => {
  const { images } = workshop(t)
  const content = Buffer.from('fetched')
  const digest = createHash('sha256').update(content).digest('hex')
  await images.receive(digest, Readable.from([content]))
  t.not(await images.find({ path: '/none', bytes: content.length, digest }), null)
  const { stream, bytes } = await images.openFile('lab0', 'demo', digest)
  t.equal(bytes, content.length)
  t.same(await buffer(stream), content)
})

t.test('the group of a machine that is not root’s may read copies, and what others have given it', root, async (t) => {
  const { state, write, images } = workshop(t)
  const content = Buffer.from('fetched')
  const digest = createHash('sha256').update(content).digest('hex')
  await images.receive(digest, Readable.from([content]))
  const copy = join(images.directory, digest)
  const own = write('disk.img', 'of somebody')
  chmodSync(own.path, 0o600)
  t.equal(statSync(copy).mode & 0o777, 0o600)
  for (const path of [copy, own.path, join(state, 'none')]) t.equal(await images.share(path, 45_077), path)
  t.match(statSync(copy), { uid: 0, gid: 45_077 })
  t.equal(statSync(copy).mode & 0o777, 0o640)
  t.equal(statSync(own.path).mode & 0o777, 0o600)
})

t.test('machines of several groups that share a file can all read it, and only they', root, async (t) => {
  const { state, images } = workshop(t)
  const content = Buffer.from('kernel')
  const digest = createHash('sha256').update(content).digest('hex')
  await images.receive(digest, Readable.from([content]))
  const copy = join(images.directory, digest)
  const [first, second, third] = [45_001, 45_002, 45_003]
  // Machines are loaded beside each other.
  const paths = await Promise.all([first, second, second, third, first].map((gid) => images.share(copy, gid)))
  const own = (gid: number) => `${copy}.g${gid}`
  t.same(paths, [copy, own(second), own(second), own(third), copy])
  for (const [nth, gid] of [first, second, second, third].entries()) {
    t.match(statSync(paths[nth]!), { uid: 0, gid })
    t.equal(statSync(paths[nth]!).mode & 0o777, 0o640)
    t.equal(readFileSync(paths[nth]!, 'utf8'), 'kernel')
  }
  t.same(readdirSync(images.directory).sort(), [digest, `${digest}.g${second}`, `${digest}.g${third}`])
  t.equal(await images.share(own(second), second), own(second), 'a snapshot of the machine names it so')
  t.equal(await images.share(own(second), first), own(first))
  // Whoever has changed one: it is made anew.
  const { ino } = statSync(own(second))
  t.equal(await images.share(copy, second), own(second))
  t.equal(statSync(own(second)).ino, ino, 'one that is there is used')
  writeFileSync(own(third), 'other')
  t.equal(await images.share(copy, third), own(third))
  t.equal(readFileSync(own(third), 'utf8'), 'kernel')
  // They go together.
  mkdirSync(join(state, 'snapshots'))
  const reasons = async () => new Set((await fetchedFiles(new LocalStore(state))).map(({ reason }) => reason))
  t.same(await reasons(), new Set([copyForRestores]))
  await images.release([digest])
  t.same(await reasons(), new Set([null]))
})

t.test('a machine’s process opens its files by the names that are given for it', async (t) => {
  const { write, name, images } = workshop(t)
  const [memory, disk, data, disc, below, kernel] = ['m', 'd', 'dd', 'c', 'b', 'k'].map((path) => write(path, path))
  for (const file of [memory!, disk!, data!, disc!, below!, kernel!]) name(file)
  const [member] = partOf('a', ['vm1'], 'demo', 4).members
  const part: MemberPart = {
    ...{ ...member!, memory: memory!, files: [{ role: 'kernel', file: kernel! }] },
    disks: [{ ...member!.disks[0]!, layers: [{ file: disk!, format: 'qcow2', data: data! }] }],
    media: [
      { name: 'cd', file: disc!, format: 'raw', removable: true, backing: [{ file: below!, format: 'raw' }] },
      { name: 'fd', file: null, format: 'raw', removable: true },
    ],
  }
  const find = await images.finder()
  const asked: string[] = []
  const located = await locateFiles(find, part, async (path) => {
    asked.push(path)
    return `${path}.own`
  })
  t.same(asked.sort(), [disk!, data!, disc!, below!, kernel!].map(({ path }) => path).sort())
  t.equal(located.memoryFile, memory!.path, 'its memory is handed over')
  t.match(located.disks, [{ layers: [{ file: `${disk!.path}.own`, dataFile: `${data!.path}.own` }] }])
  t.match(located.media, [{ file: `${disc!.path}.own`, backing: [{ file: `${below!.path}.own` }] }, { file: null }])
  t.equal(located.files?.get(kernel!.path), `${kernel!.path}.own`)
  t.match(await locateFiles(find, part), { disks: [{ layers: [{ file: disk!.path }] }] })
  rmSync(below!.path)
  await t.rejects(locateFiles(await images.finder(), part), { code: 'STORE_DAMAGED' })
})

t.test('copies are kept for restores until no snapshot has them; one that is fetched anew is new', async (t) => {
  const { state, images } = workshop(t)
  const store = new LocalStore(state)
  mkdirSync(join(state, 'snapshots'))
  const reasons = async () => (await fetchedFiles(store)).map(({ reason }) => reason)
  const content = Buffer.from('fetched')
  const digest = createHash('sha256').update(content).digest('hex')
  const fetch = () => images.receive(digest, Readable.from([content]))
  await fetch()
  t.same(await reasons(), [copyForRestores])
  await images.release([digest, 'b'.repeat(64)])
  t.same(await reasons(), [null])
  await fetch()
  t.same(await reasons(), [copyForRestores])
  await images.release([digest])
  // What a killed daemon was fetching.
  const { path } = writeUnfinished(state, digest)
  t.same(new Set(await reasons()), new Set(['it is being fetched', null]))
  const past = new Date(Date.now() - 2 * 3_600_000)
  utimesSync(path, past, past)
  t.same(await reasons(), [null, null])
})

const writeUnfinished = (state: string, digest: string) => {
  const path = join(state, 'images', `${digest}.1.new`)
  writeFileSync(path, 'fet')
  return { path }
}

t.test('a digest is remembered until the file changes, even to the same size and time', async (t) => {
  const { write } = workshop(t)
  const digests = new Digests()
  const file = write('disk.img', 'one')
  const past = new Date(Date.now() - 3_600_000)
  utimesSync(file.path, past, past)
  t.equal(await digests.of(file.path), file.digest)
  const other = write('disk.img', 'two')
  utimesSync(file.path, past, past)
  t.equal(await digests.of(file.path), other.digest)
  t.equal(readFileSync(file.path, 'utf8'), 'two')
})

t.test('a digest that nobody waits for any more is given up, and one that somebody waits for is not', async (t) => {
  const { state } = workshop(t)
  const file = join(state, 'large.img')
  writeFileSync(file, '')
  // Without blocks; read for much longer than this test takes.
  truncateSync(file, 2 ** 40)
  const isRead = () =>
    readdirSync('/proc/self/fd').some((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`) === file
      } catch {
        return false
      }
    })
  const digests = new Digests()
  const [first, second] = [new AbortController(), new AbortController()]
  const [one, two] = [digests.of(file, first.signal), digests.of(file, second.signal)]
  const outcomes = [one, two].map((digest) => digest.catch((thrown: unknown) => thrown))
  await until('it to be read', 5000, async () => (isRead() ? true : undefined))
  first.abort('first')
  t.equal(await outcomes[0], 'first')
  t.ok(isRead(), 'the other one waits for it')
  second.abort('second')
  t.equal(await outcomes[1], 'second')
  await until('the end', 5000, async () => (isRead() ? undefined : true))
  await t.rejects(digests.of(file, first.signal), 'nothing is begun for one that has given up')
  truncateSync(file, 3)
  t.equal(await digests.of(file), createHash('sha256').update(Buffer.alloc(3)).digest('hex'))
})

t.test('a stray file among the snapshots is passed over; a directory that is gone is not an empty one', async (t) => {
  const { state, write } = workshop(t)
  const store = new LocalStore(state)
  await store.open()
  await store.writePart(partOf('a', ['vm1'], 'demo', 4))
  write('snapshots/notes.txt', 'of somebody')
  write('snapshots/lab0/notes.txt', 'of somebody')
  t.match(await store.parts(), [{ snapshot: 'demo' }])
  rmSync(join(state, 'snapshots'), { recursive: true })
  await t.rejects(store.parts(), { code: 'STORE_IO', message: /^cannot read .*snapshots/ })
})

t.test('a file that was sent has its name, also after a power cut', async (t) => {
  const { images } = workshop(t)
  const handle = await open('/')
  await handle.close()
  const files = Object.getPrototypeOf(handle) as { sync: (this: FileHandle) => Promise<void> }
  const { sync } = files
  t.teardown(() => {
    files.sync = sync
  })
  const synced: string[] = []
  files.sync = function () {
    const names = existsSync(images.directory) ? readdirSync(images.directory) : []
    synced.push(`${readlinkSync(`/proc/self/fd/${this.fd}`)}: ${names}`)
    return sync.call(this)
  }
  const content = Buffer.from('sent')
  const digest = createHash('sha256').update(content).digest('hex')
  await images.receive(digest, Readable.from([content]))
  t.equal(synced.at(-1), `${images.directory}: ${digest}`)
  t.equal(synced.length, 2, 'the content first')
})
