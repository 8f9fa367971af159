// Accessors over Ethernet bytes, and the frame cursor with its copies.

import t from 'tap'
import {
  announcement,
  EtherType,
  innerEtherType,
  isGroup,
  isLinkLocal,
  isWellFormed,
  macHigh,
  macLow,
  vlanId,
} from '../../src/frame/ethernet.js'
import { copyFrame, Frame, MAX_FRAME_LENGTH, NO_COLOR, VNET_HEADER_LENGTH } from '../../src/frame/frame.js'
import { formatMacWords, parseMac } from '../../src/frame/mac.js'
import fc from '../property.js'

/** A cursor on `bytes` that lies in the middle of larger memory, header in front. */
function frameOf(bytes: Uint8Array, before = 7, after = 5): Frame {
  const memory = new Uint8Array(before + VNET_HEADER_LENGTH + bytes.length + after).fill(0xee)
  memory.fill(0, before, before + VNET_HEADER_LENGTH)
  memory.set(bytes, before + VNET_HEADER_LENGTH)
  const frame = new Frame(memory)
  frame.vnet = before
  frame.start = before + VNET_HEADER_LENGTH
  frame.length = bytes.length
  return frame
}

const mac = fc.uint8Array({ minLength: 6, maxLength: 6 })
const headerWith = (...tail: number[]) => Uint8Array.of(2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, ...tail)

t.test('a frame is well-formed from its header to the longest that a device gives', async (t) => {
  const frame = frameOf(headerWith(8, 0))
  t.equal(isWellFormed(frame), true)
  frame.length = 13
  t.equal(isWellFormed(frame), false)
  frame.length = 0
  t.equal(isWellFormed(frame), false)
  frame.length = MAX_FRAME_LENGTH
  t.equal(isWellFormed(frame), true)
  frame.length = MAX_FRAME_LENGTH + 1
  t.equal(isWellFormed(frame), false)
})

t.test('EtherType and VLAN id', async (t) => {
  t.equal(innerEtherType(frameOf(headerWith(0x86, 0xdd))), EtherType.IPV6)
  t.equal(vlanId(frameOf(headerWith(0x08, 0x00, 0x45, 0x00))), 0, 'untagged')
  t.equal(vlanId(frameOf(headerWith(0x81, 0x00, 0x3f, 0xff, 8, 0))), 0xfff, 'in memory; priority and DEI do not count')
  t.equal(vlanId(frameOf(headerWith(0x81, 0x00, 0xe0, 0x00, 8, 0))), 0, 'priority tag')
  t.equal(vlanId(frameOf(headerWith(0x81, 0x00, 0x01))), 0, 'a tag cut short is none')
  t.equal(vlanId(frameOf(headerWith(0x88, 0xa8, 0x00, 0x07, 0x81, 0x00))), 0, 'a service tag is no VLAN of ours')
  const beside = frameOf(headerWith(0x81, 0x00, 0x00, 0x05, 8, 0))
  beside.tagTpid = EtherType.VLAN
  beside.tagTci = 0x6123
  t.equal(vlanId(beside), 0x123, 'the tag beside the frame is the outer one')
  beside.tagTpid = EtherType.SERVICE_VLAN
  t.equal(vlanId(beside), 0, 'under a service tag the customer tag does not count')
})

t.test('addresses: two small integers say the same as six bytes', async (t) => {
  fc.assert(
    fc.property(mac, fc.nat(20), (address, offset) => {
      const bytes = new Uint8Array(offset + 6)
      bytes.set(address, offset)
      const text = formatMacWords(macHigh(bytes, offset), macLow(bytes, offset))
      t.equal(text, [...address].map((byte) => byte.toString(16).padStart(2, '0')).join(':'))
      return Buffer.compare(parseMac(text), address) === 0 && Number.isInteger(macLow(bytes, offset))
    }),
    { numRuns: 300 },
  )
  t.same(parseMac('AA:bb:0C:00:fF:01'), Uint8Array.of(0xaa, 0xbb, 0x0c, 0, 0xff, 1))
})

t.test('group and link-local addresses', async (t) => {
  for (let byte = 0; byte < 256; byte++) t.equal(isGroup(Uint8Array.of(byte, 0, 0, 0, 0, 0), 0), byte % 2 === 1)
  const linkLocal = Uint8Array.of(0x01, 0x80, 0xc2, 0, 0, 0)
  for (let last = 0; last < 256; last++) {
    linkLocal[5] = last
    t.equal(isLinkLocal(linkLocal, 0), last < 16)
  }
  linkLocal[5] = 0
  for (let at = 0; at < 5; at++) {
    const near = linkLocal.slice()
    near[at] ^= 0x10
    t.equal(isLinkLocal(near, 0), false)
  }
})

t.test('an announcement is a broadcast RARP request from the address', async (t) => {
  const address = parseMac('52:54:00:12:34:56')
  const frame = announcement(address)
  t.equal(frame.length, 60)
  t.same(frame.slice(0, 6), new Uint8Array(6).fill(0xff))
  t.same(frame.slice(6, 12), address)
  // RFC 903 in the layout of RFC 826: hardware 1, protocol 0x0800, lengths 6 and 4, operation 3; sender and target
  // hardware.
  t.same(frame.slice(12, 22), Uint8Array.of(0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3))
  t.same(frame.slice(22, 28), address)
  t.same(frame.slice(28, 32), new Uint8Array(4))
  t.same(frame.slice(32, 38), address)
})

t.test('a copy outlives the memory it was taken from, and a cursor on it sees the same frame', async (t) => {
  const arbitrary = fc.record({
    bytes: fc.uint8Array({ minLength: 14, maxLength: 200 }),
    header: fc.uint8Array({ minLength: VNET_HEADER_LENGTH, maxLength: VNET_HEADER_LENGTH }),
    tagTpid: fc.constantFrom(0, 0x8100, 0x88a8),
    tagTci: fc.nat(0xffff),
    color: fc.integer({ min: NO_COLOR, max: 10_000 }),
  })
  fc.assert(
    fc.property(arbitrary, ({ bytes, header, tagTpid, tagTci, color }) => {
      const frame = frameOf(bytes)
      frame.bytes.set(header, frame.vnet)
      Object.assign(frame, { tagTpid, tagTci, color, address: 4096 })
      const copy = copyFrame(frame)
      frame.bytes.fill(0)
      const again = new Frame()
      again.address = 1
      t.equal(again.pointAt(copy), again)
      t.same(again.bytes.slice(again.start, again.start + again.length), bytes)
      t.same(again.bytes.slice(again.vnet, again.start), header)
      t.match(again, { tagTpid, tagTci, color, address: 0, length: bytes.length })
    }),
    { numRuns: 100 },
  )
})
