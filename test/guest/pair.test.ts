// Two real guests, back to back over a QEMU stream socket (no switch): the ring must end with the very value that
// guest/expected.ts computes, the UDP streams without loss; a damaged disk record must be reported by its own guest
// only.

import { closeSync, mkdtempSync, openSync, rmSync, truncateSync, writeFileSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { bitsOf, ringResult } from '../../guest/expected.js'
import { until } from '../lab/command.js'
import { type Guest, type GuestJob, startGuest } from '../lab/guest.js'
import { guestImage } from '../lab/image.js'
import { end } from '../lab/processes.js'
import { fileLimit } from '../patience.js'

t.setTimeout(fileLimit(180_000))

const addresses = ['10.77.0.1', '10.77.0.2']

async function startPair(directory: string, job: (node: number) => Partial<GuestJob>): Promise<[Guest, Guest]> {
  const start = (node: number) => {
    const disk = join(directory, `disk${node}.img`)
    writeFileSync(disk, '')
    truncateSync(disk, 1 << 20)
    const socket = `addr.type=unix,addr.path=${join(directory, 'wire')}`
    return startGuest({
      name: `node${node}`,
      directory,
      mac: `52:54:00:77:00:0${node + 1}`,
      netdev: node === 0 ? `stream,server=on,${socket}` : `stream,server=off,${socket}`,
      disk: { file: disk, format: 'raw' },
      job: { ip: `${addresses[node]}/24`, node, ring: addresses, ...job(node) },
      memoryMiB: 128,
    })
  }
  const first = await start(0)
  // A stream netdev connects once, at start: the listening side must be there.
  await first.console.started(60_000)
  return [first, await start(1)]
}

async function withPair(
  test: Test,
  job: (node: number) => Partial<GuestJob>,
  body: (pair: [Guest, Guest], directory: string) => Promise<void>,
): Promise<void> {
  await guestImage()
  const directory = mkdtempSync(join(tmpdir(), 'snapswitch-guest-'))
  const pair = await startPair(directory, job)
  test.teardown(async () => {
    await end(
      pair.map((guest) => guest.id),
      0,
    )
    rmSync(directory, { recursive: true, force: true })
  })
  await body(pair, directory)
}

t.test('an undisturbed run ends with the computed result', async (t) => {
  const hops = 1500
  const job = (node: number) => ({
    hops,
    hopDelayUs: 500,
    journalEvery: 5,
    send: node === 0 ? ['1@10.77.0.2:5001/300/600'] : ['2@10.77.0.1:5002/300'],
    receive: node === 0 ? ['2@5002'] : ['1@5001'],
  })
  await withPair(t, job, async (pair) => {
    for (const guest of pair) {
      const done = await guest.console.done(90_000)
      t.same(guest.console.errors, [], 'no error line')
      t.equal(done.ring?.value, bitsOf(ringResult(2, hops)))
      t.match(done.ring, { finished: true, failed: false, resets: 0, duplicated: 0, skipped: 0, corrupt: 0 })
      t.equal(done.disk?.sequence, hops / 2 / 5, 'a journal record every five own hops')
      t.match(done.disk, { mismatches: 0, errors: 0 })
      t.ok(done.disk!.verified > done.disk!.sequence, 'the journal was read back before each write and at the end')
      for (const sent of done.send) t.match(sent, { errors: 0, acknowledged: true })
      const clean = { lost: 0, doubled: 0, reordered: 0, stale: 0, corrupt: 0, overruns: 0, ended: true }
      for (const received of done.receive) t.match(received, clean)
    }
  })
})

t.test('a damaged disk record is reported by its own guest', async (t) => {
  await withPair(
    t,
    () => ({ hops: 3000, hopDelayUs: 500, journalEvery: 5 }),
    async ([damaged, whole], directory) => {
      const sequence = () => damaged.console.state?.disk?.sequence
      await until('a few journal records', 60_000, () => ((sequence() ?? 0) >= 20 ? true : undefined))
      t.same(damaged.console.errors, [])
      // Slot 3, one byte in the middle of the filling: not the record written last, and no field of it.
      const disk = openSync(join(directory, 'disk0.img'), 'r+')
      writeSync(disk, Buffer.from([0xa5]), 0, 1, 3 * 4096 + 2000)
      closeSync(disk)
      const error = await damaged.console.error('disk_mismatch', 30_000)
      t.match(error, { node: 0, slot: 3, disk: { intact: true } })
      t.same(whole.console.errors, [], 'the other guest has nothing to report')
      // Its reports come once a second: on a loaded machine the first may not be here yet.
      const disk1 = await until('a report of the other guest', 30_000, () => whole.console.state?.disk)
      t.equal(disk1.mismatches, 0)
    },
  )
})
