// A merge of an overlay into its disk that is cut off in the middle, and is repeated: the overlay is not taken for one
// that the disk was used without. And an unfinished snapshot of a machine that has ended, whose disks are mounted late.
// With real images and records.

import { execFileSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { datedInMerge } from '../../src/hypervisor/shared/overlay-dates.js'
import { commitOverlay } from '../../src/hypervisor/shared/qemu-img.js'
import type { Clock } from '../../src/runtime/clock.js'
import { FileNames } from '../../switch/agent/disks/names.js'
import { mergeOffline } from '../../switch/agent/disks/offline.js'
import { DiskRecords } from '../../switch/agent/disks/records.js'
import { Journal } from '../../switch/agent/journal.js'
import { LocalStore } from '../../switch/agent/local-store.js'
import { Undoing } from '../../switch/agent/undoing.js'
import { soon } from '../hypervisor/boot-guest.js'
import { fileLimit } from '../patience.js'
import { machinesBy, unasked } from './made-up-machine.js'

t.setTimeout(fileLimit(60_000))

const LONG_MS = 3_600_000
const BYTES = 65_536
const WRITTEN = 0x5a

/** A raw disk and an overlay that was written to after the disk was. */
class Images {
  readonly directory: string
  readonly disk: string
  readonly overlay: string

  constructor(t: Test) {
    this.directory = mkdtempSync(join(tmpdir(), 'snapswitch-cut-off-'))
    t.teardown(() => rmSync(this.directory, { recursive: true, force: true }))
    mkdirSync(this.file('disks'))
    this.disk = this.file('disks/disk.raw')
    this.overlay = this.file('disks/vm-vda.s1-e1.qcow2')
    execFileSync('qemu-img', ['create', '-q', '-f', 'raw', this.disk, String(BYTES)])
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', this.disk, '-F', 'raw', this.overlay])
    execFileSync('qemu-io', ['-f', 'qcow2', '-c', `write -P ${WRITTEN} 0 ${BYTES}`, this.overlay], { stdio: 'ignore' })
    this.date(this.disk, 2000)
    this.date(this.overlay, 1000)
  }

  file(name: string): string {
    return join(this.directory, name)
  }

  /** So many seconds ago. */
  date(file: string, agoS: number): void {
    const then = new Date(Date.now() - agoS * 1000)
    utimesSync(file, then, then)
  }

  /** Whether the disk holds what was written to the overlay. */
  isMerged(): boolean {
    return readFileSync(this.disk).every((byte) => byte === WRITTEN)
  }

  /** When it was written last, in seconds from now. */
  ageS(file: string): number {
    return (Date.now() - statSync(file).mtimeMs) / 1000
  }

  isOlder(): boolean {
    return statSync(this.overlay).mtimeMs < statSync(this.disk).mtimeMs
  }

  /** For as long as `work` goes on there is a `qemu-img` whose commits do `what`, a line of a shell, and fail. */
  async failing<T>(what: string, work: () => Promise<T>): Promise<T> {
    const bin = this.file('bin')
    mkdirSync(bin, { recursive: true })
    const real = execFileSync('sh', ['-c', 'command -v qemu-img'], { encoding: 'utf8' }).trim()
    const script = `#!/bin/sh\n[ "$1" = commit ] || exec ${real} "$@"\n${what}\necho 'No space left on device' >&2\nexit 1\n`
    writeFileSync(join(bin, 'qemu-img'), script, { mode: 0o755 })
    const { PATH } = process.env
    process.env.PATH = `${bin}:${PATH}`
    try {
      return await work()
    } finally {
      process.env.PATH = PATH
    }
  }

  /** What a commit does that is cut off: some of the content is in the disk. */
  get half(): string {
    return `printf half | dd of=${this.disk} conv=notrunc status=none`
  }
}

t.test('a commit that is cut off leaves its overlay no older than the disk', async (t) => {
  const images = new Images(t)
  const { disk, overlay } = images
  const seen = images.file('seen')
  const failed = images.failing(`stat -c %Y ${overlay} > ${seen}; ${images.half}`, () =>
    commitOverlay(overlay, disk, soon(10_000)),
  )
  await t.rejects(failed, { code: 'STORE_FULL' })
  t.ok(Number(readFileSync(seen, 'utf8')) > Date.now() / 1000 + 86_400, 'a host that dies meanwhile leaves a mark')
  t.notOk(images.isOlder())
  t.ok(images.ageS(overlay) > -60, 'the mark is gone')
  t.notOk(images.isMerged())
  await commitOverlay(overlay, disk, soon(10_000))
  t.ok(images.isMerged())
  t.ok(images.ageS(overlay) > -60)
})

t.test('one that has not begun leaves the dates as they are', async (t) => {
  const images = new Images(t)
  const { disk, overlay } = images
  images.date(disk, 500)
  await t.rejects(images.failing('', () => commitOverlay(overlay, disk, soon(10_000))))
  t.ok(images.isOlder())
})

t.test('an overlay that cannot be dated is not merged', async (t) => {
  const images = new Images(t)
  const missing = images.file('none.qcow2')
  await t.rejects(commitOverlay(missing, images.disk, soon(10_000)), { code: 'STORE_IO' })
  t.notOk(images.isMerged())
})

t.test('a deletion with the machine off is repeated; a disk that was used since is left alone', async (t) => {
  const images = new Images(t)
  const layers = [
    { file: images.overlay, format: 'qcow2' },
    { file: images.disk, format: 'raw' },
  ] as const
  const merge = () => mergeOffline(layers[0], layers[1], new FileNames(), soon(10_000))
  await t.rejects(images.failing(images.half, merge), { code: 'STORE_FULL' })
  writeFileSync(images.disk, 'of a machine that was started on it', { flag: 'r+' })
  images.date(images.disk, -10)
  await t.rejects(merge(), { code: 'SNAPSHOT_NEEDED', message: /was written later/ })
  images.date(images.overlay, -10)
  images.date(images.disk, 0)
  await t.rejects(images.failing(images.half, merge), { code: 'STORE_FULL' })
  await merge()
  t.ok(images.isMerged())
})

t.test('so does a merge in a running machine that fails, when it has begun to write', async (t) => {
  const images = new Images(t)
  const { disk, overlay } = images
  const failed = new Error('called off')
  const merge = (begin: () => void) =>
    datedInMerge([overlay], disk, async () => {
      begin()
      throw failed
    })
  await t.rejects(
    merge(() => {}),
    failed,
  )
  t.ok(images.ageS(overlay) > 900)
  await t.rejects(
    merge(() => writeFileSync(disk, 'half', { flag: 'r+' })),
    failed,
  )
  t.notOk(images.isOlder())
  t.equal(await datedInMerge([overlay], disk, async () => 1), 1)
})

/** A host whose machine `vm` has ended, with an unfinished snapshot on record. */
async function ended(images: Images) {
  const state = images.file('state')
  const journal = new Journal(state)
  const disks = await DiskRecords.open(state, async () => ({ made: [], actives: [] }))
  await disks.noteMade('vm', images.overlay)
  const layers = [{ file: images.disk, format: 'raw' as const }]
  await journal.writeCut('lab0', 's1', 'vm', {
    label: 's1-e1',
    incarnation: '1:1',
    disks: [{ name: 'vda', layers }],
  })
  const machines = machinesBy({ vm: { qmp: '/none' } }, { attach: unasked('answer'), isThere: async () => false })
  let nowMs = LONG_MS
  const clock: Clock = {
    now: () => ({ ms: nowMs, wallUs: 0 }),
    after: (_, then) => {
      queueMicrotask(then)
      return () => {}
    },
  }
  const log = pino({ level: 'silent' })
  const host = { clock, log, journal, store: new LocalStore(state), disks, machines }
  const sessions = { busy: () => null, occupy: () => {}, end: () => {} }
  const undoing = new Undoing(host, sessions, async () => {})
  const again = () => {
    nowMs += LONG_MS
    return undoing.again()
  }
  const isLeft = async () => (await journal.unfinished()).length > 0
  return { undoing, again, isLeft, journal, disks }
}

t.test('what a machine that has ended wrote since its cut is not lost by a merge that is cut off', async (t) => {
  const images = new Images(t)
  const { undoing, again, isLeft, journal } = await ended(images)
  await images.failing(images.half, () => undoing.recover())
  t.ok(await isLeft())
  t.ok(await journal.hasStuck('lab0', 's1'), 'nobody may delete the snapshot’s record')
  t.ok(existsSync(images.overlay))
  t.equal(await again(), true)
  t.ok(images.isMerged())
  t.notOk(existsSync(images.overlay))
  t.notOk(await isLeft())
})

t.test('nor by disks that are mounted after the daemon has started', async (t) => {
  const images = new Images(t)
  const { undoing, again, isLeft, disks } = await ended(images)
  renameSync(images.file('disks'), images.file('away'))
  await undoing.recover()
  t.ok(await isLeft())
  t.same(disks.chains('vm'), null)
  t.equal(await again(), false)
  renameSync(images.file('away'), images.file('disks'))
  t.equal(await again(), true)
  t.ok(images.isMerged())
  t.notOk(existsSync(images.overlay))
  t.same(disks.chains('vm'), { vda: [{ file: images.disk, format: 'raw' }] })
})

t.test('an overlay that was never made, or is gone, is not waited for', async (t) => {
  const images = new Images(t)
  const { undoing, isLeft } = await ended(images)
  rmSync(images.overlay)
  await undoing.recover()
  t.notOk(await isLeft())
  t.notOk(images.isMerged())
})
