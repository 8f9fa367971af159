// Snapshots of one host flattened, with a real machine: the copy holds what the chain held, the machine runs on
// undisturbed, an image of a flattened snapshot loads, and layers that only it needed are merged.

import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { readReport, until } from '../hypervisor/boot-guest.js'
import { fileLimit, patience } from '../patience.js'
import { LONG, qemuHost, takePart } from './qemu-host.js'
import { root } from './world.js'

const exec = promisify(execFile)
t.setTimeout(fileLimit(180_000))

t.test('three snapshots, the last one flattened', root, async (t) => {
  const { world, guest, start } = await qemuHost(t)
  const daemon = await start()
  const { client } = daemon
  const take = async (snapshot: string, epoch: number) => {
    const part = await takePart(daemon, snapshot, epoch)
    const { count } = readReport(guest.serial)
    await until('the guest to write', () => readReport(guest.serial).count > count + 2)
    return part
  }
  await take('s1', 1)
  await take('s2', 2)
  const before = await take('s3', 3)
  const [disk] = before.members[0]!.disks
  t.equal(disk!.layers.length, 3)
  const chain = disk!.layers.map(({ file }) => file.path)
  const made = await client.flattenPart('lab0', 's3', { deadlineMs: patience(60_000) }, LONG)
  t.same(await client.part('lab0', 's3', LONG), before, 'nothing names the copy yet')
  const [flat] = made.members[0]!.disks
  t.equal(flat!.layers.length, 1)
  const copy = flat!.layers[0]!.file
  t.equal(dirname(copy.path), join(world.state('host'), 'images'))
  const compared = await exec('qemu-img', ['compare', '-U', '-f', 'qcow2', '-F', 'qcow2', chain[0]!, copy.path])
  t.match(compared.stdout, /Images are identical/)
  const wrong = {
    members: [
      {
        vm: 'vm0',
        disks: [{ ...flat!, layers: [{ ...flat!.layers[0]!, file: { ...copy, digest: '0'.repeat(64) } }] }],
      },
    ],
  }
  await t.rejects(client.adoptFlat('lab0', 's3', wrong, LONG), { code: 'STORE_DAMAGED' })
  await client.adoptFlat('lab0', 's3', made, LONG)
  await client.adoptFlat('lab0', 's3', made, LONG)
  t.same((await client.part('lab0', 's3', LONG)).members[0]!.disks, [flat])
  t.same(
    await client.flattenPart('lab0', 's3', { deadlineMs: patience(60_000) }, LONG),
    { members: [] },
    'nothing more to do',
  )
  const { members } = await client.rehearse('lab0', 's3', { deadlineMs: patience(50_000) }, LONG)
  t.same(members, [{ vm: 'vm0', verified: { verdict: 'loads', reason: null } }])
  // The flattened one needs none of the machine's layers any more: with the others gone its disk is one file again.
  await client.deleteSnapshot('lab0', 's1', null, LONG)
  await client.deleteSnapshot('lab0', 's2', null, LONG)
  const [now] = (await client.machineDisks('vm0', LONG)).disks
  t.same(
    now!.layers.map(({ file }) => file),
    [chain.at(-1)],
  )
  t.same(
    chain.slice(0, -1).filter((file) => existsSync(file)),
    [],
  )
  const { count } = readReport(guest.serial)
  await until('the guest to run on', () => readReport(guest.serial).count > count + 3)
  t.equal(readReport(guest.serial).complaints, '')
  await client.deleteSnapshot('lab0', 's3', null, LONG)
  t.notOk(existsSync(copy.path), 'the copy goes with its snapshot')
  t.equal(await daemon.stop(), 0)
})
