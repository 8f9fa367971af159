// Frozen images in a directory whose owner is not to be trusted: the daemon is root, and what goes by an image's name
// may be any other file of the host by the time that the image gets its mode back.

import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { FrozenImages } from '../../switch/agent/disks/frozen.js'
import { FileNames } from '../../switch/agent/disks/names.js'
import { DiskRecords } from '../../switch/agent/disks/records.js'
import { fileLimit } from '../patience.js'
import { root } from './world.js'

t.setTimeout(fileLimit(30_000))

const BOB = 54_321
const CAROL = 54_322

const hows = ['a link', 'a hard link', 'another directory'] as const
type How = (typeof hows)[number]

/** A daemon, the image of bob's machine, and a file of root's. */
class Home {
  readonly directory = mkdtempSync(join(tmpdir(), 'snapswitch-frozen-'))
  readonly state = join(this.directory, 'state')
  readonly disk = join(this.directory, 'bob', 'disk.qcow2')
  readonly victim = join(this.directory, 'victim')
  #records!: DiskRecords
  #frozen!: FrozenImages

  static async for(t: Test, mode = 0o644): Promise<Home> {
    const home = new Home()
    t.teardown(() => {
      home.#frozen.close()
      rmSync(home.directory, { recursive: true, force: true })
    })
    mkdirSync(home.state)
    mkdirSync(join(home.directory, 'bob'))
    home.make(home.disk, BOB, mode)
    home.make(home.victim, 0, 0o755)
    await home.start()
    return home
  }

  make(file: string, owner: number, mode: number): void {
    writeFileSync(file, 'data')
    chownSync(file, owner, owner)
    chmodSync(file, mode)
  }

  async start(): Promise<void> {
    this.#frozen?.close()
    this.#records = await DiskRecords.open(this.state, async () => ({ made: [], actives: [] }))
    this.#frozen = new FrozenImages(this.#records, pino({ level: 'silent' }))
  }

  /** As the keeper does: a part names the disk, or none does. */
  async protect(isNamed: boolean): Promise<void> {
    const files = isNamed ? [await new FileNames().of(this.disk)] : []
    await this.#frozen.protect(new Set(files), new Set(), true)
  }

  /** As a former version of the daemon has left it, with nothing but modes. */
  async leftFormerly(mode: number): Promise<void> {
    await this.protect(true)
    this.#frozen.close()
    const file = join(this.state, 'disks.json')
    const { readOnly: _, ...content } = JSON.parse(readFileSync(file, 'utf8'))
    writeFileSync(file, JSON.stringify({ ...content, modes: { [this.disk]: mode } }))
    await this.start()
  }

  replaceBy(how: How): void {
    renameSync(this.disk, `${this.disk}.away`)
    if (how === 'a link') symlinkSync(this.victim, this.disk)
    else if (how === 'a hard link') linkSync(this.victim, this.disk)
    else {
      renameSync(join(this.directory, 'bob'), join(this.directory, 'away'))
      mkdirSync(join(this.directory, 'other'))
      renameSync(this.victim, join(this.directory, 'other', 'disk.qcow2'))
      symlinkSync('other', join(this.directory, 'bob'))
    }
  }

  get recorded(): number {
    return this.#records.modes.size
  }
}

const modeOf = (file: string) => (statSync(file).mode & 0o7777).toString(8)

for (const restarted of [false, true]) {
  const when = restarted ? ', after a restart' : ''
  for (const how of hows) {
    for (const mode of [0o6777, 0o666]) {
      t.test(`${how} in the place of an image of mode ${mode.toString(8)}${when}`, root, async (t) => {
        const home = await Home.for(t, mode)
        await home.protect(true)
        if (restarted) await home.start()
        home.replaceBy(how)
        await home.protect(true)
        await home.protect(false)
        t.equal(modeOf(home.disk), '755', 'is as it was')
        t.equal(home.recorded, 0)
      })
    }
    t.test(`the same of a former version, ${how}${when}`, root, async (t) => {
      const home = await Home.for(t, 0o666)
      await home.leftFormerly(0o6777)
      if (restarted) await home.start()
      home.replaceBy(how)
      await home.protect(false)
      t.equal(modeOf(home.disk), '755')
      t.equal(home.recorded, 0)
    })
  }

  t.test(`an image gets its mode back${when}`, root, async (t) => {
    for (const mode of [0o600, 0o664, 0o666]) {
      const home = await Home.for(t, mode)
      await home.protect(true)
      t.equal(modeOf(home.disk), (mode & ~0o222).toString(8))
      if (restarted) await home.start()
      await home.protect(true)
      await home.protect(false)
      t.equal(modeOf(home.disk), mode.toString(8))
      t.equal(home.recorded, 0)
    }
  })

  t.test(`so does one that libvirt has given to root, so far as root may write${when}`, root, async (t) => {
    const home = await Home.for(t, 0o666)
    await home.protect(true)
    chownSync(home.disk, 0, 0)
    if (restarted) await home.start()
    await home.protect(false)
    t.equal(modeOf(home.disk), '644')
  })
}

t.test('so does one of a former version', root, async (t) => {
  const home = await Home.for(t, 0o664)
  await home.leftFormerly(0o664)
  await home.protect(true)
  await home.protect(false)
  t.equal(modeOf(home.disk), '664')
  t.equal(home.recorded, 0)
  t.test('and root’s own is opened to nobody else', root, async (t) => {
    const home = await Home.for(t, 0o666)
    await home.leftFormerly(0o666)
    chownSync(home.disk, 0, 0)
    await home.protect(false)
    t.equal(modeOf(home.disk), '644')
  })
})

t.test('an image that was moved, with a link in its place, stays frozen and gets its mode back', root, async (t) => {
  for (const restarted of [false, true]) {
    const home = await Home.for(t, 0o664)
    await home.protect(true)
    if (restarted) await home.start()
    const moved = join(home.directory, 'moved.qcow2')
    renameSync(home.disk, moved)
    symlinkSync(moved, home.disk)
    await home.protect(true)
    t.equal(modeOf(moved), '444')
    await home.protect(false)
    t.equal(modeOf(moved), '664')
  }
})

t.test('bits of the file itself are neither given nor taken', root, async (t) => {
  const home = await Home.for(t, 0o6755)
  await home.protect(true)
  t.equal(modeOf(home.disk), '6755', 'no image, and left alone')
  chmodSync(home.disk, 0o664)
  await home.protect(true)
  t.equal(modeOf(home.disk), '444')
  chmodSync(home.disk, 0o6444)
  await home.protect(false)
  t.equal(modeOf(home.disk), '6444')
})

t.test('an image in the place of another is frozen for itself', root, async (t) => {
  const home = await Home.for(t, 0o666)
  await home.protect(true)
  await home.start()
  copyFileSync(home.disk, `${home.disk}.new`)
  chownSync(`${home.disk}.new`, CAROL, CAROL)
  chmodSync(`${home.disk}.new`, 0o640)
  renameSync(`${home.disk}.new`, home.disk)
  await home.protect(true)
  t.equal(modeOf(home.disk), '440')
  await home.protect(false)
  t.equal(modeOf(home.disk), '640')
})

t.test('nothing waits for a pipe in the place of an image', root, async (t) => {
  const home = await Home.for(t)
  await home.protect(true)
  await home.start()
  rmSync(home.disk)
  execFileSync('mkfifo', [home.disk])
  await home.protect(false)
  t.equal(home.recorded, 0)
  t.ok(existsSync(home.disk))
})
