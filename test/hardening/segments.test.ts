// Whole GSO frames of a guest (TCP and UDP segments, IPv4 and IPv6, in a VLAN and not) on their way to an outside whose
// device cuts and finishes nothing itself: what arrives there are frames of one segment each, with right checksums by
// tcpdump's verdict, in their VLAN, and their contents are what the guest has written.

import t from 'tap'
import { VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { until } from '../lab/command.js'
import { fileLimit } from '../patience.js'
import { stations } from '../switch/station.js'
import { root, World } from '../switch/world.js'
import { tapGuest, virtioHeader } from './tap-guest.js'

t.setTimeout(fileLimit(60_000))

const PAYLOAD = 20_000
const SEGMENT = 1300
const SEGMENTS = Math.ceil(PAYLOAD / SEGMENT)
const TAG = [0x81, 0, 0, 7]

interface Kind {
  readonly version: 4 | 6
  readonly protocol: 'tcp' | 'udp'
  readonly tags: readonly number[]
}

const transportLength = ({ protocol }: Kind) => (protocol === 'tcp' ? 20 : 8)
const headersLength = (kind: Kind) => 14 + kind.tags.length + (kind.version === 4 ? 20 : 40) + transportLength(kind)

/** One's complement sum of 16-bit words. */
function sum(bytes: Uint8Array): number {
  let total = 0
  for (let at = 0; at < bytes.length; at += 2) total += (bytes[at] << 8) | (bytes[at + 1] ?? 0)
  while (total > 0xffff) total = (total & 0xffff) + (total >>> 16)
  return total
}

/** The frame and its virtio-net header, checksum left to whoever cuts it (linux/virtio_net.h). */
function wholeFrame(kind: Kind): { frame: Uint8Array; header: Uint8Array } {
  const { version, protocol, tags } = kind
  const frame = new Uint8Array(headersLength(kind) + PAYLOAD)
  const view = new DataView(frame.buffer)
  const ip = 14 + tags.length
  const transport = ip + (version === 4 ? 20 : 40)
  const length = transportLength(kind) + PAYLOAD
  const number = protocol === 'tcp' ? 6 : 17
  frame.set([...new Array(6).fill(0xff), 2, 0, 0, 0, 0, 9, ...tags, ...(version === 4 ? [8, 0] : [0x86, 0xdd])])
  if (version === 4) {
    frame.set([0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, number, 0, 0, 192, 0, 2, 8, 192, 0, 2, 9], ip)
    view.setUint16(ip + 2, 20 + length)
    view.setUint16(ip + 10, ~sum(frame.subarray(ip, ip + 20)) & 0xffff)
  } else {
    const address = (last: number) => [0xfd, 0x66, ...new Array(13).fill(0), last]
    frame.set([0x60, 0, 0, 0, 0, 0, number, 64, ...address(8), ...address(9)], ip)
    view.setUint16(ip + 4, length)
  }
  if (protocol === 'tcp') frame.set([3, 232, 7, 208, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0x20, 0], transport)
  else frame.set([3, 232, 7, 208, length >> 8, length & 0xff], transport)
  const offset = protocol === 'tcp' ? 16 : 6
  const addresses = version === 4 ? frame.slice(ip + 12, ip + 20) : frame.slice(ip + 8, ip + 40)
  const pseudo = sum(Uint8Array.of(...addresses, 0, number, length >> 8, length & 0xff))
  view.setUint16(transport + offset, pseudo)
  for (let i = 0; i < PAYLOAD; i++) frame[transport + transportLength(kind) + i] = (i * 7 + (i >> 8)) & 0xff
  const gsoType = protocol === 'udp' ? 5 : version === 4 ? 1 : 4
  const words = { flags: 1, gsoType, headerLength: headersLength(kind), gsoSize: SEGMENT }
  return { frame, header: virtioHeader({ ...words, checksumStart: transport, checksumOffset: offset }) }
}

t.test('segments to an outside without offloads', root, async (t) => {
  const world = World.for(t)
  await world.namespace('host')
  await world.endpoint('outside', 'host', { offload: 'off' })
  await world.try('host', 'ethtool', '-K', 'outside', 'tx-udp-segmentation', 'off', 'txvlan', 'off')
  const guest = tapGuest(t, world, 'host', 'guest')
  const ports = { guest: { device: 'guest', vm: 'guest' }, outside: { device: 'outside', kind: 'plain' } }
  const daemon = await world.switch('host', { networks: { lab0: { ports } } })
  const [station] = stations(t, world, 'outside')
  for (const version of [4, 6] as const) {
    for (const protocol of ['tcp', 'udp'] as const) {
      for (const tags of [[], TAG]) {
        const kind = { version, protocol, tags }
        await t.test(`${protocol} over IPv${version}${tags.length > 0 ? ' in a VLAN' : ''}`, async (t) => {
          const { frame, header } = wholeFrame(kind)
          const capture = await world.capture(
            'outside',
            'eth0',
            '-c',
            String(SEGMENTS),
            'ether',
            'src',
            '02:00:00:00:00:09',
          )
          station.received()
          const refused = guest.write(frame, header)
          if (protocol === 'udp' && refused === 'EINVAL') {
            await capture.stop()
            t.pass('this kernel (before 6.2) lets no guest write UDP segments')
            return
          }
          t.equal(refused, null)
          const isOurs = ({ bytes }: { bytes: Uint8Array }) => bytes[VNET_HEADER_LENGTH + 11] === 9
          const frames = await station.collect(SEGMENTS, isOurs, 5000)
          t.equal(frames.length, SEGMENTS)
          // The kernel keeps the tag beside the frame.
          for (const { tagTpid, tagTci } of frames) t.same([tagTpid, tagTci], tags.length > 0 ? [0x8100, 7] : [0, 0])
          const from = VNET_HEADER_LENGTH + headersLength({ ...kind, tags: [] })
          const payload = Buffer.concat(frames.map(({ bytes }) => bytes.subarray(from)))
          t.ok(payload.equals(frame.subarray(headersLength(kind))), 'the contents arrive as they were written')
          const verdicts = () => capture.stdout.match(/\(correct\)|udp sum ok/g)?.length ?? 0
          await until('the verdicts', 5000, () => (verdicts() >= SEGMENTS ? true : undefined)).catch(() => undefined)
          const text = await capture.stop()
          t.equal(verdicts(), SEGMENTS, 'all checksums are right')
          t.notMatch(text, /incorrect|bad (udp )?cksum|wrong/i)
          t.equal(text.match(/vlan 7/g)?.length ?? 0, tags.length > 0 ? SEGMENTS : 0)
        })
      }
    }
  }
  const { counters } = await daemon.port('outside')
  t.ok(counters.txGso > 0, `${counters.txGso} frames went through the switch whole`)
})
