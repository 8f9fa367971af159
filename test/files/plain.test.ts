// Paths that lead to no file, or to one without end: whoever reads says so at once, and nobody waits.

import { execFileSync, type Serializable } from 'node:child_process'
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Catalogue } from '../../coordinator/store/catalogue.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import { digestFile, syncFile, writeDurable } from '../../src/files/durable.js'
import { readJson } from '../../src/files/json.js'
import { openPlain, readPlain, readPlainSync, UnfitFile } from '../../src/files/plain.js'
import { readQcow2Header } from '../../src/hypervisor/shared/qcow2-header.js'
import { holdsData, virtualSize } from '../../src/hypervisor/shared/qemu-img.js'
import { lockDirectory } from '../../src/linux/directory-lock.js'
import { ImageLock, isInUseByQemu } from '../../src/linux/image-lock.js'
import { readControlKey } from '../../switch/config.js'
import { attempt } from '../lab/command.js'
import { program } from '../lab/daemon.js'

const GIB = 2 ** 30

/** Something of every kind, by name, in a directory of its own. */
async function kinds(t: Test): Promise<{ directory: string; unfit: Record<string, RegExp>; large: string }> {
  const directory = mkdtempSync(join(tmpdir(), 'ssw-plain-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  const at = (name: string) => join(directory, name)
  execFileSync('mkfifo', [at('fifo')])
  mkdirSync(at('directory'))
  symlinkSync('fifo', at('link-to-fifo'))
  const server = createServer().listen(at('socket'))
  await new Promise((resolve) => server.once('listening', resolve))
  t.teardown(() => server.close())
  writeFileSync(at('large'), '')
  truncateSync(at('large'), 3 * GIB)
  const unfit = {
    '/dev/zero': /^\/dev\/zero is a device/,
    '/dev/tty': /^\/dev\/tty is a device/,
    [at('fifo')]: /fifo is a pipe/,
    [at('link-to-fifo')]: /link-to-fifo is a pipe/,
    [at('directory')]: /directory is a directory/,
    [at('socket')]: /socket is a socket/,
  }
  return { directory, unfit, large: at('large') }
}

t.test('what is no file is refused, what is too large is not read', async (t) => {
  const { directory, unfit, large } = await kinds(t)
  for (const [path, says] of Object.entries({ ...unfit, [large]: /large is larger than 1 MiB/ })) {
    t.throws(() => readPlainSync(path, 1 << 20), { code: 'STORE_DAMAGED', message: says }, path)
    await t.rejects(readPlain(path, 1 << 20), { code: 'STORE_DAMAGED', message: says }, path)
  }
  const small = join(directory, 'small')
  writeFileSync(small, 'abc')
  symlinkSync('small', join(directory, 'link'))
  for (const path of [small, join(directory, 'link')]) {
    t.equal(readPlainSync(path, 3).bytes.toString(), 'abc')
    t.equal((await readPlain(path, 3)).toString(), 'abc')
    t.throws(() => readPlainSync(path, 2), /larger than 2 bytes/)
  }
  // Files of the kernel: zero bytes by their size.
  t.match(readPlainSync('/proc/version', 4096).bytes.toString(), /Linux/)
  t.match((await readPlain('/proc/version', 4096)).toString(), /Linux/)
  t.throws(() => readPlainSync('/proc/version', 3), /larger/)
  t.throws(() => readPlainSync(join(directory, 'none'), 3), { code: 'ENOENT' })
})

t.test('a file that grows while it is read', async (t) => {
  const { directory } = await kinds(t)
  const path = join(directory, 'growing')
  writeFileSync(path, 'x'.repeat(1000))
  const writer = openSync(path, 'a')
  t.teardown(() => closeSync(writer))
  const growing = setInterval(() => writeSync(writer, 'y'.repeat(1 << 16)), 0)
  t.teardown(() => clearInterval(growing))
  const handle = await openPlain(path)
  await handle.close()
  const digest = await digestFile(path)
  t.match(digest, /^[0-9a-f]{64}$/, 'a digest comes to an end')
  await t.rejects(async () => {
    for (;;) await readPlain(path, 1 << 20)
  }, /larger than 1 MiB/)
})

t.test('everything that reads files of others', async (t) => {
  const { directory, unfit, large } = await kinds(t)
  const anything = (value: unknown): value is Serializable => value !== undefined
  const readers: Record<string, (path: string) => unknown> = {
    'a record': (path) => readJson(path, anything),
    'a digest': digestFile,
    'the header of an image': readQcow2Header,
    'the lock of an image': (path) => ImageLock.take(path),
    'the size of an image': (file) => virtualSize({ file, format: 'raw' } as never, performance.now() + 60_000),
    'the content of an overlay': (file) => holdsData({ file, format: 'qcow2' } as never, performance.now() + 60_000),
  }
  for (const [path, says] of Object.entries(unfit)) {
    for (const [what, read] of Object.entries(readers)) {
      await t.rejects(async () => read(path), { code: 'STORE_DAMAGED', message: says }, `${what} at ${path}`)
    }
    t.match(readControlKey(path), / is a .* and not a file: give a file with a key$/, `a key at ${path}`)
    t.equal(isInUseByQemu(path), null)
  }
  t.match(readControlKey(large), /large is larger than .*: give a file with a key/)
  await t.rejects(readJson(large, anything), { code: 'STORE_DAMAGED', message: /larger than 64 MiB/ })
  t.equal(await readQcow2Header(large), null)

  const block = execFileSync('sh', ['-c', 'ls /dev/loop0 /dev/vda /dev/sda 2>/dev/null | head -1'], {
    encoding: 'utf8',
  }).trim()
  if (block !== '') t.equal(await readQcow2Header(block), null, 'an image may be a block device')
  if (block !== '') await t.rejects(readPlain(block, 1 << 20), /is a block device and not a file/)

  await t.test('in the place of what a daemon writes', async (t) => {
    const record = join(directory, 'record.json')
    execFileSync('mkfifo', [`${record}.new`])
    await t.rejects(writeDurable(record, 'x'), { code: 'STORE_IO' })
    await writeDurable(record, '"x"')
    t.equal(await readJson(record, anything), 'x', 'what stood in its way is gone')
    symlinkSync('/dev/zero', `${record}.new`)
    await t.rejects(writeDurable(record, 'y'), { code: 'STORE_IO' })
    await t.rejects(syncFile(join(directory, 'fifo')), { code: 'EINVAL' }, 'it does not wait, at least')
    execFileSync('mkfifo', [join(directory, 'directory', '.lock')])
    t.throws(() => lockDirectory(join(directory, 'directory')), { code: 'STORE_DAMAGED', message: /\.lock is a pipe/ })
  })

  await t.test('in the catalogue of a coordinator', async (t) => {
    const store = join(directory, 'store')
    const catalogue = new Catalogue(store)
    mkdirSync(join(store, 'lab0', 'pipe'), { recursive: true })
    mkdirSync(join(store, 'lab0', 'vast'))
    execFileSync('mkfifo', [join(store, 'lab0', 'pipe', 'manifest.json')])
    symlinkSync(large, join(store, 'lab0', 'vast', 'manifest.json'))
    const listed = await catalogue.list()
    t.same(listed.map(({ name, error }) => [name, error?.code]).sort(), [
      ['pipe', 'STORE_DAMAGED'],
      ['vast', 'STORE_DAMAGED'],
    ])
  })
})

t.test('a daemon that is given such a configuration says so and ends', async (t) => {
  const { directory, unfit, large } = await kinds(t)
  const empty = join(directory, 'empty')
  writeFileSync(empty, '')
  const binary = join(directory, 'binary')
  writeFileSync(binary, Buffer.alloc(1 << 20))
  const cases: Record<string, readonly [string, RegExp]> = {
    ...Object.fromEntries(Object.entries(unfit).map(([path, says]) => [path, ['CONFIG_UNREADABLE', says]])),
    [large]: ['CONFIG_UNREADABLE', /large is larger than 4 MiB/],
    [binary]: ['CONFIG_UNREADABLE', /binary is a binary file/],
    [empty]: ['CONFIG_INVALID', /empty is empty/],
    [join(directory, 'none')]: ['CONFIG_UNREADABLE', /none: ENOENT/],
  }
  for (const [path, [code, says]] of Object.entries(cases)) {
    for (const role of ['switch', 'coordinator']) {
      const result = await attempt(program(), [role, '--config', path])
      t.equal(result.code, 1, `${role} ${path}`)
      const [first, ...rest] = result.stderr.split('\n')
      t.match(first.replace(`error ${code}: `, ''), says, result.stderr)
      t.match(first, new RegExp(`^error ${code}: `))
      t.match(rest.join('\n'), /^what to do: \w/m)
    }
  }
  t.ok(new UnfitFile('x is a pipe') instanceof SnapswitchError)
})
