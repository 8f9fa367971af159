// Captures where frames are carried between hosts: at trunks, uplinks and the peers behind them; and the dissector
// on what is then on the wire. tshark is the judge of both.

import { join } from 'node:path'
import t from 'tap'
import { run, until } from '../lab/command.js'
import { repositoryRoot } from '../lab/repository.js'
import { fileLimit, patience } from '../patience.js'
import { root, type SwitchFile, World } from '../switch/world.js'
import { Capturing, tshark } from './capturing.js'

t.setTimeout(fileLimit(240_000))

const dissector = join(repositoryRoot(), 'packaging', 'wireshark', 'snapswitch.lua')
/** What is between the hosts, and whose it is. */
const WIRES = [
  ['trunk', 'lab0'],
  ['up', 'lab1'],
] as const
const side = (trunked: string, behindUplink: string): SwitchFile => ({
  networks: {
    lab0: { ports: { [trunked]: { device: trunked, vm: trunked }, trunk: { device: 'trunk', kind: 'trunk' } } },
    lab1: {
      ports: { [behindUplink]: { device: behindUplink, vm: behindUplink }, up: { device: 'up', kind: 'uplink' } },
    },
  },
})

t.test('frames between two hosts', root, async (t) => {
  const world = World.for(t)
  await world.hostsOnLan('a', 'b')
  await world.ip('lan', 'address', 'add', '10.67.0.99/24', 'dev', 'br0')
  await world.cable(['a', 'trunk'], ['b', 'trunk'], { mtu: 1508 })
  await world.endpoint('one', 'a', { address: '10.66.0.1' })
  await world.endpoint('two', 'b', { address: '10.66.0.2' })
  await world.endpoint('three', 'a', { address: '10.67.0.3' })
  await world.endpoint('four', 'b', { address: '10.67.0.4' })
  const daemons = [await world.switch('a', side('one', 'three')), await world.switch('b', side('two', 'four'))]
  await until('the peers', 20_000, async () => {
    const all = await Promise.all(daemons.map((daemon) => daemon.client.status({ deadlineMs: patience(5000) })))
    return all.every(({ networks }) => networks.every(({ peers }) => peers[0]?.alive)) ? true : undefined
  })
  const file = (name: string) => join(world.directory, name)
  const wires = await Promise.all(
    WIRES.map(async ([device]) => {
      const args = ['--immediate-mode', '-U', '-i', device, '-w', file(`${device}.pcap`)]
      const wire = await world.start('a', 'tcpdump', ...args)
      await until('tcpdump', 10_000, () => wire.stderr.includes('listening on') || undefined)
      return wire
    }),
  )
  const captures = await Promise.all(
    ['lab0', 'lab1'].map((network) =>
      Capturing.begin(t, world.socket('a'), network, '-w', file(`${network}.pcapng`), 'ip'),
    ),
  )
  const dissected = async (device: string, filter: string, ...fields: string[]) => {
    const asked = fields.flatMap((field) => ['-e', field])
    const args = ['-X', `lua_script:${dissector}`, '-r', file(`${device}.pcap`), '-Y', filter, '-T', 'fields', ...asked]
    return (await run('tshark', args, 60_000)).split('\n').filter(Boolean)
  }
  const speakers = async (device: string, network: string) =>
    [...new Set(await dissected(device, `snapswitch.network == "${network}"`, 'snapswitch.host'))].sort().join()
  // First: the dissector takes a tag for a color once it knows the hosts.
  for (const [device, network] of WIRES) {
    await until(`HELLOs of both hosts on ${device}`, 30_000, async () =>
      // The last packet may be written in part as yet.
      (await speakers(device, network).catch(() => '')) === 'a,b' ? true : undefined,
    )
  }
  t.equal((await world.pings('one', '10.66.0.2')).code, 0)
  t.equal((await world.pings('three', '10.67.0.4')).code, 0)
  t.equal((await world.pings('three', '10.67.0.99')).code, 0)
  for (const capture of captures) t.equal(await capture.stop(), 0, capture.stderr)
  for (const wire of wires) await wire.stop()

  /** What is said of the first request and of its answer, port by port. */
  const said = async (network: string, address: string) => {
    const words = async (type: number) => {
      const found = await tshark(file(`${network}.pcapng`), `icmp.type == ${type} && ip.addr == ${address}`)
      const first = found.filter(({ id }) => id === found[0]?.id)
      return first.map(({ port, direction, comment }) => `${port} ${direction} ${comment}`)
    }
    return [await words(8), await words(0)]
  }
  await t.test('at a trunk', async (t) => {
    t.same(await said('lab0', '10.66.0.2'), [
      ['one in received, color 0', 'trunk out delivered, color 0'],
      ['trunk in received, color 0', 'one out delivered, color 0'],
    ])
    t.match(await run('capinfos', ['-I', file('lab0.pcapng')]), /Description = trunk port of network lab0, host b/)
  })
  await t.test('at a peer behind an uplink, and at the LAN itself', async (t) => {
    t.same(await said('lab1', '10.67.0.4'), [
      ['three in received, color 0', 'up@b out delivered, color 0'],
      ['up@b in received, color 0', 'three out delivered, color 0'],
    ])
    t.same(await said('lab1', '10.67.0.99'), [
      ['three in received, color 0', 'up out delivered, color 0'],
      ['up in received, no color', 'three out delivered, no color'],
    ])
  })
  await t.test('the dissector, on the wire', async (t) => {
    for (const [device, network] of WIRES)
      t.equal(await speakers(device, network), 'a,b', `control frames on ${device}`)
    // Answers: what the daemon sends goes past tcpdump on its own host.
    const tagged = await dissected('trunk', 'icmp.type == 0', 'snapswitch.tag.color')
    t.same([...new Set(tagged)], ['0'], `color tags of ${tagged.length} frames`)
    t.ok((await dissected('up', 'icmp && ip.addr == 10.67.0.4', 'ip.src')).length > 1, 'frames to the peer')
    t.same(await dissected('trunk', '_ws.malformed || _ws.lua.error', 'frame.number'), [])
    t.same(await dissected('up', '_ws.malformed || _ws.lua.error', 'frame.number'), [])
  })
})
