// Agreements and carriers on the wire: what is written is read, what is damaged is refused or makes sense.

import t from 'tap'
import {
  type Agreement,
  appendAgreement,
  decodeAgreement,
  encodeAgreement,
  MAX_CLAIMS,
  NONE,
  readAgreement,
} from '../../src/frame/agreement.js'
import fc from '../property.js'

const u32 = fc.integer({ min: 0, max: 0xffffffff })
const color = fc.integer({ min: NONE, max: 0xfffffffe })
const mac = fc.integer({ min: 0, max: 2 ** 48 - 1 })
const agreement: fc.Arbitrary<Agreement> = fc.record({
  heard: fc.uint8Array({ minLength: 8, maxLength: 8 }).map((bytes) => Buffer.from(bytes).toString('hex')),
  carries: fc.boolean(),
  version: u32,
  held: u32,
  read: u32,
  readsFrom: color,
  lowest: color,
  refused: fc.array(fc.boolean(), { minLength: MAX_CLAIMS, maxLength: MAX_CLAIMS }),
  claims: fc.array(mac, { maxLength: MAX_CLAIMS }),
})
const head = new Uint8Array(170).fill(7)
const key = new Uint8Array(32).fill(1)

t.test('written, read, with padding behind it', async () => {
  fc.assert(
    fc.property(agreement, fc.nat(60), (made, padding) => {
      const padded = Buffer.concat([encodeAgreement(made), Buffer.alloc(padding)])
      return JSON.stringify(decodeAgreement(padded)) === JSON.stringify(made)
    }),
  )
})

t.test('the longest fits an ordinary frame with head and seal', async (t) => {
  const claims = Array.from({ length: MAX_CLAIMS }, (_, at) => at)
  const made = fc.sample(agreement, 1)[0]
  t.ok(appendAgreement(new Uint8Array(226), encodeAgreement({ ...made, claims }), key).length <= 1514)
})

t.test('under a key: any change is refused, and so is none', async () => {
  fc.assert(
    fc.property(agreement, fc.nat(), fc.integer({ min: 1, max: 255 }), (made, place, change) => {
      const sealed = Uint8Array.from(appendAgreement(head, encodeAgreement(made), key))
      if (readAgreement(sealed, head.length, key) === null) return false
      sealed[place % sealed.length] ^= change
      return (
        readAgreement(sealed, head.length, key) === null &&
        readAgreement(appendAgreement(head, encodeAgreement(made), null), head.length, key) === null
      )
    }),
  )
})

t.test('cut short or nonsense: refused, never thrown', async () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      const decoded = decodeAgreement(bytes)
      return decoded === null || bytes.length >= 64 + decoded.claims.length * 6
    }),
  )
})
