// How a machine is reached after a restore: where the restore has put it while it runs there, and as the configuration
// says when its owner has started it anew.

import t from 'tap'
import { SnapswitchError } from '../../src/errors/errors.js'
import type { MachineSpec } from '../../src/hypervisor/hypervisor.js'
import { controlOf, machinesBy } from './made-up-machine.js'

const own = { qmp: '/run/lab/web.qmp' }
const restored = { qmp: '/var/lib/snapswitch/machines/web/e2/qmp.sock' }

function host() {
  const running = new Set<string>()
  const refusing = new Set<string>()
  const asked: string[] = []
  const socketOf = ({ qmp }: MachineSpec) => String(qmp)
  const machines = machinesBy(
    { web: own },
    {
      attach: async (_vm, spec) => {
        asked.push(socketOf(spec))
        if (running.has(socketOf(spec)) && !refusing.has(socketOf(spec))) return controlOf({ name: socketOf(spec) })
        throw new SnapswitchError('HYPERVISOR_UNREACHABLE', `nothing at ${socketOf(spec)}`, 'Start it.')
      },
      isThere: async (_vm, spec) => running.has(socketOf(spec)),
    },
  )
  machines.set('web', restored)
  const reached = () => machines.attach('web', performance.now() + 1000).then(({ name }) => name)
  return { machines, running, refusing, asked, reached }
}

t.test('where the restore has put it, while it is there', async (t) => {
  const { machines, running, refusing, reached } = host()
  running.add(restored.qmp).add(own.qmp)
  t.equal(await reached(), restored.qmp)
  refusing.add(restored.qmp)
  await t.rejects(reached(), { message: `nothing at ${restored.qmp}` }, 'one that does not answer is no other')
  t.same(machines.spec('web'), restored)
})

t.test('it has ended, and nobody has started it', async (t) => {
  const { machines, reached } = host()
  t.equal(await machines.isThere('web'), false)
  await t.rejects(reached(), { message: `nothing at ${restored.qmp}` })
  t.same(machines.moved(), { web: restored })
})

t.test('it has ended, and its owner has started it', async (t) => {
  for (const first of ['attach', 'isThere'] as const) {
    const { machines, running, asked, reached } = host()
    running.add(own.qmp)
    if (first === 'isThere') t.equal(await machines.isThere('web'), true)
    t.equal(await reached(), own.qmp)
    t.same(machines.spec('web'), own)
    t.same(machines.moved(), {}, 'no restore is known of any more')
    t.same(asked, first === 'attach' ? [restored.qmp, own.qmp] : [own.qmp])
  }
})

t.test('a machine that is only known by a restore', async (t) => {
  const { machines } = host()
  machines.configure(new Map())
  t.equal(await machines.isThere('web'), false)
  t.same(machines.spec('web'), restored)
})

t.test('a restore that has brought it here is undone: it is the configuration’s again', async (t) => {
  const { machines, running, reached } = host()
  machines.delete('web')
  t.same(machines.moved(), {}, 'a restarted daemon looks for it where this one does')
  running.add(own.qmp)
  t.equal(await machines.isThere('web'), true)
  t.equal(await reached(), own.qmp)
})

t.test('one that only a restore knew is forgotten with it', async (t) => {
  const { machines } = host()
  machines.configure(new Map())
  machines.delete('web')
  t.equal(machines.spec('web'), undefined)
  await t.rejects(machines.attach('web', performance.now() + 1000), { code: 'MACHINE_UNKNOWN' })
})
