// A TAP that somebody holds who is not the former self of the machine that needs it: told before anything is touched.

import t from 'tap'
import type { MemberPart } from '../../src/api/schemas.js'
import { Links } from '../../src/linux/link.js'
import { closeAll, createTap, openFreeTap } from '../../src/linux/tap.js'
import { systemClock } from '../../src/runtime/clock.js'
import type { Inspected } from '../../switch/agent/inspection.js'
import { heldByOthers } from '../../switch/agent/restore/held-taps.js'
import { PortDevices } from '../../switch/ports/devices.js'
import { memberOf } from '../coordinator/fixtures.js'
import { enterFreshNamespace } from '../linux/namespace.js'
import { bareInfo } from './made-up-machine.js'

enterFreshNamespace()

class Devices extends PortDevices {
  close(): void {
    this.links.close()
  }
}

const ports = new Devices()
const links = new Links()
t.teardown(() => {
  ports.close()
  links.close()
})
const host = { clock: systemClock, ports }
const device = 'ssw-held'
const none = new Set<string>()

/** It has a NIC there that is no port, or one that is. */
function partOf(isPort: boolean): MemberPart {
  const nics = isPort ? [] : [{ device, mac: null }]
  const records = isPort ? [{ name: 'p', device, mac: null }] : []
  return { ...memberOf('a', 'web'), ports: records, definition: { kind: 'qemu', name: 'web', argv: [], nics } }
}

const running = (...devices: string[]): Inspected => ({
  vm: 'web',
  info: { ...bareInfo, nics: devices.map((own) => ({ device: own, mac: null })) },
  error: null,
})

for (const multiQueue of [false, true]) {
  t.test(multiQueue ? 'a TAP of several queues' : 'a TAP', async (t) => {
    createTap(device, { up: true, multiQueue })
    const find = (isPort: boolean, former: readonly Inspected[], told: ReadonlySet<string> = none) =>
      heldByOthers(host, [partOf(isPort)], former, told)
    t.same(await find(false, []), [], 'free')
    const holder = openFreeTap(links.get(device), 1, {}) ?? []
    t.equal(holder.length, 1)
    const refused = [{ code: 'DEVICE_BUSY', message: /^TAP ssw-held of web is held by a program that is not web as/ }]
    for (const isPort of [false, true]) {
      t.match(await find(isPort, []), refused, 'the machine is not there, as far as this host knows')
      t.match(await find(isPort, [running('ssw-other')]), refused, 'it is there, and has another TAP')
    }
    t.same(await find(false, [running('ssw-other', device)]), [], 'its own')
    t.same(await find(false, [{ vm: 'web', info: null, error: null }]), [], 'that it does not answer is told already')
    t.same(await find(true, [], new Set([device])), [], 'that the port is another’s is told already')
    const soon = find(false, [])
    closeAll(holder)
    t.same(await soon, [], 'the holder was about to end')
    links.remove(links.get(device).index)
  })
}
