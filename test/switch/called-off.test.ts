// A snapshot that is called off while a guest stands still for its save: the driver is told, and the guest's gates open
// before the deadline. With a machine made up.

import { pino } from 'pino'
import t from 'tap'
import type { SnapswitchError } from '../../src/errors/errors.js'
import type { ResumeInfo, SealInfo } from '../../src/hypervisor/hypervisor.js'
import { systemClock } from '../../src/runtime/clock.js'
import type { Host } from '../../switch/agent/host.js'
import { calledOff } from '../../switch/agent/refusals.js'
import { SnapshotSession } from '../../switch/agent/snapshot/session.js'
import { fileLimit } from '../patience.js'
import { bareInfo, controlOf, machinesBy, unasked } from './made-up-machine.js'

t.setTimeout(fileLimit(20_000))

const nothing = async () => {}

/** A machine whose save takes for ever, unless somebody calls it off. */
function endlessSave(captured: () => void) {
  let callOff: (error: SnapswitchError) => void = unasked('be called off so early')
  const control = controlOf({
    inspect: async () => ({ ...bareInfo, captureMode: 'stopped' }),
    definition: async () => ({ kind: 'qemu' }) as never,
    settings: async () => ({ capabilities: {}, parameters: {} }),
    prepare: nothing,
    hasten: () => {},
    pause: async () => ({ pausedAtUs: 1 }),
    capture: () => {
      let run: (info: ResumeInfo) => void = () => {}
      const resumed = new Promise<ResumeInfo>((resolve) => {
        run = resolve
      })
      const sealed = new Promise<SealInfo>((_, reject) => {
        callOff = (error) => {
          run({ resumedAtUs: 2 })
          reject(error)
        }
      })
      queueMicrotask(captured)
      return { resumed, sealed, callOff: (error) => callOff(error) }
    },
  })
  return control
}

t.test('a guest that stands still for its save runs again when its snapshot is called off', async (t) => {
  let begun = () => {}
  const captured = new Promise<void>((resolve) => {
    begun = resolve
  })
  const asked: string[] = []
  const spec = { qmp: '/none' }
  const host: Partial<Record<keyof Host, unknown>> = {
    name: 'a',
    clock: systemClock,
    processor: { cores: 2, runAhead: () => () => {}, collectGarbage: () => {}, availableMemory: () => null },
    machines: machinesBy({ vm: spec }, { attach: async () => endlessSave(() => begun()) }),
    ports: {
      machinesOf: () => ['vm'],
      ofMachine: () => [],
      all: () => [],
      membersOf: () => [],
      byIndex: () => undefined,
    },
    datapath: {
      thread: 0,
      bootId: 'b',
      rememberEpoch: () => {},
      call: async (what: string) => {
        asked.push(what)
        return { ports: [], atUs: 1 }
      },
    },
    store: {
      create: nothing,
      remove: nothing,
      parts: async () => [],
      machineImages: () => '/none',
    },
    epochs: { raise: nothing, get: () => 0 },
    journal: { writeCut: nothing, noteResumed: nothing },
    disks: { learn: nothing, noteOrigins: nothing, chains: () => null, made: new Map() },
    log: pino({ level: 'silent' }),
  }
  const request = { network: 'lab0', snapshot: 's1', epoch: 1, policy: 'buffer' as const, deadlineMs: 600_000 }
  const session = await SnapshotSession.prepare(host as Host, request)
  session.take()
  await captured
  session.abort(calledOff.report())
  await session.ended
  t.match(session.error, { code: 'SNAPSHOT_DISCARDED' })
  t.match(asked, ['arm', 'begin'])
})
