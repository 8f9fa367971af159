// What a host says of a restore that has failed halfway, when it is asked again: with machines, ports and datapath made
// up.

import { EventEmitter } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import t from 'tap'
import type { RestoreRequest } from '../../src/api/schemas.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import type { MachineControl, MachineSpec } from '../../src/hypervisor/hypervisor.js'
import { type Clock, systemClock } from '../../src/runtime/clock.js'
import { type ChannelFrame, writeChannel } from '../../src/trace/channel.js'
import { Epochs, type Host } from '../../switch/agent/host.js'
import type { Moves } from '../../switch/agent/host-records.js'
import type { RestoreRecord } from '../../switch/agent/journal.js'
import { readChannelState } from '../../switch/agent/restore/channel.js'
import { Restores } from '../../switch/agent/restore/restores.js'
import { RestoreTaps } from '../../switch/agent/restore/taps.js'
import { Sessions } from '../../switch/agent/sessions.js'
import type { DatapathEvents } from '../../switch/datapath/datapath.js'
import type { CommandName, Commands } from '../../switch/datapath/protocol.js'
import type { PortEntry, PortRequest } from '../../switch/ports/table.js'
import { movedPorts, type WantedView } from '../../switch/wanted/wanted.js'
import { memberOf } from '../coordinator/fixtures.js'
import { patience } from '../patience.js'
import { FreePorts } from './free-ports.js'
import { bareInfo, controlOf, unasked } from './made-up-machine.js'
import { noImages } from './no-images.js'

const wantedOf = (networks: readonly string[], names: readonly string[] = []): WantedView => {
  const port = (name: string): PortRequest => ({ name, network: 'lab1', device: name, kind: 'member', vm: 'one' })
  const ports = new Map(names.map((name) => [name, port(name)]))
  return { networks: () => networks, moves: (present) => movedPorts(ports, present) }
}

const keeper = { letGo: async () => {}, soon: () => {} }

/** A host where the machine `bad` has ended when it is told to run. */
class MadeUpHost {
  readonly specs = new Map<string, MachineSpec>()
  readonly destroyed: string[] = []
  /** Ports whose guest’s queue was found empty. */
  readonly emptied: number[] = []
  /** Machines that run before the restore, with what was done to them. */
  readonly formers = new Map<string, string[]>()
  /** The record of the restore. */
  record: RestoreRecord | null = null
  readonly #still = new Set<string>()
  refusesToPause: string | null = null
  refusesToResume: string | null = null
  refusesToEnd: string | null = null
  clock: Clock = systemClock
  /** What a pause waits for, by machine. */
  readonly pausing = new Map<string, Promise<void>>()
  /** What writing a record waits for. */
  writing: Promise<void> = Promise.resolve()
  saved: Moves | null = null
  readonly ports = new AnyPorts()
  /** Nothing can be written. */
  full = false

  /** What the record says of those that stand still. */
  get paused(): string[] {
    return (this.record?.formers ?? []).map(({ vm }) => vm)
  }

  #former(vm: string): MachineControl {
    const done = this.formers.get(vm)!
    return controlOf({
      inspect: async () => ({ ...bareInfo, state: this.#still.has(vm) ? 'paused' : 'running' }),
      pause: async () => {
        await this.pausing.get(vm)
        done.push('pause')
        if (this.refusesToPause === vm) throw new SnapswitchError('HYPERVISOR_REFUSED', 'no', '')
        this.#still.add(vm)
        return { pausedAtUs: 1 }
      },
      resume: async () => {
        if (this.refusesToResume === vm) throw new SnapswitchError('HYPERVISOR_REFUSED', 'no', '')
        this.#still.delete(vm)
        done.push('resume')
        return { resumedAtUs: 1 }
      },
      destroy: async () => {
        done.push('destroy')
      },
    })
  }

  #loaded(vm: string): MachineControl {
    return controlOf({
      inspect: async () => ({ ...bareInfo, state: 'paused' }),
      resume: async () => {
        if (vm === 'bad') throw new SnapswitchError('MACHINE_NOT_RUNNING', 'bad has ended', '')
        return { resumedAtUs: 7 }
      },
      destroy: async () => {
        this.#end(vm)
      },
    })
  }

  #end(vm: string): void {
    if (this.refusesToEnd === vm) throw new SnapswitchError('HYPERVISOR_UNREACHABLE', `${vm} cannot be ended`, '')
    this.destroyed.push(vm)
  }

  async asHost(): Promise<Host> {
    const taps = { ports: { removeTap: () => {}, replaceTap: () => {} }, log: { warn: () => {} } }
    const epochs = { readEpochs: async () => new Map(), readFences: async () => new Map() }
    const write = async () => {
      if (this.full) throw new SnapswitchError('STORE_FULL', 'no space left', '')
    }
    const unwritten = { writeEpochs: write, writeFences: write }
    return {
      name: 'a',
      version: '1',
      clock: this.clock,
      processor: { cores: 2, runAhead: () => () => {}, collectGarbage: () => {}, availableMemory: () => null },
      portion: 1,
      recordedEvents: 0,
      recordedBytes: 0,
      restoreTaps: () => new RestoreTaps(taps),
      log: pino({ level: 'silent' }),
      epochs: await Epochs.open({ ...epochs, ...unwritten }),
      ports: this.ports,
      unread: { emptied: (port: number) => this.emptied.push(port), of: () => 0 },
      datapath: new NoDatapath(),
      disks: noImages,
      journal: {
        writeCut: unasked('write a cut'),
        noteResumed: unasked('note a resume'),
        noteStuck: unasked('note what is stuck'),
        unfinished: async () => [],
        removeUnfinished: unasked('remove an unfinished snapshot'),
        restores: async () => (this.record === null ? [] : [this.record]),
        writeRestore: async (record: RestoreRecord) => {
          await this.writing
          await write()
          this.record = record
        },
        removeRestore: async () => {
          this.record = null
        },
      },
      store: {
        create: unasked('make a snapshot'),
        remove: unasked('remove a snapshot'),
        machineImages: unasked('name images'),
        writeFile: unasked('write a file'),
        writePieces: unasked('write pieces'),
        reference: unasked('refer to a file'),
        writePart: unasked('write a part'),
        readPart: unasked('read a part'),
        parts: async () => [],
        freeBytes: async () => (this.full ? 0 : 1 << 30),
        images: {
          finder: async () => async (file) => file.path,
          release: async () => undefined,
          share: async (path) => path,
        },
        freeMachineDirectory: async () => '/none',
        makeMachineDirectory: async () => {},
        removeMachineDirectory: async () => {},
        readFile: (path) => readFile(path),
      },
      records: {
        writeMoves: async (moves: () => Moves) => {
          this.saved = moves()
        },
      },
      machines: {
        examine: async () => [],
        load: async ({ definition: { name } }) => {
          const spec = { qmp: `/run/${name}` }
          return { control: this.#loaded(name), spec, takePlace: async () => undefined }
        },
        endLoad: async ({ directory }) => {
          this.#end(`load in ${directory}`)
          return true
        },
        isThere: async (vm) => this.formers.has(vm),
        attach: async (vm) => this.#former(vm),
        using: async (vm, _deadline, use) => use(this.#former(vm)),
        knownAs: (_vm, _spec, use) => use(),
        spec: (vm) => this.specs.get(vm),
        set: (vm, spec) => this.specs.set(vm, spec),
        delete: (vm) => this.specs.delete(vm),
        moved: () => Object.fromEntries(this.specs),
      },
    }
  }
}

/** p0 is in lab0, p1 in lab1, and so on. */
class AnyPorts extends FreePorts {
  /** TAPs that a program holds. */
  readonly held = new Set<string>()

  override isTapHeld(device: string): boolean {
    return this.held.has(device)
  }

  override get(name: string): PortEntry {
    const index = Number(name.slice(1))
    return this.enter({ name, network: `lab${index}`, device: name, kind: 'member', vm: null }, index)
  }

  override all(): PortEntry[] {
    return []
  }

  async add({ name }: PortRequest): Promise<PortEntry> {
    return this.get(name)
  }

  async remove(): Promise<void> {}
}

class NoDatapath extends EventEmitter<DatapathEvents> {
  readonly counters = new Float64Array()
  readonly thread = 0
  readonly bootId = '0'
  readonly restarts = 0
  rememberEpoch(): void {}
  rememberFence(): void {}

  /** Nothing waits at any gate. */
  async call<K extends CommandName>(name: K): Promise<Commands[K]['result']> {
    const result: Partial<Results>[K] = results[name]
    if (result === undefined) throw new Error(`nobody should call ${name} in this test`)
    return result
  }
}

type Results = { [K in CommandName]: Commands[K]['result'] }
const nothing = { opening: [], atUs: 0 }
const results: Partial<Results> = {
  gate: { held: [] },
  release: nothing,
  advance: nothing,
  drain: nothing,
  fence: null,
}

const undoing = { kind: 'undoing', machines: new Set(['good']) } as const
const pauseOf = (...machines: string[]) => ({
  epoch: 5,
  machines,
  replace: true,
  pauseMs: patience(60_000),
  deadlineMs: patience(60_000),
})

function requestFor(...names: string[]): RestoreRequest {
  const members = names.map((vm) => ({
    ...memberOf('a', vm),
    ports: [],
    definition: { kind: 'qemu', name: vm, nics: [], argv: ['qemu'] },
    disks: [],
  }))
  return { epoch: 5, members, channels: [], deadlineMs: patience(60_000) }
}

t.test('one machine of two runs, then the datapath fails: it runs on, and nobody says that both do', async (t) => {
  const fake = new MadeUpHost()
  const host = await fake.asHost()
  const sessions = new Sessions(host, wantedOf(['lab0', 'lab1']))
  const restores = new Restores(host, sessions, wantedOf([], ['p1']), keeper)
  t.same((await restores.load('lab0', 's', requestFor('good', 'bad'))).loaded, ['good', 'bad'])
  t.equal(sessions.busy('lab0'), 'restore of s')
  await t.rejects(restores.resume('lab0', 's'), { code: 'SNAPSHOT_DISCARDED' }, 'not before the switch')
  await restores.switchOver('lab0', 's', 10_000)
  await t.rejects(restores.resume('lab0', 's'), { code: 'MACHINE_NOT_RUNNING' })
  t.same(Object.keys(fake.saved!.machines), ['good', 'bad'], 'both are on disk before they run')
  await restores.abandon('lab0')
  t.same(fake.destroyed, ['bad'])
  t.same(Object.keys(fake.saved!.machines), ['good'], 'a restarted daemon looks for no other')
  t.equal(sessions.busy('lab0'), null)
  await t.rejects(restores.resume('lab0', 's'), { code: 'SNAPSHOT_UNKNOWN' })
  t.same(await restores.abort('lab0', 's', 5), { running: ['good'] })
  t.same(await restores.abort('lab0', 'other', 5), { running: [] })
})

t.test('answers that got lost are given again', async (t) => {
  const host = await new MadeUpHost().asHost()
  const restores = new Restores(host, new Sessions(host, wantedOf(['lab0'])), wantedOf([]), keeper)
  const loaded = await restores.load('lab0', 's', requestFor('good'))
  t.same(await restores.load('lab0', 's', requestFor('good')), loaded)
  await restores.pause('lab0', 's', pauseOf('good'))
  await restores.pause('lab0', 's', pauseOf('good'))
  const switched = await restores.switchOver('lab0', 's', 10_000)
  t.same(await restores.switchOver('lab0', 's', 10_000), switched)
  const answer = await restores.resume('lab0', 's')
  t.same(answer, { resumed: [{ vm: 'good', atUs: 7, disks: [] }] })
  t.same(await restores.resume('lab0', 's'), answer)
  t.same(await restores.abort('lab0', 's', 5), { running: ['good'] })
})

t.test('what runs stands still before the switch; called off, it runs on', async (t) => {
  const fake = new MadeUpHost()
  const host = await fake.asHost()
  const sessions = new Sessions(host, wantedOf(['lab0']))
  const restores = new Restores(host, sessions, wantedOf([]), keeper)
  const done: string[] = []
  fake.formers.set('good', done)
  fake.specs.set('good', { qmp: '/run/former' })
  await restores.load('lab0', 's', requestFor('good'))
  t.same(done, [], 'while its next self is loaded it runs on')
  await t.rejects(restores.pause('lab0', 's', { ...pauseOf('good'), replace: false }), { code: 'MACHINE_RUNNING' })
  t.same(done, [])
  t.same(await restores.pause('lab0', 's', pauseOf('good')), { paused: ['good'] })
  t.same(fake.paused, ['good'], 'a daemon that is killed now leaves word of it')
  t.same(await restores.abort('lab0', 's', 5), { running: [] })
  t.same(done, ['pause', 'resume'])
  t.same(fake.paused, [])
  t.same(fake.destroyed, ['good'], 'what was loaded is ended')
  t.equal(sessions.busy('lab0'), null)

  await restores.load('lab0', 's', { ...requestFor('good'), epoch: 6 })
  await restores.pause('lab0', 's', { ...pauseOf('good'), epoch: 6 })
  t.match(await restores.switchOver('lab0', 's', 10_000), { ended: ['good'] })
  t.same(done, ['pause', 'resume', 'pause', 'destroy'])
  await restores.resume('lab0', 's')
  t.same(done.length, 4)
})

t.test(
  'a full disk is told before anything is touched; filled up later, the restore is undone all the same',
  async (t) => {
    const fake = new MadeUpHost()
    fake.full = true
    const host = await fake.asHost()
    const sessions = new Sessions(host, wantedOf(['lab0']))
    const restores = new Restores(host, sessions, wantedOf([]), keeper)
    fake.formers.set('good', [])
    fake.specs.set('good', { qmp: '/run/former' })
    t.match(await restores.check('lab0', requestFor('good')), { problems: [{ code: 'STORE_FULL' }] })
    await t.rejects(restores.load('lab0', 's', requestFor('good')), { code: 'STORE_FULL' })
    t.same(await restores.abort('lab0', 's', 5), { running: [] }, 'not a host that could not be told')
    await t.rejects(restores.load('lab0', 's', requestFor('good')), { code: 'EPOCH_STALE' }, 'one that comes late')
    t.same(fake.formers.get('good'), [], 'what runs has noticed nothing')
    t.equal(sessions.busy('lab0'), null)
  },
)

/** What is slept for passes at once; who waits for the coordinator waits for ever. */
function hasty(): Clock {
  let ms = 0
  return {
    now: () => ({ ms, wallUs: 0 }),
    after: (waitMs, act) => {
      if (waitMs > 2000) return () => {}
      ms += waitMs
      queueMicrotask(act)
      return () => {}
    },
  }
}

t.test(
  'a machine that stands still when a restore is called off is named, and comes before the next one',
  async (t) => {
    const fake = new MadeUpHost()
    fake.clock = hasty()
    const host = await fake.asHost()
    const sessions = new Sessions(host, wantedOf(['lab0']))
    const restores = new Restores(host, sessions, wantedOf([]), keeper)
    let left = 0
    restores.onLeft = () => {
      left++
    }
    const done: string[] = []
    fake.formers.set('former', done)
    fake.specs.set('former', { qmp: '/run/former' })
    fake.refusesToResume = 'former'
    await restores.load('lab0', 's', requestFor('good'))
    await restores.pause('lab0', 's', pauseOf('former'))
    const answer = { running: [], standing: ['former'] }
    t.same(await restores.abort('lab0', 's', 5), answer)
    t.same(await restores.abort('lab0', 's', 5), answer, 'asked again')
    t.equal(left, 1)
    t.same(done, ['pause'])
    t.same(fake.paused, ['former'])
    t.match(fake.record, { machines: [], ports: [], taps: [] }, 'nothing else is left')

    // Its record would take the place of that one.
    const next = { ...requestFor('good'), epoch: 6 }
    await t.rejects(restores.load('lab0', 's', next), { code: 'MACHINE_PAUSED', message: /^former stands still/ })
    await t.rejects(restores.pause('lab0', 's', { ...pauseOf('former'), epoch: 7 }), { code: 'MACHINE_PAUSED' })
    t.same(fake.paused, ['former'])
    t.equal(sessions.busy('lab0'), null)
    t.equal(restores.outcomes('lab0').undone, 3)

    fake.refusesToResume = null
    await restores.load('lab0', 's', { ...next, epoch: 8 })
    t.same(done, ['pause', 'resume'])
    await restores.pause('lab0', 's', { ...pauseOf('former'), epoch: 8 })
    t.same(fake.paused, ['former'])
    t.same(await restores.abort('lab0', 's', 8), { running: [] })
    t.same(done, ['pause', 'resume', 'pause', 'resume'], 'it ran when it was told to stop')
    t.equal(fake.record, null)
    t.equal(left, 1)
  },
)

t.test('a loaded machine that could not be ended stays on record, and is ended before the next restore', async (t) => {
  const fake = new MadeUpHost()
  const host = await fake.asHost()
  const restores = new Restores(host, new Sessions(host, wantedOf(['lab0'])), wantedOf([]), keeper)
  let left = 0
  restores.onLeft = () => {
    left++
  }
  await restores.load('lab0', 's', requestFor('good', 'other'))
  fake.refusesToEnd = 'good'
  t.same(await restores.abort('lab0', 's', 5), { running: [] })
  t.same(fake.destroyed, ['other'])
  t.equal(left, 1)
  t.match(fake.record, { resuming: false, machines: [{ vm: 'good', directory: '/none' }], formers: [] })
  fake.refusesToEnd = 'load in /none'
  const next = { ...requestFor('other'), epoch: 6 }
  await t.rejects(restores.load('lab0', 's', next), { code: 'HYPERVISOR_UNREACHABLE' })
  t.match(fake.record, { machines: [{ vm: 'good' }] })
  fake.refusesToEnd = null
  await restores.load('lab0', 's', { ...next, epoch: 7 })
  t.same(fake.destroyed, ['other', 'load in /none'])
  t.match(fake.record, { machines: [{ vm: 'other' }] })
  await restores.abort('lab0', 's', 7)
  t.equal(fake.record, null)
})

t.test('a restore that is called off twice at once is undone once', async (t) => {
  const host = await new MadeUpHost().asHost()
  const restores = new Restores(host, new Sessions(host, wantedOf(['lab0'])), wantedOf([]), keeper)
  await restores.load('lab0', 's', requestFor('good'))
  await Promise.all([restores.abort('lab0', 's', 5), restores.abandon('lab0')])
  t.same(restores.outcomes('lab0'), { done: 0, undone: 1 })
})

t.test('a TAP that a stranger holds is told by the check', async (t) => {
  const fake = new MadeUpHost()
  const host = await fake.asHost()
  const restores = new Restores(host, new Sessions(host, wantedOf(['lab0'])), wantedOf([]), keeper)
  const request = requestFor('good')
  const definition = { kind: 'qemu', name: 'good', nics: [{ device: 'mgmt', mac: null }], argv: ['qemu'] }
  const withNic = { ...request, members: request.members.map((member) => ({ ...member, definition })) }
  t.same((await restores.check('lab0', withNic)).problems, [])
  fake.ports.held.add('mgmt')
  t.match((await restores.check('lab0', withNic)).problems, [{ code: 'DEVICE_BUSY', message: /^TAP mgmt of good/ }])
})

t.test('a machine that cannot be paused leaves the others running', async (t) => {
  const fake = new MadeUpHost()
  const restores = new Restores(
    await fake.asHost(),
    new Sessions(await fake.asHost(), wantedOf(['lab0'])),
    wantedOf([]),
    keeper,
  )
  const [good, bad]: [string[], string[]] = [[], []]
  fake.formers.set('good', good).set('bad', bad)
  for (const vm of ['good', 'bad']) fake.specs.set(vm, { qmp: `/run/${vm}` })
  fake.refusesToPause = 'bad'
  // This host gets no machines: it begins with the pause, and a pause that fails undoes itself.
  await t.rejects(restores.pause('lab0', 's', pauseOf('good', 'bad')), { code: 'HYPERVISOR_REFUSED' })
  t.same(
    [good, bad],
    [
      ['pause', 'resume'],
      ['pause', 'resume'],
    ],
  )
  t.same(fake.paused, [])
})

t.test('a machine that is slow to stop runs on, too, when another cannot be paused', async (t) => {
  const fake = new MadeUpHost()
  const restores = new Restores(
    await fake.asHost(),
    new Sessions(await fake.asHost(), wantedOf(['lab0'])),
    wantedOf([]),
    keeper,
  )
  const [slow, bad]: [string[], string[]] = [[], []]
  fake.formers.set('slow', slow).set('bad', bad)
  for (const vm of ['slow', 'bad']) fake.specs.set(vm, { qmp: `/run/${vm}` })
  fake.refusesToPause = 'bad'
  let stop = () => {}
  fake.pausing.set('slow', new Promise((resolve) => (stop = resolve)))
  const refused = t.rejects(restores.pause('lab0', 's', pauseOf('slow', 'bad')), { code: 'HYPERVISOR_REFUSED' })
  await new Promise((resolve) => setImmediate(resolve))
  t.same(bad, ['pause'], 'nothing is undone while a machine may still be stopped')
  stop()
  await refused
  t.same(slow, ['pause', 'resume'])
  t.same(bad, ['pause', 'resume'])
})

t.test('a session that ends late takes no other’s place; nothing begins while the daemon stops', async (t) => {
  const host = await new MadeUpHost().asHost()
  const sessions = new Sessions(host, wantedOf(['lab0']))
  const first = sessions.begin('lab0', { name: 'first', work: undoing })
  t.throws(() => sessions.begin('lab0', { name: 'second', work: undoing }), { code: 'SNAPSHOT_BUSY' })
  t.throws(() => sessions.check('lab7'), { code: 'NETWORK_UNKNOWN' })
  sessions.end('lab0', first)
  sessions.begin('lab0', { name: 'second', work: undoing })
  sessions.end('lab0', first)
  t.equal(sessions.busy('lab0'), 'second')
  sessions.occupy('lab7', { name: 'of a network that is no more', work: undoing })
  t.ok(sessions.machines().has('good'))
  sessions.end('lab0', sessions.of('lab0')!)
  t.equal(sessions.busy('lab0'), null, 'it shares no machine')
  Object.assign(host.ports, { machinesOf: (network: string) => (network === 'lab0' ? ['good'] : []) })
  t.equal(sessions.busy('lab0'), 'of a network that is no more of network lab7')
  sessions.close()
  t.throws(() => sessions.begin('lab0', { name: 'third', work: undoing }), {
    code: 'SNAPSHOT_DISCARDED',
  })
})

t.test(
  'the datapath fails while a resume makes its machines known: they are forgotten, and none is told to run',
  async (t) => {
    const fake = new MadeUpHost()
    const host = await fake.asHost()
    const sessions = new Sessions(host, wantedOf(['lab0']))
    const restores = new Restores(host, sessions, wantedOf([]), keeper)
    await restores.load('lab0', 's', requestFor('good'))
    await restores.switchOver('lab0', 's', 10_000)
    let written = () => {}
    fake.writing = new Promise((resolve) => {
      written = resolve
    })
    const resumed = t.rejects(restores.resume('lab0', 's'), { code: 'SNAPSHOT_DISCARDED' })
    const abandoned = restores.abandon('lab0')
    written()
    await Promise.all([resumed, abandoned])
    t.same(fake.destroyed, ['good'])
    t.same([...fake.specs], [])
    t.same(fake.saved!.machines, {})
    t.same(await restores.abort('lab0', 's', 5), { running: [] })
  },
)

t.test('what a former guest has left unread is forgotten at all ports of its machine', async (t) => {
  const fake = new MadeUpHost()
  const host = await fake.asHost()
  const restores = new Restores(host, new Sessions(host, wantedOf(['lab0', 'lab1'])), wantedOf([]), keeper)
  const request = requestFor('good')
  const port = (name: string) => ({ name, device: name, mac: null })
  const ports = [port('p0'), { ...port('p1'), network: 'lab1' }]
  const members = request.members.map((member) => ({ ...member, ports }))
  await restores.load('lab0', 's', { ...request, members })
  await restores.switchOver('lab0', 's', 10_000)
  t.same(fake.emptied, [0, 1])
  await restores.abort('lab0', 's', 5)
})

t.test('a channel state may have as many frames as its bound allows', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'ssw-channel-'))
  t.teardown(() => rmSync(directory, { recursive: true }))
  const path = join(directory, 'channel.pcapng')
  const frame = (vm: string): ChannelFrame => ({
    port: vm,
    vm,
    color: 4,
    verdict: 'in-transit',
    timeNs: 1n,
    vnetHeader: new Uint8Array(10),
    vlanTag: null,
    bytes: new Uint8Array(14),
  })
  const frames = 130_000
  writeFileSync(path, writeChannel([...new Array<ChannelFrame>(frames).fill(frame('good')), frame('other')]))
  const request = { ...requestFor('good'), channels: [{ path, bytes: 0, digest: '' }] }
  const host = await new MadeUpHost().asHost()
  t.equal((await readChannelState(host, request, await host.store.images.finder())).length, frames)
})
