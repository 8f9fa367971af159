// A domain of a real libvirtd is found behind its TAP, and driven as libvirt says.

import t from 'tap'
import { createHypervisors } from '../../src/hypervisor/drivers.js'
import type { MachineSpec } from '../../src/hypervisor/hypervisor.js'
import { createTap } from '../../src/linux/tap.js'
import type { Discovered } from '../../switch/discovery/discovery.js'
import { TapIdentifier } from '../../switch/discovery/identify.js'
import { soon } from '../hypervisor/boot-guest.js'
import { LibvirtDaemon } from '../hypervisor/libvirt-daemon.js'
import { enterFreshNamespace } from '../linux/namespace.js'
import { fileLimit } from '../patience.js'

enterFreshNamespace()
t.setTimeout(fileLimit(120_000))

t.test('a domain of libvirt', async (t) => {
  const daemon = await LibvirtDaemon.start()
  t.teardown(() => daemon.end())
  const tap = { name: 'lv0', ifindex: createTap('lv0', { up: true }).index }
  await daemon.domain('found', { taps: ['lv0'] })
  const hypervisors = createHypervisors({ libvirt: { uri: daemon.uri } })
  const identifier = (configured: Record<string, MachineSpec> = {}) => {
    const named = () => new Map(Object.entries(configured))
    return new TapIdentifier({ hypervisors, configured: named, known: named, isHeld: () => true })
  }
  const look = async (who: TapIdentifier): Promise<Discovered> =>
    (await who.identify([tap], soon(20_000))).get(tap.ifindex)!
  const found = await look(identifier())
  t.match(found, { kind: 'machine', name: 'found', spec: { libvirt: { domain: 'found' } } })
  const control = await hypervisors.libvirt.attach('found', (found as { spec: MachineSpec }).spec, soon(10_000))
  t.match((await control.inspect(soon(10_000))).nics, [{ device: 'lv0' }])
  await control.close()
  t.match(await look(identifier({ web: { libvirt: { domain: 'found' } } })), { name: 'web' }, 'as configured')
  await daemon.stop()
  t.match(await look(identifier()), { kind: 'undrivable', title: 'found', problem: { code: 'HYPERVISOR_UNREACHABLE' } })
})
