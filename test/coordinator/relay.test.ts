// Files on their way between hosts: how far they have come, and whose fault it is when they do not.

import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import t from 'tap'
import { relay } from '../../coordinator/relay.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import { patience } from '../patience.js'

const content = Buffer.alloc(300_000, 7)
const file = { path: '/disk.img', bytes: content.length, digest: createHash('sha256').update(content).digest('hex') }
const transfer = { file, from: 'a', to: 'b', others: [] }

function pieces(upTo: number): Buffer[] {
  const found = []
  for (let at = 0; at < upTo; at += 50_000) found.push(content.subarray(at, at + 50_000))
  return found
}

/** Ends when the call is called off, as a client's requests do. */
function calledOff(signal: AbortSignal | undefined): Promise<never> {
  return new Promise((_, reject) => {
    signal?.addEventListener('abort', () => reject(new SnapswitchError('SNAPSHOT_DISCARDED', 'called off', '')))
  })
}

interface Ends {
  readonly download?: () => Readable
  readonly upload?: (body: Readable, signal: AbortSignal | undefined) => Promise<unknown>
}

async function run({ download, upload }: Ends) {
  let bytes = 0
  const source = { downloadFile: async () => (download ?? (() => Readable.from(pieces(content.length))))() }
  const target = {
    async uploadFile(_n: string, _s: string, _f: unknown, body: Readable, { signal }: { signal?: AbortSignal }) {
      await Promise.race([(upload ?? buffer)(body, signal), calledOff(signal)])
    },
  }
  await relay(transfer, {
    network: 'lab0',
    snapshot: 's',
    source,
    target,
    timeoutMs: 60_000,
    onBytes: (more) => {
      bytes += more
    },
    stalledAfterMs: patience(50),
  })
  return bytes
}

t.test('all bytes are counted', async (t) => {
  t.equal(await run({}), content.length)
})

t.test('a source that sends nothing more is named', async (t) => {
  const half = () => {
    const stream = new Readable({ read: () => {} })
    for (const piece of pieces(100_000)) stream.push(piece)
    return stream
  }
  await t.rejects(run({ download: half }), {
    code: 'DEADLINE',
    message: 'host a sends nothing more of /disk.img (100000 of 300000 bytes went from host a to host b)',
  })
})

t.test('a receiver that takes nothing more is named', async (t) => {
  await t.rejects(run({ upload: (_body, signal) => calledOff(signal) }), {
    code: 'DEADLINE',
    message: /^host b takes nothing more of/,
  })
})

t.test('a receiver that makes durable what it has got is waited for', async (t) => {
  const upload = async (body: Readable) => {
    await buffer(body)
    await new Promise((resolve) => setTimeout(resolve, patience(150)))
  }
  t.equal(await run({ upload }), content.length)
})

t.test('errors name the host that they are about', async (t) => {
  const gone = () => {
    throw new SnapswitchError('STORE_DAMAGED', '/disk.img is missing', 'Bring it back.')
  }
  await t.rejects(run({ download: gone }), { code: 'STORE_DAMAGED', message: 'host a: /disk.img is missing' })
  const full = async () => {
    throw new SnapswitchError('STORE_FULL', 'no space left', 'Free space.')
  }
  await t.rejects(run({ upload: full }), { code: 'STORE_FULL', message: 'host b: no space left' })
  const other = async () => {
    throw new SnapswitchError('STORE_DAMAGED', 'what was sent is not the file', 'Try again.')
  }
  await t.rejects(run({ upload: other }), { message: 'what host a sent for /disk.img is not that file any more' })
  const torn = () =>
    new Readable({
      read() {
        this.destroy(new SnapswitchError('SOCKET_UNREACHABLE', 'it closed the connection', 'Start it.'))
      },
    })
  await t.rejects(
    run({
      download: torn,
      upload: async (body) => {
        await buffer(body)
      },
    }),
    { code: 'SOCKET_UNREACHABLE', message: 'host a: it closed the connection' },
  )
})
