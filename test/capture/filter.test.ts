// The words of filters, and the stream of records, as pure functions: whatever is written is read or refused by name,
// and a stream is the same however it is cut into pieces.

import t from 'tap'
import { parseFilter } from '../../src/capture/filter.js'
import { encodeJson, RecordKind, readRecords } from '../../src/capture/stream.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import fc from '../property.js'

t.test('filters mean what they say', async (t) => {
  const port = (name: string) => ({ kind: 'port', name })
  t.equal(parseFilter('  '), null)
  t.same(parseFilter('port a or port b and not in'), {
    kind: 'any',
    of: [port('a'), { kind: 'all', of: [port('b'), { kind: 'not', of: { kind: 'direction', direction: 'in' } }] }],
  })
  t.same(parseFilter('(port a||port b) vlan'), {
    kind: 'all',
    of: [
      { kind: 'any', of: [port('a'), port('b')] },
      { kind: 'vlan', vlan: null },
    ],
  })
  t.same(parseFilter('src 52-54-00-AA-bb-0c'), { kind: 'mac', mac: '52:54:00:aa:bb:0c', side: 'src' })
  t.same(parseFilter('ethertype 0x88CC'), parseFilter('ethertype 35020'))
  for (const wrong of [
    'port',
    'or in',
    'in or',
    '(in',
    'in)',
    'vlan 4095',
    'mac 1',
    'ethertype 70000',
    'elsewhere',
    'not',
  ])
    t.throws(() => parseFilter(wrong), { code: 'REQUEST_INVALID' }, wrong)
  t.throws(() => parseFilter(`${'('.repeat(100)}in${')'.repeat(100)}`), { code: 'REQUEST_INVALID' })
})

t.test('any text is a filter or is refused', async () => {
  const word = fc.constantFrom(
    'port',
    'a',
    'vm',
    'in',
    'out',
    'and',
    'or',
    'not',
    '(',
    ')',
    'vlan',
    '7',
    'dropped',
    'reason',
  )
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.array(word, { maxLength: 20 }).map((words) => words.join(' ')),
      ),
      (text) => {
        try {
          parseFilter(text)
        } catch (error) {
          if (!(error instanceof SnapswitchError)) throw error
        }
      },
    ),
  )
})

t.test('a stream in any pieces has the same records', async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.string(), { maxLength: 20 }),
      fc.array(fc.nat(60), { maxLength: 50 }),
      async (texts, cuts) => {
        const whole = Buffer.concat(texts.map((text) => encodeJson(RecordKind.PORT, text)))
        const pieces: Buffer[] = []
        let at = 0
        for (const cut of cuts) {
          pieces.push(whole.subarray(at, at + cut))
          at += cut
        }
        pieces.push(whole.subarray(at))
        const read: string[] = []
        for await (const contents of readRecords(streamOf(pieces)))
          for (const content of contents) read.push(JSON.parse(content.toString('utf8', 8)))
        t.same(read, texts)
      },
    ),
    { numRuns: 50 },
  )
})

t.test('what is no stream is refused', async (t) => {
  const bad = Buffer.alloc(64, 0xff)
  await t.rejects(
    async () => {
      for await (const _ of readRecords(streamOf([bad])));
    },
    { code: 'INTERNAL' },
  )
})

async function* streamOf(pieces: readonly Buffer[]): AsyncGenerator<Buffer> {
  yield* pieces
}
