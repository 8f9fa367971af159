// The catalogue on disk: durable writes, torn and damaged manifests, names that would leave their directory.

import { mkdir, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { Catalogue } from '../../coordinator/store/catalogue.js'
import { checkedName } from '../../src/api/names.js'
import { workDirectory } from './fake-switch.js'
import { manifestOf } from './fixtures.js'

const layout = { a: ['vm1'] }

t.test('write, read, list, remove', async (t) => {
  const root = join(await workDirectory(t), 'store')
  const catalogue = new Catalogue(root)
  await catalogue.open()
  t.same(await catalogue.list(), [])
  t.equal(await catalogue.maxEpoch('lab0'), 0)
  const first = manifestOf(layout, { name: 'first', createdAt: '2024-01-01T00:00:00.000Z', epoch: 9 })
  const second = manifestOf(layout, { name: 'a-second', createdAt: '2024-02-01T00:00:00.000Z' })
  await Promise.all([catalogue.write(second), catalogue.write(first)])
  t.same(
    (await catalogue.list()).map((l) => l.name),
    ['first', 'a-second'],
    'oldest first',
  )
  t.same(await catalogue.read('lab0', 'first'), first)
  t.equal(await catalogue.maxEpoch('lab0'), 9)
  await catalogue.write({ ...first, state: 'failed' })
  t.equal((await catalogue.read('lab0', 'first')).state, 'failed')
  t.same(await readdir(join(root, 'lab0', 'first')), ['manifest.json'], 'no temporary file is left')
  await catalogue.remove('lab0', 'first')
  await catalogue.remove('lab0', 'first')
  await t.rejects(catalogue.read('lab0', 'first'), { code: 'SNAPSHOT_UNKNOWN' })
  t.same(await readdir(join(root, 'lab0')), ['a-second'])
})

t.test('many writes of one manifest at once: the last one stands, whole', async (t) => {
  const catalogue = new Catalogue(await workDirectory(t))
  await Promise.all(Array.from({ length: 20 }, (_, epoch) => catalogue.write(manifestOf(layout, { epoch }))))
  t.equal((await catalogue.read('lab0', 'demo')).epoch, 19)
})

t.test('a write that was torn leaves the old manifest', async (t) => {
  const root = await workDirectory(t)
  const catalogue = new Catalogue(root)
  await catalogue.write(manifestOf(layout))
  const directory = join(root, 'lab0', 'demo')
  const text = await readFile(join(directory, 'manifest.json'), 'utf8')
  await writeFile(join(directory, 'manifest.json.new'), text.slice(0, 100))
  t.equal((await catalogue.read('lab0', 'demo')).state, 'complete')
  await catalogue.write(manifestOf(layout, { epoch: 8 }))
  t.same(await readdir(directory), ['manifest.json'])
})

t.test('damage is named with its file', async (t) => {
  const root = await workDirectory(t)
  const catalogue = new Catalogue(root)
  const file = join(root, 'lab0', 'demo', 'manifest.json')
  const good = manifestOf(layout)
  const damages: Record<string, string> = {
    truncated: JSON.stringify(good).slice(0, 200),
    empty: '',
    'not a manifest': '[]',
    'no epoch': JSON.stringify({ ...good, epoch: undefined }),
    'unknown key': JSON.stringify({ ...good, extra: 1 }),
    'bad digest': JSON.stringify(good).replaceAll(good.parts[0]!.channel.digest, 'xyz'),
    'another format': JSON.stringify({ ...good, format: 2 }),
    'of another snapshot': JSON.stringify({ ...good, name: 'other' }),
  }
  for (const [what, text] of Object.entries(damages)) {
    await catalogue.write(good)
    await writeFile(file, text)
    await t.rejects(catalogue.read('lab0', 'demo'), { code: 'STORE_DAMAGED', message: file }, what)
    const listed = await catalogue.list()
    t.match(listed, [{ name: 'demo', manifest: null, error: { code: 'STORE_DAMAGED' } }])
  }
})

t.test('names cannot leave the store', async (t) => {
  const root = await workDirectory(t)
  const catalogue = new Catalogue(root)
  for (const name of [
    '',
    '.',
    '..',
    '../x',
    'a/b',
    '/etc',
    'a\0b',
    'a b',
    '.hidden',
    '-x',
    'x'.repeat(64),
    'é',
    'a\n',
    'constructor',
    'toString',
  ]) {
    t.throws(() => checkedName('snapshot', name), { code: 'NAME_INVALID' }, JSON.stringify(name))
    await t.rejects(catalogue.read('lab0', name), { code: 'NAME_INVALID' })
    await t.rejects(catalogue.read(name, 'demo'), { code: 'NAME_INVALID' })
    await t.rejects(catalogue.remove('lab0', name), { code: 'NAME_INVALID' })
    await t.rejects(catalogue.write(manifestOf(layout, { name })), { code: 'NAME_INVALID' })
  }
  t.equal(checkedName('snapshot', 'a.b_C-9'), 'a.b_C-9')
})

t.test('what is no snapshot is passed over', async (t) => {
  const root = await workDirectory(t)
  const catalogue = new Catalogue(root)
  await catalogue.write(manifestOf(layout))
  await mkdir(join(root, 'lab0', 'never-written'))
  await mkdir(join(root, 'lost+found'))
  await writeFile(join(root, 'lab0', 'file'), '')
  await symlink('/etc', join(root, 'lab0', 'link'))
  t.same(
    (await catalogue.list()).map((l) => l.name),
    ['demo'],
  )
})

t.test('a store that cannot be used says so', async (t) => {
  const root = await workDirectory(t)
  await writeFile(join(root, 'file'), '')
  await t.rejects(new Catalogue(join(root, 'file')).open(), { code: 'STORE_IO', message: /file/ })
  await t.rejects(new Catalogue('/proc/none/store').open(), {
    code: 'STORE_IO',
    message: /\/proc\/none\/store: ENOENT/,
  })
  const catalogue = new Catalogue(join(root, 'store'))
  await catalogue.open()
  await rm(join(root, 'store'), { recursive: true })
  await writeFile(join(root, 'store'), '')
  await t.rejects(catalogue.write(manifestOf(layout)), { code: 'STORE_IO' })
})
