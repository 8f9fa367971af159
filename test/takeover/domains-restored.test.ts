// Domains of libvirt as most people have them: `<interface type='bridge'>` or `'network'`, a TAP that libvirt makes and
// names at each start. Their bridge is taken over, nothing is configured, and they are restored: where they run, where
// they are gone and another domain has the name of their TAP, and once more from a snapshot of what was restored.

import { writeFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import type { Manifest, RestoreReport } from '../../src/api/schemas.js'
import type { LibvirtDaemon } from '../hypervisor/libvirt-daemon.js'
import { until } from '../lab/command.js'
import { startDomain, startLibvirt } from '../lab/domains.js'
import { fileLimit, patience } from '../patience.js'
import { BridgeLab, CONTAINER, GUESTS } from './bridge-lab.js'

t.setTimeout(fileLimit(400_000))
const CALL = { deadlineMs: patience(20_000) }

t.test('domains with a NIC in a bridge that was taken over', async (t) => {
  const host = await BridgeLab.build()
  const { lab } = host
  t.teardown(() => host.destroy())
  t.teardown(() => t.passing() || t.comment(lab.lastWords(60).join('\n')))
  for (const device of ['vm1-tap', 'vm2-tap']) await host.ip('a', 'link', 'delete', device)
  const libvirt = await startLibvirt(lab, 'a')
  t.teardown(() => libvirt.end())
  const lan = host.lab.host('a').inside('lan.xml')
  const network = "<network><name>lan</name><forward mode='bridge'/><bridge name='br0'/></network>"
  writeFileSync(host.lab.host('a').outside(lan), network)
  libvirt.virsh('net-define', host.lab.host('a').outside(lan))
  libvirt.virsh('net-start', 'lan')
  await Promise.all([
    startDomain(libvirt, lab, 'vm1', { into: { bridge: 'br0' } }),
    startDomain(libvirt, lab, 'vm2', { into: { network: 'lan' }, queues: 2 }),
  ])
  await host.goesOn()
  const nics = () => ['vm1', 'vm2'].map((name) => nicOf(libvirt, name))
  const owned = nics()
  t.match(
    owned.map(({ inactive }) => inactive),
    [/^- bridge br0 virtio/, /^- network lan virtio/],
  )
  await host.startSwitch({ libvirt: { uri: libvirt.uriOnHost } })
  t.match(await host.json('take', 'br0'), { bridge: 'br0', taken: true, problem: null })
  /** Their TAPs, in the order of their names. */
  const whole = () =>
    until('two members, and nothing wrong', 60_000, async () => {
      const ports = await host.client.ports(CALL)
      const [bridge] = await host.client.bridges(CALL)
      const members = ports.filter(({ kind }) => kind === 'member').sort((a, b) => (a.vm! < b.vm! ? -1 : 1))
      const isRight = members.map(({ vm }) => vm).join() === 'vm1,vm2' && members.every(({ gate }) => gate === 'open')
      return isRight && bridge?.problem === null ? members.map(({ device }) => device) : undefined
    })
  await whole()
  await host.goesOn()

  const snapshot = async (t: Test, name: string) => {
    const manifest = await host.json<Manifest>('snapshot', 'create', 'br0', '--name', name)
    t.match(manifest, { state: 'complete', figures: { lost: 0 } })
    const macs = manifest.parts.flatMap(({ members }) => members.flatMap(({ ports }) => ports.map(({ mac }) => mac)))
    t.same([...macs].sort(), ['vm1', 'vm2'].map((vm) => lab.machine(vm).mac).sort(), 'a restore can announce them')
    await host.goesOn()
  }
  /** What is there besides: TAPs that nobody holds, or a second one of a machine's. */
  const restores = async (t: Test, name: string, others: readonly string[], ...more: string[]) => {
    const report = await host.json<RestoreReport>('snapshot', 'restore', name, ...more)
    t.same(report.placement, { vm1: 'a', vm2: 'a' })
    t.same(report.warnings, [])
    lab.restartConsoles()
    await host.goesOn()
    const taps = await whole()
    t.same(await tapsOf(host), [...taps, ...others].sort(), 'each machine has its own TAP, and no other is there')
    t.same(await host.onBridge(), ['ssh-br0', 'to-c', ...taps].sort())
    t.same(
      nics().map(({ live, inactive }) => [live.split(' ')[0], inactive]),
      taps.map((tap, at) => [tap, owned[at]!.inactive]),
      'libvirt knows its TAP, and has stored what its owner has given it',
    )
    for (const address of GUESTS) t.ok(await host.pings('c', address), `container to ${address}`)
    for (const address of [...GUESTS, CONTAINER]) t.ok(await host.pings('a', address), `host to ${address}`)
  }

  await t.test('over machines that run', async (t) => {
    await snapshot(t, 's1')
    await restores(t, 's1', [], '--replace')
  })

  await t.test('over domains that their owner has started again: their TAPs have other names', async (t) => {
    const before = await whole()
    for (const name of ['vm1', 'vm2']) libvirt.virsh('destroy', name)
    await until('the TAPs to go with them', 20_000, async () => ((await tapsOf(host)).length === 0 ? true : undefined))
    for (const name of ['vm1', 'vm2']) libvirt.virsh('start', name)
    t.match(nicOf(libvirt, 'vm1').live, /^vnet\d+ bridge br0 virtio/)
    t.match(nicOf(libvirt, 'vm2').live, /^vnet\d+ (?:network|bridge) lan virtio/)
    t.notSame(await whole(), before)
    await restores(t, 's1', [], '--replace')
    for (const name of ['vm1', 'vm2']) libvirt.virsh('destroy', name)
  })

  await t.test('another domain has the name of a TAP', async (t) => {
    // libvirtd counts from the beginning again.
    await libvirt.stop()
    await libvirt.launch()
    if (!libvirt.virsh('net-list', '--name').includes('lan')) libvirt.virsh('net-start', 'lan')
    const nic = "<interface type='bridge'><source bridge='br0'/><model type='virtio'/></interface>"
    await libvirt.domain('other', { devices: nic })
    const device = nicOf(libvirt, 'other').live.split(' ')[0]!
    await until('its port', 60_000, async () =>
      (await host.client.ports(CALL)).some((port) => port.device === device && port.vm === 'other') ? true : undefined,
    )
    const manifest = await host.json<Manifest>('snapshot', 'show', 's1')
    const named = manifest.parts.flatMap(({ members }) => members.flatMap(({ ports }) => ports.map(({ name }) => name)))
    t.ok(named.includes(device), `${device} is a name of ${named.join(' ')}`)
    const report = await host.json<RestoreReport>('snapshot', 'restore', 's1')
    t.same(report.warnings, [])
    lab.restartConsoles()
    await host.goesOn()
    t.equal(nicOf(libvirt, 'other').live.split(' ')[0], device)
    libvirt.virsh('destroy', 'other')
    libvirt.virsh('undefine', 'other')
    await whole()
  })

  await t.test('a snapshot of what was restored, onto a host that knows nothing of the domains', async (t) => {
    await snapshot(t, 's2')
    for (const name of ['vm1', 'vm2']) {
      libvirt.virsh('destroy', name)
      libvirt.virsh('undefine', name)
    }
    await restores(t, 's2', [])
  })

  await t.test('given back: the kernel forwards', async (t) => {
    const taps = await whole()
    t.match(await host.command('give', 'br0'), { code: 0 })
    t.same(await host.onBridge(), ['to-c', ...taps].sort())
    await host.goesOn()
    for (const address of GUESTS) t.ok(await host.pings('a', address), `host to ${address}`)
  })
})

/** `virsh domiflist` of the running domain, and of what is stored, with one blank between two columns. */
function nicOf(libvirt: LibvirtDaemon, name: string): { live: string; inactive: string } {
  const listed = (...more: string[]) => libvirt.virsh('domiflist', name, ...more).replace(/ +/g, ' ')
  return { live: listed(), inactive: listed('--inactive') }
}

async function tapsOf(host: BridgeLab): Promise<string[]> {
  const links = JSON.parse(await host.ip('a', '-j', '-d', 'link')) as { ifname: string; linkinfo?: unknown }[]
  return links
    .filter(({ linkinfo }) => (linkinfo as { info_kind?: string } | undefined)?.info_kind === 'tun')
    .map(({ ifname }) => ifname)
    .sort()
}
