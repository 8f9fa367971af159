// Asking machines what they are: side by side, bounded, and each answer or lack of one under the machine's own name.

import t from 'tap'
import { SnapswitchError } from '../../src/errors/errors.js'
import type { MachineInfo, MachineSpec } from '../../src/hypervisor/hypervisor.js'
import { deadlinePassed } from '../../src/hypervisor/shared/deadline.js'
import { type Asked, type Inspectable, inspectMachines } from '../../switch/agent/inspection.js'

const infoOf = (name: string) => ({ name, state: 'running' }) as MachineInfo
const definition = { kind: 'qemu', name: 'vm', memoryBytes: 1, nics: [], hypervisorVersion: '' } as const
const control = (inspect: Inspectable['inspect']): Inspectable => ({ inspect, definition: async () => definition })

/** Machines whose inspection is `answer`; counts how many are asked at once. */
function fake(answer: (vm: string, deadline: number) => Promise<MachineInfo>, spec?: MachineSpec) {
  const seen = { now: 0, most: 0 }
  const machines: Asked = {
    spec: (vm) => spec ?? { libvirt: { domain: `dom-${vm}` } },
    async using(vm, _deadline, use) {
      seen.most = Math.max(seen.most, ++seen.now)
      try {
        return await use(control((limit) => answer(vm, limit)))
      } finally {
        seen.now--
      }
    },
  }
  return { machines, seen }
}

const vms = Array.from({ length: 20 }, (_, i) => `vm${i}`)
const hang = (vm: string, deadline: number) =>
  new Promise<MachineInfo>((_, reject) =>
    setTimeout(() => reject(deadlinePassed(`libvirt’s describe of ${vm}`)), Math.max(0, deadline - performance.now())),
  )

t.test('twenty machines are asked side by side, but not all at once, and answer in order', async (t) => {
  const { machines, seen } = fake(async (vm) => {
    await new Promise((resolve) => setTimeout(resolve, 2))
    return infoOf(vm)
  })
  const found = await inspectMachines(machines, vms, performance.now() + 60_000)
  t.same(
    found.map(({ vm, info, error }) => [vm, info?.name, error]),
    vms.map((vm) => [vm, vm, null]),
  )
  t.ok(seen.most > 1, 'side by side')
  t.ok(seen.most < vms.length, 'bounded')
})

t.test('one that hangs costs nobody else’s answer, and is named with what to look at', async (t) => {
  const { machines } = fake((vm, deadline) => (vm === 'vm3' ? hang(vm, deadline) : Promise.resolve(infoOf(vm))))
  const found = await inspectMachines(machines, vms, performance.now() + 300)
  t.same(
    found.filter(({ info }) => info === null).map(({ vm }) => vm),
    ['vm3'],
  )
  const { error } = found[3]!
  t.equal(error?.code, 'DEADLINE')
  t.match(error?.message, /^machine vm3 did not answer within 0\.3 s .*describe/)
  t.match(error?.action, /virsh domstate dom-vm3/)
  t.notMatch(error?.action, /--deadline/, 'a limit that is not the user’s is not advised')
})

t.test('many that hang: those behind them are said not to have been asked', async (t) => {
  const { machines } = fake((vm, deadline) => (vm === 'vm19' ? Promise.resolve(infoOf(vm)) : hang(vm, deadline)), {
    qmp: '/run/x.qmp',
  })
  const found = await inspectMachines(machines, vms, performance.now() + 100)
  t.ok(found.every(({ info, error }) => info === null && error !== null))
  t.match(found[0]!.error, { code: 'DEADLINE', action: /connected to \/run\/x\.qmp/ })
  t.match(found[19]!.error, { code: 'DEADLINE', message: /vm19 could not be asked/ })
})

t.test('what else goes wrong is told as it is', async (t) => {
  const { machines } = fake(() => Promise.reject(new SnapswitchError('MACHINE_NOT_RUNNING', 'off', 'Start it.')))
  t.match(await inspectMachines(machines, ['a'], performance.now() + 1000), [
    { vm: 'a', info: null, error: { code: 'MACHINE_NOT_RUNNING', message: 'off', action: 'Start it.' } },
  ])
})
