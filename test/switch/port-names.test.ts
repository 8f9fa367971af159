// Ports of a restore whose names the hypervisor has made up: another one where the name is somebody else's by now, the
// same in the definition, and the former one for the frames that were in transit to it.

import t from 'tap'
import type { MemberPart, RestoreRequest } from '../../src/api/schemas.js'
import type { MachineDefinition } from '../../src/hypervisor/hypervisor.js'
import { withFreeNames } from '../../switch/agent/restore/port-names.js'
import type { PortEntry } from '../../switch/ports/table.js'

const member = (vm: string, devices: readonly string[], more: Partial<MachineDefinition> = {}): MemberPart => {
  const bridgedNics = devices.map((device) => ({ device, mac: null, isMadeUp: true }))
  const definition = { kind: 'libvirt', name: vm, nics: [], bridgedNics, ...more }
  const ports = devices.map((device) => ({ name: device, device, mac: null, mtu: 1500 }))
  return { vm, ports, definition } as unknown as MemberPart
}
const request = (...members: MemberPart[]) => ({ epoch: 2, members, channels: [], deadlineMs: 1000 }) as RestoreRequest

/** A host with ports on devices of the same names, each of a machine, and devices that are no ports. */
const host = (ports: Record<string, string | null>, devices: readonly string[] = []) => ({
  ports: {
    get: (name: string) => (name in ports ? ({ name, vm: ports[name] } as unknown as PortEntry) : undefined),
    hasDevice: (device: string) => device in ports || devices.includes(device),
  },
})

const names = ({ members }: RestoreRequest) =>
  members.map(({ ports }) => ports.map(({ name, device }) => `${name} ${device}`))

t.test('names that are free, or the machine’s own, stay', async (t) => {
  const asked = request(member('a', ['vnet0']), member('b', ['vnet1']))
  for (const there of [host({}), host({ vnet0: 'a', vnet1: 'b' }), host({ vnet5: 'c' })]) {
    const { request: given, formerNames } = withFreeNames(there, asked)
    t.same(given, asked)
    t.equal(formerNames.size, 0)
  }
})

t.test('the machines were started in another order', async (t) => {
  const { request: given, formerNames } = withFreeNames(
    host({ vnet0: 'b', vnet1: 'a' }),
    request(member('a', ['vnet0']), member('b', ['vnet1'])),
  )
  t.same(names(given), [['vnet2 vnet2'], ['vnet3 vnet3']])
  t.same(
    [...formerNames],
    [
      ['vnet2', 'vnet0'],
      ['vnet3', 'vnet1'],
    ],
  )
  const definitions = given.members.map(({ definition }) => definition as MachineDefinition)
  t.same(
    definitions.map(({ bridgedNics }) => bridgedNics!.map(({ device }) => device)),
    [['vnet2'], ['vnet3']],
  )
})

t.test('a TAP or a port that is no machine’s is somebody’s', async (t) => {
  const asked = request(member('a', ['vnet0', 'vnet1']))
  t.same(names(withFreeNames(host({ vnet1: null }, ['vnet0', 'vnet2']), asked).request), [
    ['vnet3 vnet3', 'vnet4 vnet4'],
  ])
})

t.test('names that somebody has chosen stay, whoever has them', async (t) => {
  const chosen = member('a', [], { nics: [{ device: 'tap0', mac: null }] })
  const ports = [{ name: 'tap0', device: 'tap0', mac: null, mtu: 1500 }]
  const configured = member('b', ['vnet0'])
  const asked = request(
    { ...chosen, ports },
    { ...configured, ports: configured.ports.map((port) => ({ ...port, name: 'db' })) },
  )
  t.same(withFreeNames(host({ tap0: 'x', db: 'x', vnet0: 'x' }), asked).request, asked)
})
