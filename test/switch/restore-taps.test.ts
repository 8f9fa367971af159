// The TAPs of restored machines: NICs that are no ports come back where they were, or the restore says what is missing;
// what is held by a former self gets a stand-in; what is called off leaves nothing.

import t from 'tap'
import type { MemberPart } from '../../src/api/schemas.js'
import { Links } from '../../src/linux/link.js'
import { closeAll, openFreeTap } from '../../src/linux/tap.js'
import { RestoreTaps } from '../../switch/agent/restore/taps.js'
import { memberOf } from '../coordinator/fixtures.js'
import { enterFreshNamespace, run } from '../linux/namespace.js'

enterFreshNamespace()

const links = new Links()
t.teardown(() => links.close())

const host = {
  ports: {
    removeTap: (device: string) => {
      const link = links.find(device)
      if (link !== null) links.remove(link.index)
    },
    replaceTap: (device: string, standIn: string) => {
      const former = links.find(device)
      if (former !== null) links.remove(former.index)
      links.change(links.get(standIn).index, { name: device })
    },
  },
  log: { warn: () => {} },
}

const device = 'ssw-mgmt'
/** No former self runs; or it does, and holds the device. */
const nobodys = new Set<string>()
const formers = new Set([device])

function partOf(outside?: MemberPart['outside']): MemberPart {
  const argv = ['qemu', '-netdev', `tap,id=n0,ifname=${device},script=no`, '-device', 'virtio-net-pci,netdev=n0']
  const definition = { kind: 'qemu', name: 'web', argv, nics: [{ device, mac: null }] }
  return { ...memberOf('a', 'web'), ports: [], definition, disks: [], ...(outside && { outside }) }
}

function restored(part: MemberPart): RestoreTaps {
  const taps = new RestoreTaps(host)
  taps.planned([part])
  t.same(taps.plannedOutside([part]), [{ device, vm: 'web' }], 'on record before it is there')
  taps.makeOutside(part)
  t.same(taps.plannedOutside([part]), [])
  t.equal(taps.open(part, nobodys).length, 1)
  taps.connectOutside(part)
  taps.close()
  return taps
}

t.test('made again, in its bridge', async (t) => {
  run('ip', 'link', 'add', 'ssw-br', 'type', 'bridge')
  const part = partOf([{ device, master: 'ssw-br', mtu: 1400 }])
  const taps = restored(part)
  t.match(links.get(device), { mtu: 1400, up: true, master: links.get('ssw-br').index })
  t.same(taps.warnings, [])
  taps.giveBack(new Set(['web']))
  t.not(links.find(device), null, 'a machine that runs keeps it')
  host.ports.removeTap(device)
})

t.test('without its bridge: a warning by name; nothing known: a warning, too', async (t) => {
  const taps = restored(partOf([{ device, master: 'br-none', mtu: 1500 }]))
  t.match(taps.warnings, [/^web: NIC ssw-mgmt was in bridge br-none, which this host has not/])
  taps.giveBack(new Set())
  t.equal(links.find(device), null, 'called off: what was made goes')
  const unknown = restored(partOf())
  t.match(unknown.warnings, [/^web: NIC ssw-mgmt is no port of snapswitch/])
  unknown.giveBack(new Set())
})

t.test('held by a former self: the stand-in takes its name and its place in the bridge', async (t) => {
  run('ip', 'tuntap', 'add', 'dev', device, 'mode', 'tap', 'vnet_hdr')
  run('ip', 'link', 'set', device, 'master', 'ssw-br')
  const before = links.get(device)
  const former = openFreeTap(before, 1, {}) ?? []
  const part = partOf([{ device, master: 'ssw-br', mtu: 1500 }])
  const taps = new RestoreTaps(host)
  const [planned] = taps.planned([part])
  taps.makeOutside(part)
  taps.open(part, formers)
  t.equal(taps.standInOf('web', device), planned?.name)
  t.equal(links.get(device).index, before.index, 'until the switch all is as it was')
  closeAll(former)
  taps.connectOutside(part)
  t.match(links.get(device), { up: true, master: before.master })
  t.not(links.get(device).index, before.index)
  t.equal(links.find(planned!.name), null)
  t.same(taps.warnings, [])
  taps.giveBack(new Set(['web']))
  host.ports.removeTap(device)
})

t.test('called off while the former self runs: the stand-in goes, and nothing else', async (t) => {
  run('ip', 'tuntap', 'add', 'dev', device, 'mode', 'tap', 'vnet_hdr')
  const former = openFreeTap(links.get(device), 1, {}) ?? []
  const taps = new RestoreTaps(host)
  const part = partOf()
  const [planned] = taps.planned([part])
  taps.open(part, formers)
  t.not(links.find(planned!.name), null)
  taps.giveBack(new Set())
  t.equal(links.find(planned!.name), null)
  t.match(links.get(device), { lowerUp: false })
  closeAll(former)
  host.ports.removeTap(device)
})

t.test('held by somebody who is not the former self: refused, and nothing is done to it', async (t) => {
  run('ip', 'tuntap', 'add', 'dev', device, 'mode', 'tap', 'vnet_hdr')
  const before = links.get(device)
  const holder = openFreeTap(before, 1, {}) ?? []
  const part = partOf()
  for (const formerTaps of [nobodys, new Set(['ssw-other'])]) {
    const taps = new RestoreTaps(host)
    const [planned] = taps.planned([part])
    taps.makeOutside(part)
    t.throws(() => taps.open(part, formerTaps), {
      code: 'DEVICE_BUSY',
      message: `TAP ${device} of web is held by a program that is not web as this host knows it`,
    })
    t.equal(links.find(planned!.name), null, 'there is nothing to take its place')
    taps.connectOutside(part)
    t.equal(links.get(device).index, before.index)
    taps.giveBack(new Set())
  }
  t.equal(links.get(device).index, before.index)
  closeAll(holder)
  host.ports.removeTap(device)
})
