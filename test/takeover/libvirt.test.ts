// A libvirtd with domains on <source bridge='br0'/>, a DHCP server on br0, a bulk TCP transfer between containers
// beside them: the bridge is taken over and given back, domains come and go, and libvirt sees what it always saw.

import { join } from 'node:path'
import t from 'tap'
import { LibvirtDaemon } from '../hypervisor/libvirt-daemon.js'
import { until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { root, World } from '../switch/world.js'
import { bridgeHost, container, HOST_ADDRESS, Stream } from './bridge-world.js'

t.setTimeout(fileLimit(240_000))
const CALL = { deadlineMs: patience(20_000) }
const nic = (number: number) =>
  `<interface type='bridge'><mac address='52:54:00:0b:00:0${number}'/><source bridge='br0'/><model type='virtio'/></interface>`

t.test('domains of libvirt on a bridge that is taken over', root, async (t) => {
  const world = World.for(t)
  await bridgeHost(world)
  await container(world, 'c1', '192.0.2.11')
  await container(world, 'c2', '192.0.2.12')
  const libvirt = await LibvirtDaemon.start('root', world.name('h'))
  t.teardown(() => libvirt.end())
  await libvirt.domain('one', { devices: nic(1), number: 1 })
  await libvirt.domain('two', { devices: nic(2), number: 2 })
  const leases = join(world.directory, 'leases')
  const dhcp = await world.start(
    'h',
    'dnsmasq',
    ...['--keep-in-foreground', '--log-facility=-', '--port=0', '--interface=br0', '--bind-interfaces', '--log-dhcp'],
    ...['--dhcp-range=192.0.2.100,192.0.2.200', `--dhcp-leasefile=${leases}`, '--user=root', '--pid-file='],
  )
  const daemon = await world.switch('h', { networks: {}, libvirt: { uri: libvirt.uri } })
  const interfaces = () => ['one', 'two'].map((name) => libvirt.virsh('domiflist', name))
  const before = interfaces()
  const mac = async () => JSON.parse(await world.in('h', 'ip', '-j', 'link', 'show', 'br0'))[0].address
  const address = await mac()

  const server = await world.start('c2', 'iperf3', '--server', '--one-off', '--forceflush')
  await until('iperf3', 10_000, () => (server.stdout.includes('listening') ? true : undefined), 20)
  const transfer = await world.start('c1', 'iperf3', '--client', '192.0.2.12', '--time', '120', '--bitrate', '50M')
  const streams = [
    await Stream.start(world, 'c1', 'h', HOST_ADDRESS, 5001),
    await Stream.start(world, 'h', 'c2', '192.0.2.12', 5002),
  ]
  for (let round = 0; round < 3; round++) {
    await daemon.client.takeBridge({ bridge: 'br0' }, CALL)
    t.equal(await mac(), address)
    t.same(interfaces(), before)
    await daemon.client.giveBridge('br0', CALL)
  }
  await daemon.client.takeBridge({ bridge: 'br0' }, CALL)
  for (const stream of streams) {
    const { sent, lost, doubled, longestGap } = await stream.end()
    t.comment(`${stream.name}: ${sent} sent, ${lost} lost, ${doubled} doubled, longest gap ${longestGap.toFixed(1)} ms`)
    t.equal(doubled, 0, stream.name)
  }
  // Bulk TCP fills queues, which drop what finds no room, on a bridge as well; a connection that is reset says so.
  t.ok(transfer.child.exitCode === null, 'the transfer goes on')
  transfer.child.kill('SIGINT')
  await until('its report', 10_000, () => (transfer.child.exitCode === null ? undefined : true), 20)
  t.notMatch(transfer.stdout, /reset|refused|timed out/i)

  const members = async () =>
    (await daemon.client.ports(CALL)).flatMap(({ kind, vm }) => (kind === 'member' ? [vm] : [])).sort()
  const until_ = (wanted: string[]) =>
    until(`members ${wanted.join(' ')}`, 20_000, async () =>
      JSON.stringify(await members()) === JSON.stringify(wanted) ? true : undefined,
    )
  await until_(['one', 'two'])
  // Its firmware asks for an address.
  await libvirt.domain('three', { devices: nic(3), number: 3, os: "<boot dev='network'/>", start: false })
  libvirt.virsh('start', 'three')
  await until_(['one', 'three', 'two'])
  await until('a lease', 60_000, () =>
    /DHCPACK\(br0\) \S+ 52:54:00:0b:00:03/.test(dhcp.stdout + dhcp.stderr) ? true : undefined,
  )
  libvirt.virsh('destroy', 'three')
  await until_(['one', 'two'])
  libvirt.virsh('start', 'three')
  await until_(['one', 'three', 'two'])

  // NICs come and go with their machine running; nobody else notices.
  const others = [
    await Stream.start(world, 'c1', 'h', HOST_ADDRESS, 5003),
    await Stream.start(world, 'c2', 'c1', '192.0.2.11', 5004),
  ]
  // One with ACPI, which hotplug needs.
  for (let time = 0; time < 2; time++) {
    const chosen = ['three', 'bridge', '--mac', '52:54:00:0b:00:12', '--live']
    libvirt.virsh('attach-interface', ...chosen, '--source', 'br0', '--model', 'virtio')
    await until_(['one', 'three', 'three', 'two'])
    libvirt.virsh('detach-interface', ...chosen)
    // Its firmware knows no hotplug: a card that it is asked for goes when the machine is reset.
    libvirt.virsh('reset', 'three')
    await until_(['one', 'three', 'two'])
  }
  for (const stream of others) {
    const { sent, lost, doubled } = await stream.end()
    t.same({ lost, doubled }, { lost: 0, doubled: 0 }, `${stream.name}: ${sent} sent while NICs came and went`)
  }
  t.equal((await daemon.client.bridges(CALL))[0]!.problem, null)
  await daemon.client.giveBridge('br0', CALL)
  t.equal(await mac(), address)
  t.equal(await world.in('h', 'nft', 'list', 'ruleset'), '')
})
