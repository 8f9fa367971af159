// Control frames under a key: what is written is read, and no change of a byte survives the seal.

import { createHmac } from 'node:crypto'
import t from 'tap'
import { CONTROL_LENGTH, ControlType, decodeControl, encodeControl } from '../../src/frame/control.js'
import {
  decodeSealed,
  encodeSealed,
  NOBODY,
  SEALED_LENGTH,
  type SealedMessage,
} from '../../src/frame/sealed-control.js'
import fc from '../property.js'

const key = Buffer.from('a key of the lab, long enough')
const destination = Uint8Array.of(2, 0, 0, 0, 0, 1)
const source = Uint8Array.of(2, 0, 0, 0, 0, 2)
const example: SealedMessage = {
  message: {
    type: ControlType.MARKER,
    bootId: '00ff00ff00ff00ff',
    network: 'lab0',
    host: 'a',
    number: 3,
    heard: { bootId: '0123456789abcdef', number: 4 },
    accepts: 1,
    sends: 2,
    takes: true,
    epoch: 7,
    count: 12345,
  },
  sequence: 1_700_000_000_000_001,
  heard: { bootId: 'fedcba9876543210', sequence: 99 },
}

t.test('round trip, with padding', async (t) => {
  const bootId = fc.stringMatching(/^[0-9a-f]{16}$/)
  const heard = fc.oneof(fc.constant(NOBODY), fc.record({ bootId, sequence: fc.maxSafeNat() }))
  fc.assert(
    fc.property(bootId, heard, fc.maxSafeNat(), fc.nat(40), (bootId, heard, sequence, padding) => {
      const written = { message: { ...example.message, bootId }, heard, sequence }
      const padded = new Uint8Array(SEALED_LENGTH + padding).fill(0xaa)
      padded.set(encodeSealed(written, key, destination, source))
      t.same(decodeSealed(padded, key), written)
    }),
    { numRuns: 100 },
  )
})

t.test('the layout is the documented one', async (t) => {
  const bytes = Buffer.from(encodeSealed(example, key, destination, source))
  const plain = Buffer.from(encodeControl(example.message, destination, source))
  plain[18] = 4
  t.same(bytes.subarray(0, CONTROL_LENGTH), plain, 'as without a key, but for the version')
  t.equal(bytes.readBigUInt64BE(CONTROL_LENGTH), BigInt(example.sequence))
  t.equal(bytes.toString('hex', 202, 210), example.heard.bootId)
  t.equal(bytes.readBigUInt64BE(210), 99n)
  t.same(bytes.subarray(218), createHmac('sha256', key).update(bytes.subarray(0, 218)).digest())
})

t.test('no change of a byte survives, the addresses included', async (t) => {
  const bytes = encodeSealed(example, key, destination, source)
  const faults = new Map<string, number>()
  for (let at = 0; at < SEALED_LENGTH; at++) {
    for (const flip of [1, 0x80, 0xff]) {
      const changed = bytes.slice()
      changed[at] ^= flip
      const found = decodeSealed(changed, key)
      if (typeof found !== 'string') t.fail(`a change at ${at} was believed`)
      else faults.set(found, (faults.get(found) ?? 0) + 1)
    }
  }
  t.same([...faults.keys()].sort(), ['control-malformed', 'control-unauthenticated', 'control-version'])
  t.equal(faults.get('control-version'), 3, 'the version')
  t.equal(faults.get('control-malformed'), 12, 'the magic')
})

t.test('another key, no seal, no key, cut short', async (t) => {
  const bytes = encodeSealed(example, key, destination, source)
  t.equal(decodeSealed(bytes, Buffer.from('another key of the lab')), 'control-unauthenticated')
  t.equal(decodeSealed(encodeControl(example.message, destination, source), key), 'control-unauthenticated')
  t.equal(decodeControl(bytes), 'control-version', 'a switch without a key does not take it')
  for (let length = 0; length < SEALED_LENGTH; length++) {
    if (decodeSealed(bytes.subarray(0, length), key) !== 'control-malformed') t.fail(`${length} bytes`)
  }
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => typeof decodeSealed(bytes, key) === 'string'),
    { numRuns: 500 },
  )
})
