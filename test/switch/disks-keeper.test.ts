// A snapshot that begins while the disks are being tidied: what was seen of its machine holds no more. And files that
// are away for a while. With a machine made up, and the daemon's real records and files.

import { existsSync, mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import type { DiskLayer } from '../../src/hypervisor/hypervisor.js'
import { DiskKeeper } from '../../switch/agent/disks/keeper.js'
import { DiskRecords } from '../../switch/agent/disks/records.js'
import { Journal } from '../../switch/agent/journal.js'
import { LocalStore } from '../../switch/agent/local-store.js'
import type { Machines } from '../../switch/agent/machines.js'
import { fileLimit } from '../patience.js'
import { bareInfo, controlOf, machinesBy } from './made-up-machine.js'
import { root } from './world.js'

t.setTimeout(fileLimit(30_000))

const nothing = async () => {}

/** A running machine `vm` with one disk. */
class Lone {
  readonly busy = new Set<string>()
  readonly directory: string
  readonly disk: string
  /** What it runs on. */
  chain: DiskLayer[]
  /** Looks and merges, in their order. */
  readonly done: string[] = []
  /** Whether the keeper said so in the middle of a merge. */
  merging = false
  /** Whether the machine is off. */
  ended = false
  /**
   * Done once, at that point of a look: at its begin; while the answer of the machine's hypervisor is on its way; after
   * it.
   */
  readonly meanwhile = { begun: nothing, asked: nothing, seen: nothing }
  readonly disks: DiskRecords
  readonly journal: Journal
  readonly machines: Machines
  readonly keeper: DiskKeeper

  private constructor(directory: string, store: LocalStore, disks: DiskRecords) {
    this.directory = directory
    this.disk = this.file('disk.raw')
    writeFileSync(this.disk, 'of the guest')
    this.chain = [{ file: this.disk, format: 'raw' }]
    this.disks = disks
    const control = controlOf({
      inspect: async () => {
        const disks = [{ name: 'vda', bytes: 0, layers: [...this.chain] }]
        this.done.push('look')
        await this.#once('asked')
        return { ...bareInfo, disks }
      },
      collapse: async (_, base) => {
        this.done.push(`merge into ${base}`)
        this.merging = this.keeper.isMerging('vm')
        const at = this.chain.findIndex(({ file }) => file === base)
        return this.chain.splice(0, at).map(({ file }) => file)
      },
    })
    const spec = { qmp: '/none' }
    const machines = machinesBy(
      { vm: spec, off: spec },
      {
        attach: async () => control,
        isThere: async (name) => {
          if (name === 'off') await this.#once('seen')
          return name === 'vm' && !this.ended
        },
      },
    )
    const begun = () => this.#once('begun')
    this.machines = machines
    this.journal = new (class extends Journal {
      override async unfinished() {
        await begun()
        return super.unfinished()
      }
    })(join(directory, 'state'))
    const { journal } = this
    const log = pino({ level: 'silent' })
    this.keeper = new DiskKeeper({ name: 'a', store, disks, machines, journal, log }, () => new Set(this.busy))
  }

  static async for(t: Test): Promise<Lone> {
    const directory = mkdtempSync(join(tmpdir(), 'snapswitch-keeper-'))
    t.teardown(() => rmSync(directory, { recursive: true, force: true }))
    const state = join(directory, 'state')
    const store = new LocalStore(state)
    await store.open()
    const disks = await DiskRecords.open(state, async () => ({ made: [], actives: [] }))
    const lone = new Lone(directory, store, disks)
    t.teardown(() => lone.keeper.close())
    await disks.noteOrigins('vm', { vda: lone.chain })
    return lone
  }

  async #once(point: 'begun' | 'asked' | 'seen'): Promise<void> {
    const work = this.meanwhile[point]
    this.meanwhile[point] = nothing
    await work()
  }

  file(name: string): string {
    return join(this.directory, name)
  }

  /** As the agent does; nothing is made yet. */
  async begin(): Promise<void> {
    this.busy.add('vm')
    await this.keeper.letGo(['vm'])
  }

  tidy() {
    return this.keeper.exclusively(() => this.keeper.tidy())
  }

  /** The machine is off, and what is in that directory cannot be reached: it is mounted later. */
  async unmounted(directory: string, work: () => Promise<unknown>): Promise<void> {
    this.ended = true
    renameSync(this.file(directory), this.file('away'))
    await work()
    renameSync(this.file('away'), this.file(directory))
    this.ended = false
  }

  putOn(overlay: string): void {
    writeFileSync(overlay, '')
    this.chain = [{ file: overlay, format: 'qcow2' }, ...this.chain]
  }
}

t.test('an overlay that is on record and about to be made stays on record', root, async (t) => {
  const lone = await Lone.for(t)
  const overlay = lone.file('vm-vda.s1-e1.qcow2')
  // The first look is for the plan, the second for what is left of records.
  lone.meanwhile.asked = async () => {
    lone.meanwhile.asked = async () => {
      await lone.begin()
      await lone.disks.noteMade('vm', overlay)
    }
  }
  await lone.tidy()
  t.ok(lone.disks.made.has(overlay))
  lone.putOn(overlay)
  lone.busy.clear()
  await lone.tidy()
  t.same(lone.chain, [{ file: lone.disk, format: 'raw' }], 'and is merged when nobody needs it')
  t.same([lone.merging, lone.keeper.isMerging('vm')], [true, false], 'which is told while it goes on')
})

t.test('an overlay that was made and is about to be opened is not removed', root, async (t) => {
  const lone = await Lone.for(t)
  const overlay = lone.file('vm-vda.s1-e1.qcow2')
  lone.meanwhile.begun = async () => {
    await lone.begin()
    await lone.disks.noteMade('vm', overlay)
    writeFileSync(overlay, '')
  }
  t.same((await lone.tidy()).removed, [])
  t.ok(existsSync(overlay))
  t.ok(lone.disks.made.has(overlay))
  lone.busy.clear()
  t.same((await lone.tidy()).removed, [overlay], 'but is when the snapshot has come to nothing')
})

for (const point of ['asked', 'seen'] as const) {
  t.test(`a snapshot that was taken meanwhile (${point}): what was seen before does not count`, root, async (t) => {
    const lone = await Lone.for(t)
    const [first, second] = [lone.file('vm-vda.s1-e1.qcow2'), lone.file('vm-vda.s2-e2.qcow2')]
    await lone.disks.noteMade('vm', first)
    lone.putOn(first)
    lone.meanwhile[point] = async () => {
      await lone.begin()
      await lone.disks.noteMade('vm', second)
      lone.putOn(second)
      await lone.disks.learn('vm', { vda: lone.chain })
      lone.busy.clear()
    }
    await lone.tidy()
    t.same([...lone.disks.strays], [], 'nobody started it without its overlay')
    t.not(lone.done[1], `merge into ${lone.disk}`, 'it is looked at again before anything is merged')
    await lone.tidy()
    t.same(lone.chain, [{ file: lone.disk, format: 'raw' }])
    t.same([existsSync(first), existsSync(second)], [false, false])
  })
}

t.test('an overlay on a disk that is mounted late stays ours, and is merged', root, async (t) => {
  const lone = await Lone.for(t)
  mkdirSync(lone.file('mounted'))
  const overlay = lone.file('mounted/vm-vda.s1-e1.qcow2')
  await lone.disks.noteMade('vm', overlay)
  lone.putOn(overlay)
  await lone.disks.learn('vm', { vda: lone.chain })
  await lone.unmounted('mounted', () => lone.tidy())
  t.ok(lone.disks.made.has(overlay))
  await lone.tidy()
  t.same(lone.chain, [{ file: lone.disk, format: 'raw' }])
  t.notOk(existsSync(overlay))
})

t.test('so does one of a snapshot that is still to be undone', root, async (t) => {
  const lone = await Lone.for(t)
  mkdirSync(lone.file('mounted'))
  const overlay = lone.file('mounted/vm-vda.s1-e1.qcow2')
  await lone.disks.noteMade('vm', overlay)
  await lone.journal.writeCut('lab0', 's1', 'vm', { label: 's1-e1', incarnation: '1:1', disks: [] })
  await lone.unmounted('mounted', () => lone.tidy())
  t.ok(lone.disks.made.has(overlay))
})

t.test('a file that is gone is forgotten; one that cannot be looked at is not', root, async (t) => {
  const lone = await Lone.for(t)
  const [gone, unseen] = [lone.file('vm-vda.s1-e1.qcow2'), lone.file('loop/vm-vda.s2-e2.qcow2')]
  symlinkSync(lone.file('loop'), lone.file('loop'))
  for (const file of [gone, unseen]) await lone.disks.noteMade('vm', file)
  await lone.tidy()
  t.same([...lone.disks.made.keys()], [unseen])
  rmSync(lone.file('loop'))
  await lone.tidy()
  t.same([...lone.disks.made.keys()], [])
})

t.test('a state directory that was moved: nothing of a restored machine that is off goes', root, async (t) => {
  const lone = await Lone.for(t)
  const directory = lone.file('state/machines/vm/e7')
  mkdirSync(directory, { recursive: true })
  const image = join(directory, 'vda.qcow2')
  writeFileSync(image, '')
  await lone.disks.replace('vm', { vda: [{ file: lone.file('former/machines/vm/e7/vda.qcow2'), format: 'qcow2' }] })
  lone.ended = true
  const { removed, kept } = await lone.tidy()
  t.same(removed, [])
  t.ok(existsSync(image))
  t.match(kept, [{ file: image, reason: /cannot be found/ }])
  await lone.disks.replace('vm', {})
  t.same((await lone.tidy()).removed, [image], 'but does when the machine is known to be elsewhere')
})

t.test('the same of one whose driver keeps its files itself', root, async (t) => {
  const lone = await Lone.for(t)
  const directory = lone.file('state/machines/command/e7')
  mkdirSync(directory, { recursive: true })
  for (const name of ['.whole', 'image']) writeFileSync(join(directory, name), '')
  const own = lone.file('former/machines/command/e7')
  lone.machines.set('command', { exec: { command: '/bin/true', directory: own } })
  await lone.tidy()
  t.ok(existsSync(directory))
  mkdirSync(own, { recursive: true })
  await lone.tidy()
  t.notOk(existsSync(directory))
})
