// Tunnels that not every kernel can make: a guest writes the GSO frames that a kernel with GRE, IPIP or SIT would send.
// What leaves for a device without offloads are finished frames; tcpdump, which knows all these tunnels, finds every
// checksum right.

import t from 'tap'
import { VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { ethernet, gre, gsoFrame, ip4, ip6, overUdp, type Piece, receive, tcp, udp } from '../frame/tunnels.js'
import { until } from '../lab/command.js'
import { patience } from '../patience.js'
import { stations } from '../switch/station.js'
import { root, World } from '../switch/world.js'
import { tapGuest } from './tap-guest.js'

t.setTimeout(patience(90_000))

const VXLAN = [8, 0, 0, 0, 0, 0, 7, 0]
const SIZE = 1000
const PAYLOAD = Uint8Array.from({ length: 20_500 }, (_, i) => (i * 7 + (i >> 8)) & 0xff)
const SEGMENTS = Math.ceil(PAYLOAD.length / SIZE)
const [TCP4, TCP6, USO] = [1, 4, 5]

const p = PAYLOAD
const kinds: Record<string, [Piece, number]> = {
  VXLAN: [ethernet(ip4(overUdp(ethernet(ip4(tcp(4, p))), VXLAN, null))), TCP4],
  'VXLAN over IPv6': [ethernet(ip6(overUdp(ethernet(ip6(tcp(6, p))), VXLAN, 6))), TCP6],
  'UDP segments in VXLAN': [ethernet(ip4(overUdp(ethernet(ip4(udp(4, p))), VXLAN, 4))), USO],
  'VXLAN in a VLAN': [ethernet(ip4(overUdp(ethernet(ip4(tcp(4, p))), VXLAN, 4)), [0x81, 0, 0, 7]), TCP4],
  GRE: [ethernet(ip4(gre(ip4(tcp(4, p))))), TCP4],
  'GRE with a checksum': [ethernet(ip4(gre(ip6(tcp(6, p)), true))), TCP6],
  GRETAP: [ethernet(ip4(gre(ethernet(ip4(tcp(4, p)))))), TCP4],
  IPIP: [ethernet(ip4({ ...ip4(tcp(4, p)), type: 4 })), TCP4],
  SIT: [ethernet(ip4({ ...ip6(tcp(6, p)), type: 41 })), TCP6],
  'IPv4 in IPv6': [ethernet(ip6({ ...ip4(tcp(4, p)), type: 4 }, true)), TCP4],
}

t.test('tunnels to an outside without offloads', root, async (t) => {
  const world = World.for(t)
  await world.namespace('host')
  await world.endpoint('outside', 'host', { offload: 'off' })
  await world.try('host', 'ethtool', '-K', 'outside', 'tx-udp-segmentation', 'off', 'txvlan', 'off')
  const guest = tapGuest(t, world, 'host', 'guest')
  const ports = { guest: { device: 'guest', vm: 'guest' }, outside: { device: 'outside', kind: 'plain' } }
  const daemon = await world.switch('host', { networks: { lab0: { ports } } })
  const [station] = stations(t, world, 'outside')
  for (const [name, [whole, type]] of Object.entries(kinds)) {
    await t.test(name, async (t) => {
      const capture = await world.capture(
        'outside',
        'eth0',
        '-c',
        String(SEGMENTS),
        'ether',
        'src',
        '02:00:00:00:00:01',
      )
      station.received()
      const { bytes } = gsoFrame(whole, SIZE, type)
      const refused = guest.write(bytes.subarray(VNET_HEADER_LENGTH), bytes.subarray(0, VNET_HEADER_LENGTH))
      if (type === USO && refused === 'EINVAL') {
        await capture.stop()
        t.pass('this kernel (before 6.2) lets no guest write UDP segments')
        return
      }
      t.equal(refused, null)
      const isOurs = (copy: { bytes: Uint8Array }) => copy.bytes[VNET_HEADER_LENGTH + 11] === 1
      const frames = await station.collect(SEGMENTS, isOurs, 5000)
      const seen = frames.map((copy) => receive(copy.bytes.subarray(VNET_HEADER_LENGTH)))
      t.equal(seen.length, SEGMENTS)
      t.ok(
        Buffer.concat(seen.map(({ payload }) => payload)).equals(PAYLOAD),
        'the contents arrive as they were written',
      )
      const verdicts = () => capture.stdout.match(/\(correct\)|udp sum ok/g)?.length ?? 0
      await until('the verdicts', 5000, () => (verdicts() >= SEGMENTS ? true : undefined)).catch(() => undefined)
      const text = await capture.stop()
      t.ok(verdicts() >= SEGMENTS, `${verdicts()} right checksums`)
      t.notMatch(text, /incorrect|bad (udp )?cksum|wrong/i)
    })
  }
  for (const name of ['guest', 'outside']) t.same((await daemon.port(name)).counters.drops, {}, `${name}: no drops`)
})
