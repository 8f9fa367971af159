// Tunnels that not every kernel can make: a guest writes the GSO frames that a kernel with GRE, IPIP or SIT would send.
// What leaves for a device without offloads, and for a TAP, are finished frames; tcpdump, which knows all these
// tunnels, finds every checksum right. A device that takes tunnels gets the frame whole where the kernel can be told of
// it, and it is such that whoever cuts it later gets finished frames, too.

import t, { type Test } from 'tap'
import { type FrameCopy, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import {
  cutAsKernel,
  ethernet,
  gre,
  gsoFrame,
  ip4,
  ip6,
  overUdp,
  type Piece,
  receive,
  type Seen,
  tcp,
  udp,
} from '../frame/tunnels.js'
import { until } from '../lab/command.js'
import { fileLimit } from '../patience.js'
import { Station, stations } from '../switch/station.js'
import { root, World } from '../switch/world.js'
import { tapGuest } from './tap-guest.js'

t.setTimeout(fileLimit(90_000))

const VXLAN = [8, 0, 0, 0, 0, 0, 7, 0]
const SIZE = 1000
const PAYLOAD = Uint8Array.from({ length: 20_500 }, (_, i) => (i * 7 + (i >> 8)) & 0xff)
const SEGMENTS = Math.ceil(PAYLOAD.length / SIZE)
const [TCP4, TCP6, USO] = [1, 4, 5]

const p = PAYLOAD
/**
 * What stays whole: the length of its outer headers, and how many frames come. With a checksum outside, the last
 * segment comes by itself.
 */
type Whole = readonly [outer: number, frames: number]

/** The frame, its gso_type, and whether it can stay whole. */
const kinds: Record<string, [Piece, number, Whole?]> = {
  VXLAN: [ethernet(ip4(overUdp(ethernet(ip4(tcp(4, p))), VXLAN, null))), TCP4, [50, 1]],
  'VXLAN over IPv6': [ethernet(ip6(overUdp(ethernet(ip6(tcp(6, p))), VXLAN, 6))), TCP6, [70, 2]],
  'IPv6 in VXLAN over IPv4': [ethernet(ip4(overUdp(ethernet(ip6(tcp(6, p))), VXLAN, 4))), TCP6, [50, 2]],
  'UDP segments in VXLAN': [ethernet(ip4(overUdp(ethernet(ip4(udp(4, p))), VXLAN, 4))), USO, [50, 2]],
  'VXLAN in a VLAN': [ethernet(ip4(overUdp(ethernet(ip4(tcp(4, p))), VXLAN, 4)), [0x81, 0, 0, 7]), TCP4, [50, 2]],
  GRE: [ethernet(ip4(gre(ip4(tcp(4, p))))), TCP4, [28, 1]],
  'GRE with a checksum': [ethernet(ip4(gre(ip4(tcp(4, p)), true))), TCP4, [32, 2]],
  'IPv6 in GRE over IPv4': [ethernet(ip4(gre(ip6(tcp(6, p)), true))), TCP6],
  GRETAP: [ethernet(ip4(gre(ethernet(ip4(tcp(4, p)))))), TCP4, [42, 1]],
  IPIP: [ethernet(ip4({ ...ip4(tcp(4, p)), type: 4 })), TCP4, [20, 1]],
  SIT: [ethernet(ip4({ ...ip6(tcp(6, p)), type: 41 })), TCP6, [20, 1]],
  'IPv4 in IPv6': [ethernet(ip6({ ...ip4(tcp(4, p)), type: 4 }, true)), TCP4, [48, 1]],
}

/** What is left of a frame at the end of its way: segments, each checked. */
function finished({ bytes }: FrameCopy, outer: number): Seen[] {
  const [header, frame] = [bytes.subarray(0, VNET_HEADER_LENGTH), bytes.subarray(VNET_HEADER_LENGTH)]
  return (header[1] === 0 ? [frame] : cutAsKernel(header, frame, outer)).map(receive)
}

const isOurs = ({ bytes }: { bytes: Uint8Array }) => bytes[VNET_HEADER_LENGTH + 11] === 1

function arrived(t: Test, seen: readonly Seen[], where: string): void {
  t.equal(seen.length, SEGMENTS, `${where}: segments`)
  const contents = Buffer.concat(seen.map(({ payload }) => payload))
  t.ok(contents.equals(PAYLOAD), `${where}: the contents arrive as they were written`)
}

t.test('tunnels to an outside without offloads', root, async (t) => {
  const world = World.for(t)
  await world.namespace('host')
  await world.endpoint('outside', 'host', { offload: 'off' })
  await world.try('host', 'ethtool', '-K', 'outside', 'tx-udp-segmentation', 'off', 'txvlan', 'off')
  await world.endpoint('taking', 'host')
  const guest = tapGuest(t, world, 'host', 'guest')
  const other = tapGuest(t, world, 'host', 'other')
  const outside = (device: string) => ({ device, kind: 'plain' as const })
  const members = { guest: { device: 'guest', vm: 'guest' }, other: { device: 'other', vm: 'other' } }
  const ports = { ...members, outside: outside('outside'), taking: outside('taking') }
  const daemon = await world.switch('host', { networks: { lab0: { ports } } })
  const [station, taker] = stations(t, world, 'outside', 'taking')
  for (const [name, [whole, type, staysWhole]] of Object.entries(kinds)) {
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
      taker.received()
      other.read()
      const { bytes } = gsoFrame(whole, SIZE, type)
      const refused = guest.write(bytes.subarray(VNET_HEADER_LENGTH), bytes.subarray(0, VNET_HEADER_LENGTH))
      if (type === USO && refused === 'EINVAL') {
        await capture.stop()
        t.pass('this kernel (before 6.2) lets no guest write UDP segments')
        return
      }
      t.equal(refused, null)
      const frames = await station.collect(SEGMENTS, isOurs, 5000)
      arrived(
        t,
        frames.flatMap((copy) => finished(copy, 0)),
        'without offloads',
      )
      const atTap: Uint8Array[] = []
      await until('the TAP', 5000, () => {
        atTap.push(...other.read().filter((bytes) => isOurs({ bytes })))
        return atTap.length >= SEGMENTS ? true : undefined
      }).catch(() => undefined)
      arrived(
        t,
        atTap.map((read) => receive(read.subarray(VNET_HEADER_LENGTH))),
        'TAP',
      )
      if (staysWhole !== undefined) {
        const [outer, count] = staysWhole
        const taken = await taker.collect(count, isOurs, 5000)
        arrived(
          t,
          taken.flatMap((copy) => finished(copy, outer)),
          'whole',
        )
        t.equal(taken.length, count)
        const first = Buffer.from(taken[0].bytes.subarray(VNET_HEADER_LENGTH))
        if (count === 1) t.ok(first.equals(bytes.subarray(VNET_HEADER_LENGTH)), 'byte for byte')
      }
      const verdicts = () => capture.stdout.match(/\(correct\)|udp sum ok/g)?.length ?? 0
      await until('the verdicts', 5000, () => (verdicts() >= SEGMENTS ? true : undefined)).catch(() => undefined)
      const text = await capture.stop()
      t.ok(verdicts() >= SEGMENTS, `${verdicts()} right checksums`)
      t.notMatch(text, /incorrect|bad (udp )?cksum|wrong/i)
    })
  }
  for (const name of Object.keys(ports)) t.same((await daemon.port(name)).counters.drops, {}, `${name}: no drops`)
  await t.test('what others send there is left alone', async (t) => {
    const others = new Station(world.name('host'), 'taking')
    t.teardown(() => others.close())
    taker.received()
    const { bytes } = gsoFrame(kinds.VXLAN[0], SIZE, TCP4)
    const header = bytes.slice(0, VNET_HEADER_LENGTH)
    const refused = others.send(bytes.subarray(VNET_HEADER_LENGTH), header)
    t.not(refused, null, `without a mark the kernel is told of no tunnel: ${refused}`)
    const plain = gsoFrame(ethernet(ip4(tcp(4, p))), SIZE, TCP4).bytes
    t.equal(others.send(plain.subarray(VNET_HEADER_LENGTH), plain.slice(0, VNET_HEADER_LENGTH)), null)
    const [came] = await taker.collect(1, isOurs, 5000)
    t.ok(Buffer.from(came.bytes.subarray(VNET_HEADER_LENGTH)).equals(plain.subarray(VNET_HEADER_LENGTH)))
  })
  await t.test('a program that somebody takes off is put back', async () => {
    await world.in('host', 'tc', 'filter', 'delete', 'dev', 'taking', 'egress')
    await until('the program', 15_000, async () => {
      const shown = await world.in('host', 'tc', 'filter', 'show', 'dev', 'taking', 'egress')
      return shown.includes('snapswitch_egress') ? true : undefined
    })
  })
})
