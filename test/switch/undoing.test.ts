// A machine that a snapshot has paused and could not resume is put right by the daemon that lives on, once its
// hypervisor answers. With a hypervisor made up, and real records.

import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { SnapswitchError } from '../../src/errors/errors.js'
import type { MachineSpec, MachineState } from '../../src/hypervisor/hypervisor.js'
import type { Clock } from '../../src/runtime/clock.js'
import { DiskRecords } from '../../switch/agent/disks/records.js'
import { Journal, type RestoreRecord } from '../../switch/agent/journal.js'
import { LocalStore } from '../../switch/agent/local-store.js'
import type { Machines } from '../../switch/agent/machines.js'
import type { Session } from '../../switch/agent/sessions.js'
import { Undoing } from '../../switch/agent/undoing.js'
import { fileLimit } from '../patience.js'
import { bareInfo, controlOf, machinesBy } from './made-up-machine.js'

t.setTimeout(fileLimit(30_000))

const LONG_MS = 3_600_000
const SPEC = { qmp: '/none' }

/** A host whose machine `vm` stands still, with an unfinished snapshot on record. */
class Lone {
  readonly directory: string
  readonly journal: Journal
  readonly record: string
  readonly machines: Machines
  readonly undoing: Undoing
  state: MachineState = 'paused'
  /** Whether the hypervisor answers at all; whether it obeys. */
  answers = false
  resumes = true
  nowMs = 0
  asked = 0
  ends = true
  readonly ended: string[] = []
  session: Session | null = null
  /** Done when the hypervisor is asked. */
  meanwhile = () => {}

  constructor(directory: string, disks: DiskRecords, specs: Record<string, MachineSpec>) {
    this.directory = directory
    this.journal = new Journal(directory)
    this.record = join(directory, 'snapshots', 'lab0', 's1')
    const control = controlOf({
      inspect: async () => ({ ...bareInfo, state: this.state }),
      resume: async () => {
        if (!this.resumes) throw new SnapswitchError('HYPERVISOR_REFUSED', 'no', '')
        this.state = 'running'
        return { resumedAtUs: 1 }
      },
    })
    const machines = machinesBy(specs, {
      attach: async (_, spec) => {
        this.asked++
        t.same(spec, SPEC)
        if (!this.answers) throw new SnapswitchError('HYPERVISOR_UNREACHABLE', 'nobody there', '')
        this.meanwhile()
        return control
      },
      endLoad: async ({ directory }) => {
        if (!this.ends) throw new SnapswitchError('HYPERVISOR_UNREACHABLE', 'nobody there', '')
        this.ended.push(directory)
        return true
      },
    })
    this.machines = machines
    // No time passes but what a test lets pass, or what is slept.
    const clock: Clock = {
      now: () => ({ ms: this.nowMs, wallUs: 0 }),
      after: (ms, then) => {
        this.nowMs += ms
        queueMicrotask(then)
        return () => {}
      },
    }
    const log = pino({ level: 'silent' })
    const host = { clock, log, journal: this.journal, store: new LocalStore(this.directory), disks, machines }
    const sessions = {
      busy: () => this.session?.name ?? null,
      occupy: (_: string, session: Session) => {
        this.session = session
      },
      end: () => {
        this.session = null
      },
    }
    this.undoing = new Undoing(host, sessions, async () => {})
  }

  static async for(t: Test, specs: Record<string, MachineSpec> = { vm: SPEC }): Promise<Lone> {
    const directory = mkdtempSync(join(tmpdir(), 'snapswitch-undoing-'))
    t.teardown(() => rmSync(directory, { recursive: true, force: true }))
    const lone = new Lone(directory, await DiskRecords.open(directory, async () => ({ made: [], actives: [] })), specs)
    await lone.journal.writeCut('lab0', 's1', 'vm', { label: 's1-e1', incarnation: '1:1', spec: SPEC, disks: [] })
    await lone.journal.noteStuck('lab0', 's1', 'vm')
    return lone
  }

  /** The same with what a restore has left. */
  static async withRestore(t: Test, machines: RestoreRecord['machines'] = []): Promise<Lone> {
    const lone = await Lone.for(t)
    await lone.journal.removeUnfinished('lab0', 's1')
    const formers = [{ vm: 'vm', incarnation: '1:1', spec: SPEC }]
    const names = { network: 'lab0', snapshot: 's1', resuming: false }
    await lone.journal.writeRestore({ ...names, machines, ports: [], taps: [], formers })
    return lone
  }

  restores(): Promise<RestoreRecord[]> {
    return this.journal.restores()
  }

  again(): Promise<boolean> {
    this.nowMs += LONG_MS
    return this.undoing.again()
  }
}

t.test('it is tried again until the hypervisor answers, and then no more', async (t) => {
  const lone = await Lone.for(t)
  lone.undoing.mayBeLeft()
  t.equal(await lone.undoing.again(), false)
  t.equal(lone.asked, 0, 'not at once')
  t.equal(await lone.again(), false)
  t.equal(lone.asked, 1)
  t.ok(existsSync(lone.record))
  lone.answers = true
  lone.resumes = false
  t.equal(await lone.again(), false, 'it answers, and does not obey')
  t.ok(existsSync(lone.record))
  t.equal(lone.session, null, 'the network is not busy between the attempts')
  lone.resumes = true
  t.equal(await lone.again(), true)
  t.equal(lone.state, 'running')
  t.notOk(existsSync(lone.record))
  const { asked } = lone
  t.equal(await lone.again(), false)
  t.equal(lone.asked, asked, 'there is nothing left to ask for')
})

t.test('a machine that this host has no more, by that name or at all', async (t) => {
  for (const specs of [{}, { vm: { qmp: '/another' } }] as Record<string, MachineSpec>[]) {
    const lone = await Lone.for(t, specs)
    lone.answers = true
    await lone.undoing.recover()
    t.equal(lone.state, 'running')
    t.notOk(existsSync(lone.record))
    t.same(lone.machines.spec('vm'), specs.vm, 'it is known as before')
  }
})

t.test('what could not be undone at the start of a daemon is tried again, too', async (t) => {
  const lone = await Lone.for(t)
  await lone.undoing.recover()
  t.ok(existsSync(lone.record))
  lone.answers = true
  t.equal(await lone.again(), true)
  t.equal(lone.state, 'running')
  t.notOk(existsSync(lone.record))
})

t.test('a snapshot that is under way is no unfinished one', async (t) => {
  const lone = await Lone.for(t)
  lone.answers = true
  lone.undoing.mayBeLeft()
  lone.session = { name: 'snapshot s1', work: { kind: 'changing' } }
  t.equal(await lone.again(), false)
  t.equal(lone.state, 'paused')
  lone.session = null
  t.equal(await lone.again(), true)
  t.equal(lone.state, 'running')
})

t.test('nor is one that is finished while the hypervisor is asked', async (t) => {
  const lone = await Lone.for(t)
  lone.answers = true
  lone.undoing.mayBeLeft()
  lone.meanwhile = () => writeFileSync(join(lone.record, 'part.json'), '{}')
  await lone.again()
  t.equal(lone.asked, 1)
  t.equal(lone.state, 'paused', 'nothing is undone')
  t.ok(existsSync(join(lone.record, 'part.json')))
})

t.test('a machine that a restore has paused is tried again, too', async (t) => {
  const lone = await Lone.withRestore(t)
  lone.undoing.mayBeLeft()
  t.equal(await lone.again(), false)
  t.equal((await lone.restores()).length, 1, 'nobody answers')
  lone.answers = true
  lone.resumes = false
  t.equal(await lone.again(), false, 'it answers, and does not obey')
  t.equal((await lone.restores()).length, 1)
  t.equal(lone.session, null)
  lone.session = { name: 'restore of s1', work: { kind: 'changing' } }
  lone.resumes = true
  t.equal(await lone.again(), false)
  t.equal(lone.state, 'paused', 'the record may be of the restore that is under way')
  lone.session = null
  t.equal(await lone.again(), true)
  t.equal(lone.state, 'running')
  t.same(await lone.restores(), [])
})

t.test('what a start of the daemon has left of a restore is tried again', async (t) => {
  const lone = await Lone.withRestore(t)
  await lone.undoing.recover()
  lone.answers = true
  t.equal(await lone.again(), true)
  t.equal(lone.state, 'running')
})

t.test('a machine that a restore has loaded and that could not be ended is ended', async (t) => {
  const directory = '/none/machines/other/e2'
  const loaded = { vm: 'other', kind: 'qemu' as const, directory, domain: null }
  const lone = await Lone.withRestore(t, [loaded])
  lone.answers = true
  lone.ends = false
  lone.undoing.mayBeLeft()
  t.equal(await lone.again(), false)
  t.equal(lone.state, 'running', 'the other one does not wait for it')
  t.equal((await lone.restores()).length, 1)
  lone.ends = true
  t.equal(await lone.again(), true)
  t.same(lone.ended, [directory])
  t.same(await lone.restores(), [])
})
