// What a preflight leaves to PREPARE. With a machine made up.

import t from 'tap'
import { SnapswitchError } from '../../src/errors/errors.js'
import type { MachineInfo } from '../../src/hypervisor/hypervisor.js'
import { systemClock } from '../../src/runtime/clock.js'
import type { Host } from '../../switch/agent/host.js'
import { preflight } from '../../switch/agent/snapshot/preflight.js'
import { fileLimit } from '../patience.js'
import { bareInfo, controlOf, machinesBy } from './made-up-machine.js'

t.setTimeout(fileLimit(20_000))

const unsupported = [{ name: 'vda', reason: 'something besides its device writes to it' }]
const refusal = (code: 'MACHINE_UNSUPPORTED' | 'HYPERVISOR_UNREACHABLE') => new SnapswitchError(code, 'no', 'Try.')

/** As far as a preflight asks it, with one machine that says this of itself. */
function hostOf(info: MachineInfo, definition: SnapswitchError | null): Host {
  const control = controlOf({
    inspect: async () => info,
    definition: async () => {
      if (definition !== null) throw definition
      return {} as never
    },
  })
  const host: Record<keyof Host, unknown> | object = {
    name: 'a',
    version: '0',
    clock: systemClock,
    machines: machinesBy({ vm: { qmp: '/none' } }, { attach: async () => control }),
    ports: { machinesOf: () => ['vm'], ofMachine: () => [], problemsOf: () => [], all: () => [] },
    datapath: { bootId: 'b', call: async () => ({ peers: [] }) },
    store: { parts: async () => [], freeBytes: async () => 1 << 30 },
    epochs: { get: () => 0 },
    recordedEvents: 0,
    recordedBytes: 0,
  }
  return host as Host
}

t.test('a disk that we merge is no obstacle yet; all else is', async (t) => {
  const codes = async (info: Partial<MachineInfo>, definition: SnapswitchError | null, isMerging: () => boolean) => {
    const deadline = systemClock.now().ms + 10_000
    const { problems } = await preflight(
      hostOf({ ...bareInfo, ...info }, definition),
      'lab0',
      null,
      isMerging,
      deadline,
    )
    return problems.map(({ code }) => code)
  }
  const refused = refusal('MACHINE_UNSUPPORTED')
  t.same(await codes({ unsupported }, refused, () => false), ['MACHINE_UNSUPPORTED'])
  t.same(await codes({ unsupported }, refused, () => true), [], 'PREPARE calls the merge off, and looks again')
  let asked = 0
  t.same(
    await codes({ unsupported }, refused, () => asked++ === 0),
    [],
    'also when it has ended since it was looked at',
  )
  t.same(await codes({ state: 'paused' }, null, () => true), ['MACHINE_NOT_RUNNING'])
  t.same(await codes({}, refusal('HYPERVISOR_UNREACHABLE'), () => true), ['HYPERVISOR_UNREACHABLE'])
})
