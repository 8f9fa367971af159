// A snapshot that is called off while a guest stands still for its save, or while its disks are digested: it ends
// before the deadline. With a machine made up.

import { pino } from 'pino'
import t from 'tap'
import type { SnapswitchError } from '../../src/errors/errors.js'
import type { MachineControl, ResumeInfo, SealInfo } from '../../src/hypervisor/hypervisor.js'
import { systemClock } from '../../src/runtime/clock.js'
import type { Host } from '../../switch/agent/host.js'
import { calledOff } from '../../switch/agent/refusals.js'
import { SnapshotSession } from '../../switch/agent/snapshot/session.js'
import { fileLimit } from '../patience.js'
import { bareInfo, controlOf, machinesBy, unasked } from './made-up-machine.js'

t.setTimeout(fileLimit(20_000))

const nothing = async () => {}

/** All that is asked of a machine but its capture. */
const bareSteps: Partial<MachineControl> = {
  inspect: async () => ({ ...bareInfo, captureMode: 'stopped' }),
  definition: async () => ({ kind: 'qemu' }) as never,
  settings: async () => ({ capabilities: {}, parameters: {} }),
  prepare: nothing,
  hasten: () => {},
  pause: async () => ({ pausedAtUs: 1 }),
}

/** A machine whose save takes for ever, unless somebody calls it off. */
function endlessSave(captured: () => void) {
  let callOff: (error: SnapswitchError) => void = unasked('be called off so early')
  const control = controlOf({
    ...bareSteps,
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

/** A session of one machine; what the host is asked to do, too. */
async function sessionOf(control: MachineControl, store: object) {
  const asked: string[] = []
  const spec = { qmp: '/none' }
  const reference = { path: '/none', bytes: 0, digest: '' }
  const host: Partial<Record<keyof Host, unknown>> = {
    name: 'a',
    clock: systemClock,
    processor: { cores: 2, runAhead: () => () => {}, collectGarbage: () => {}, availableMemory: () => null },
    machines: machinesBy({ vm: spec }, { attach: async () => control }),
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
        return { ports: [], opening: [], atUs: 1, frames: [], overflow: new Map(), closures: [], held: [] }
      },
    },
    store: {
      create: nothing,
      remove: nothing,
      parts: async () => [],
      machineImages: () => '/none',
      writeFile: async () => reference,
      ...store,
    },
    epochs: { raise: nothing, get: () => 0 },
    journal: { writeCut: nothing, noteResumed: nothing },
    disks: { learn: nothing, replace: nothing, noteOrigins: nothing, chains: () => null, made: new Map() },
    log: pino({ level: 'silent' }),
  }
  const request = { network: 'lab0', snapshot: 's1', epoch: 1, policy: 'buffer' as const, deadlineMs: 600_000 }
  return { session: await SnapshotSession.prepare(host as Host, request, new AbortController().signal), asked }
}

t.test('a guest that stands still for its save runs again when its snapshot is called off', async (t) => {
  let begun = () => {}
  const captured = new Promise<void>((resolve) => {
    begun = resolve
  })
  const { session, asked } = await sessionOf(
    endlessSave(() => begun()),
    {},
  )
  session.take()
  await captured
  session.abort(calledOff.report())
  await session.ended
  t.match(session.error, { code: 'SNAPSHOT_DISCARDED' })
  t.match(asked, ['arm', 'begin'])
})

t.test('a snapshot that is called off while its disks are digested ends at once', async (t) => {
  const layers = [{ file: '/none/disk.raw', format: 'raw' as const }]
  const seal: SealInfo = {
    memoryFile: '/none/memory.img',
    memoryBytes: 1,
    memoryDigest: '',
    disks: [{ name: 'vda', layers, overlay: '/none/overlay' }],
  }
  const control = controlOf({
    ...bareSteps,
    capture: () => ({ resumed: Promise.resolve({ resumedAtUs: 2 }), sealed: Promise.resolve(seal), callOff: () => {} }),
  })
  let begun = () => {}
  const digested = new Promise<void>((resolve) => {
    begun = resolve
  })
  const reference = (_: string, signal?: AbortSignal) =>
    new Promise((_, reject) => {
      begun()
      signal?.addEventListener('abort', () => reject(signal.reason))
    })
  const { session, asked } = await sessionOf(control, { reference })
  session.take()
  session.channelsClosed([])
  await digested
  session.abort(calledOff.report())
  await session.ended
  t.match(session.error, { code: 'SNAPSHOT_DISCARDED' })
  t.ok(asked.includes('end'))
})
