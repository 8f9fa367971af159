// The DSCP bit: right place in both versions, checksums that stay right, and frames that come back to the byte.

import t from 'tap'
import { colorBit, epochOfBit, flipColorBit, NO_BIT } from '../../src/frame/color-dscp.js'
import { headerChecksum, ip, packet } from '../forwarding/lan.js'
import { frame } from '../forwarding/rig.js'
import fc from '../property.js'

const bytesOf = (of: ReturnType<typeof frame>) => of.bytes.slice(of.start, of.start + of.length)

t.test('any IPv4 header: the bit turns over, the checksum stays right, twice is the frame as it was', async () => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 20, maxLength: 60 }), (random) => {
      const payload = Uint8Array.from(random)
      payload[0] = 0x45
      new DataView(payload.buffer).setUint16(10, headerChecksum(payload))
      const made = frame({ payload })
      const before = bytesOf(made)
      const bit = colorBit(made)
      if (bit !== ((payload[1] >> 2) & 1)) return false
      flipColorBit(made)
      const turned = bytesOf(made).subarray(14)
      const sum = new DataView(turned.buffer, turned.byteOffset).getUint16(10)
      if (colorBit(made) !== 1 - bit || turned[1] !== (payload[1] ^ 4) || sum !== headerChecksum(turned)) return false
      flipColorBit(made)
      return Buffer.from(bytesOf(made)).equals(before)
    }),
    { numRuns: 2000 },
  )
})

t.test('an IPv4 header whose checksum is wrong comes back as wrong as it was', async () => {
  fc.assert(
    fc.property(fc.nat(255), fc.nat(0xfffe), (trafficClass, checksum) => {
      const payload = packet(4, 7, trafficClass)
      new DataView(payload.buffer).setUint16(10, checksum)
      const made = frame({ payload })
      flipColorBit(made)
      flipColorBit(made)
      return Buffer.from(bytesOf(made).subarray(14)).equals(payload)
    }),
  )
  const payload = packet(4, 7)
  payload.fill(0xff, 10, 12)
  t.equal(colorBit(frame({ payload })), NO_BIT, 'the one that would not is left alone')
})

t.test('IPv6: the same bit of the traffic class, nothing else', async (t) => {
  for (const trafficClass of [0, 4, 0xb8, 0xff]) {
    const made = frame(ip(6, 1, trafficClass))
    t.equal(colorBit(made), (trafficClass >> 2) & 1)
    flipColorBit(made)
    t.same(bytesOf(made).subarray(14), packet(6, 1, trafficClass ^ 4))
  }
})

t.test('no bit where there is no whole IP header', async (t) => {
  t.equal(colorBit(frame({ type: 0x0806 })), NO_BIT)
  t.equal(colorBit(frame({ payload: packet(6, 1) })), NO_BIT, 'version and EtherType disagree')
  t.equal(colorBit(frame({ payload: packet(4, 1).subarray(0, 19) })), NO_BIT)
  t.equal(colorBit(frame({ type: 0x86dd, payload: packet(6, 1).subarray(0, 39) })), NO_BIT)
})

t.test('of two epochs the one with the bit’s parity', async (t) => {
  for (const from of [0, 1, 7, 8, 0xfffffffe]) {
    t.equal(epochOfBit(from & 1, from), from)
    t.equal(epochOfBit((from + 1) & 1, from), from + 1)
  }
})
