// A snapshot that is being taken is deleted by nobody, a coordinator that has a failed one of its name included: its
// files are there and its part is not. With a machine made up, whose preparation takes until it is told to fail.

import { existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import t from 'tap'
import { systemClock } from '../../src/runtime/clock.js'
import { Agent, type Disks } from '../../switch/agent/agent.js'
import type { Host } from '../../switch/agent/host.js'
import { LocalStore } from '../../switch/agent/local-store.js'
import { calledOff } from '../../switch/agent/refusals.js'
import { fileLimit } from '../patience.js'
import { controlOf, machinesBy } from './made-up-machine.js'

t.setTimeout(fileLimit(20_000))

t.test('a deletion of a snapshot that is being prepared is refused, and leaves its files', async (t) => {
  const state = mkdtempSync(join(tmpdir(), 'snapswitch-begun-'))
  t.teardown(() => rmSync(state, { recursive: true, force: true }))
  const store = new LocalStore(state)
  mkdirSync(join(state, 'snapshots'))
  let begun = () => {}
  const isBegun = new Promise<void>((resolve) => {
    begun = resolve
  })
  let fail = () => {}
  const control = controlOf({
    abandon: async () => {},
    inspect: () => {
      begun()
      return new Promise((_, reject) => {
        fail = () => reject(calledOff)
      })
    },
  })
  const host: Partial<Record<keyof Host, unknown>> = {
    name: 'a',
    clock: systemClock,
    processor: { cores: 2, runAhead: () => () => {}, collectGarbage: () => {}, availableMemory: () => null },
    machines: machinesBy({ vm: { qmp: '/none' } }, { attach: async () => control }),
    ports: { machinesOf: () => ['vm'], ofMachine: () => [], all: () => [], membersOf: () => [] },
    datapath: { on: () => {}, restarts: 0, rememberEpoch: () => {}, call: async () => ({}) },
    epochs: { raise: async () => {}, get: () => 0 },
    store,
    log: pino({ level: 'silent' }),
  }
  const removed: string[] = []
  const disks: Partial<Disks> = {
    letGo: async () => {},
    soon: () => {},
    close: async () => {},
    remove: async (_, name) => {
      removed.push(name)
      return { freedBytes: 0, merged: [], removed: [], kept: [] }
    },
  }
  const agent = new Agent(host as Host, { networks: () => ['lab0'] } as never, disks as Disks)
  const request = { network: 'lab0', snapshot: 's1', epoch: 7, policy: 'buffer' as const, deadlineMs: 600_000 }
  const preparing = agent.prepare(request).catch((thrown: unknown) => thrown)
  await isBegun
  const busy = { code: 'SNAPSHOT_BUSY', message: /snapshot s1 is under way/ }
  await t.rejects(agent.remove('lab0', 's1', 6), busy)
  await t.rejects(agent.remove('lab0', 's1', null), busy)
  t.ok(existsSync(store.machineImages('lab0', 's1', 'vm')))
  await agent.remove('lab0', 's2', 6)
  t.same(removed, ['s2'], 'others can be deleted')
  const discarding = agent.discard('lab0', 's1', 7)
  fail()
  await discarding
  t.match(await preparing, { code: 'SNAPSHOT_DISCARDED' })
  await agent.remove('lab0', 's1', 6)
  t.same(removed, ['s2', 's1'])
  await agent.close()
})
