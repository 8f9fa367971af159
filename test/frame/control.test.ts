// The codec of control frames: what is written is read, and nothing that a network can do to the bytes makes it throw
// or believe what was not written.

import t from 'tap'
import {
  CONTROL_GROUP,
  CONTROL_LENGTH,
  CONTROL_VERSION,
  type ControlMessage,
  ControlType,
  decodeControl,
  encodeControl,
} from '../../src/frame/control.js'
import fc from '../property.js'

const destination = Uint8Array.of(2, 0, 0, 0, 0, 1)
const source = Uint8Array.of(2, 0, 0, 0, 0, 2)

const name = fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$/)
const message: fc.Arbitrary<ControlMessage> = fc.record({
  type: fc.constantFrom(...Object.values(ControlType)),
  bootId: fc.stringMatching(/^[0-9a-f]{16}$/),
  network: name,
  host: name,
  number: fc.maxSafeNat(),
  heard: fc.record({ bootId: fc.stringMatching(/^[0-9a-f]{16}$/), number: fc.maxSafeNat() }),
  accepts: fc.integer({ min: 0, max: 3 }),
  sends: fc.integer({ min: 0, max: 3 }),
  takes: fc.boolean(),
  epoch: fc.nat({ max: 0xffffffff }),
  count: fc.maxSafeNat(),
})

const example: ControlMessage = {
  type: ControlType.MARKER,
  bootId: '00ff00ff00ff00ff',
  network: 'lab0',
  host: 'a',
  number: 3,
  heard: { bootId: 'fedcba9876543210', number: 4 },
  accepts: 1,
  sends: 2,
  takes: false,
  epoch: 7,
  count: 12345,
}

t.test('round trip', async (t) => {
  fc.assert(
    fc.property(message, fc.nat(40), (written, padding) => {
      const bytes = encodeControl(written, destination, source)
      t.equal(bytes.length, CONTROL_LENGTH)
      const padded = new Uint8Array(bytes.length + padding).fill(0xaa)
      padded.set(bytes)
      t.same(decodeControl(padded), written)
    }),
    { numRuns: 200 },
  )
})

t.test('the layout is the documented one', async (t) => {
  const bytes = Buffer.from(encodeControl(example, destination, source))
  t.same(bytes.subarray(0, 6), Buffer.from(destination))
  t.same(bytes.subarray(6, 12), Buffer.from(source))
  t.equal(bytes.readUInt16BE(12), 0x88b5)
  t.equal(bytes.toString('latin1', 14, 18), 'SNSW')
  t.equal(bytes[18], CONTROL_VERSION)
  t.equal(bytes[19], ControlType.MARKER)
  t.equal(bytes[20], 1)
  t.equal(bytes[21], 2 + 4)
  t.equal(bytes.toString('hex', 22, 30), example.bootId)
  t.equal(bytes.toString('latin1', 30, 94), 'lab0'.padEnd(64, '\0'))
  t.equal(bytes.toString('latin1', 94, 158), 'a'.padEnd(64, '\0'))
  t.equal(bytes.readUInt32BE(158), 7)
  t.equal(bytes.readBigUInt64BE(162), 12345n)
  t.equal(bytes.readBigUInt64BE(170), 3n)
  t.equal(bytes.toString('hex', 178, 186), example.heard.bootId)
  t.equal(bytes.readBigUInt64BE(186), 4n)
  t.equal(CONTROL_GROUP[0] & 3, 3, 'a locally administered group address')
})

t.test('a view into larger memory is read at its own offset', async (t) => {
  const memory = new Uint8Array(CONTROL_LENGTH + 100)
  memory.set(encodeControl(example, destination, source), 51)
  t.same(decodeControl(memory.subarray(51, 51 + CONTROL_LENGTH)), example)
})

t.test('cut short at any length it is malformed', async (t) => {
  const bytes = encodeControl(example, destination, source)
  for (let length = 0; length < CONTROL_LENGTH; length++) {
    const found = decodeControl(bytes.subarray(0, length))
    if (found !== 'control-malformed') t.fail(`${length} bytes: ${JSON.stringify(found)}`)
  }
})

t.test('every change of one byte is refused, or read as a well-formed message', async (t) => {
  const bytes = encodeControl(example, destination, source)
  let refused = 0
  for (let at = 0; at < CONTROL_LENGTH; at++) {
    for (let value = 0; value < 256; value++) {
      const changed = bytes.slice()
      changed[at] = value
      const found = decodeControl(changed)
      if (typeof found === 'string') refused++
      else check(found)
    }
  }
  t.ok(refused > 1000, `${refused} changes were refused`)
})

t.test('random bytes, and random changes of many bytes, never make it throw', async () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      const found = decodeControl(bytes)
      if (typeof found !== 'string') check(found)
    }),
    { numRuns: 500 },
  )
  const changes = fc.array(fc.tuple(fc.integer({ min: 14, max: CONTROL_LENGTH - 1 }), fc.nat(255)), { maxLength: 6 })
  fc.assert(
    fc.property(message, changes, (written, list) => {
      const bytes = encodeControl(written, destination, source)
      for (const [at, value] of list) bytes[at] = value
      const found = decodeControl(bytes)
      if (typeof found !== 'string') check(found)
    }),
    { numRuns: 1000 },
  )
})

t.test('version, type, generations, names and counts', async (t) => {
  const changed = (at: number, ...values: number[]) => {
    const bytes = encodeControl(example, destination, source)
    bytes.set(values, at)
    return decodeControl(bytes)
  }
  t.equal(changed(14, 0), 'control-malformed', 'magic')
  t.equal(changed(18, 1), 'control-version', 'before generations')
  t.equal(changed(18, 0), 'control-version')
  t.equal(changed(19, 0), 'control-malformed', 'type')
  t.equal(changed(19, 5), 'control-malformed', 'type')
  t.equal(changed(20, 4), 'control-malformed', 'no generation')
  t.equal(changed(21, 8), 'control-malformed', 'no generation')
  t.equal(changed(30, 0), 'control-malformed', 'no network name')
  t.equal(changed(30, 0x2f), 'control-malformed', 'a slash')
  t.equal(changed(94, 0xc3, 0xa4), 'control-malformed', 'beyond ASCII')
  t.equal(changed(30, ...new Array(64).fill(0x61)), 'control-malformed', '64 characters')
  t.equal(changed(162, 0xff), 'control-malformed', 'a count beyond 2^53')
  t.equal(changed(35, 0x2f), 'control-malformed', 'something after the end of a name')
})

function check(found: ControlMessage): void {
  const fits =
    Object.values(ControlType).includes(found.type) &&
    /^[0-9a-f]{16}$/.test(found.bootId) &&
    /^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$/.test(found.network) &&
    /^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$/.test(found.host) &&
    Number.isSafeInteger(found.epoch) &&
    Number.isSafeInteger(found.count) &&
    found.count >= 0
  if (!fits) throw new Error(`read as ${JSON.stringify(found)}`)
}
