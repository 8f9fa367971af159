// `snapshot flatten`: what a snapshot's disks hold, each in one image instead of a chain. In two steps, so that no
// crash leaves the coordinator's manifest with files that nobody keeps: copies are made, named by nothing yet (they are
// kept like others for restores); when the manifest names them, this host's part does, too, and layers that no other
// needs are merged as ever. Copies that come to nothing go again: when a later disk fails, by this host; when another
// host fails, by the coordinator's word. Frozen images are only read.

import { rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { withDisks } from '../../../src/api/files.js'
import type { FlatDisks, FrozenDiskRecord, LocalPart } from '../../../src/api/schemas.js'
import { SnapswitchError } from '../../../src/errors/errors.js'
import { makeDirectory, syncFile } from '../../../src/files/durable.js'
import type { Deadline, FrozenDisk } from '../../../src/hypervisor/hypervisor.js'
import { copyChain } from '../../../src/hypervisor/shared/qemu-img.js'
import type { DaemonHost } from '../host.js'
import { directoryMode } from '../images.js'
import { locateFiles } from '../located-files.js'
import type { DiskKeeper } from './keeper.js'

/**
 * Copies the chains of all disks that stand on more than one image. Throws SNAPSHOT_UNKNOWN, STORE_DAMAGED, STORE_FULL.
 */
export function flattenPart(
  host: Pick<DaemonHost, 'store'>,
  keeper: Pick<DiskKeeper, 'exclusively' | 'soon'>,
  network: string,
  snapshot: string,
  deadline: Deadline,
): Promise<FlatDisks> {
  return keeper.exclusively(async () => {
    const part = await host.store.partAsWritten(network, snapshot)
    const made = new Set<string>()
    try {
      return await flattenMembers(host, part, deadline, made)
    } catch (thrown) {
      // Nobody is told of them, and no manifest will name them.
      await host.store.images.release([...made])
      keeper.soon()
      throw thrown
    }
  })
}

/** `made`: is given the contents of which there was no copy before. */
async function flattenMembers(
  host: Pick<DaemonHost, 'store'>,
  part: LocalPart,
  deadline: Deadline,
  made: Set<string>,
): Promise<FlatDisks> {
  const members: FlatDisks['members'] = []
  for (const member of part.members) {
    const long = member.disks.filter(({ layers }) => layers.length > 1)
    if (long.length === 0) continue
    const located = await locateFiles(await host.store.images.finder(), { ...member, disks: long })
    const disks: FrozenDiskRecord[] = []
    for (const [at, record] of long.entries()) {
      await checkRoom(host, record)
      disks.push(await flatten(host, record, located.disks[at]!, deadline, made))
    }
    members.push({ vm: member.vm, disks })
  }
  return { members }
}

/** The part names the copies from now on. Harmless when it does already. Throws SNAPSHOT_UNKNOWN, STORE_DAMAGED. */
export function adoptFlat(
  host: DaemonHost,
  keeper: DiskKeeper,
  network: string,
  snapshot: string,
  { members }: FlatDisks,
): Promise<void> {
  return keeper
    .exclusively(async () => {
      const part = await host.store.partAsWritten(network, snapshot)
      const files = members.flatMap(({ disks }) => disks.flatMap(({ layers }) => layers.map(({ file }) => file)))
      const find = await host.store.images.finder()
      for (const file of files) {
        if ((await find(file)) === null)
          throw new SnapswitchError('STORE_DAMAGED', `${file.path} is not here`, 'Flatten the snapshot again.')
      }
      await host.store.writePart(withDisks(part, members))
      // From here on the part keeps them, and nothing else does.
      await host.store.images.release(files.map(({ digest }) => digest))
      await keeper.protect()
    })
    .finally(() => keeper.soon())
}

async function flatten(
  host: Pick<DaemonHost, 'store'>,
  { name, overlay }: FrozenDiskRecord,
  { layers }: FrozenDisk,
  deadline: Deadline,
  made: Set<string>,
): Promise<FrozenDiskRecord> {
  const { images } = host.store
  await makeDirectory(images.directory, directoryMode)
  const temporary = join(images.directory, `flat.${process.hrtime.bigint()}.new`)
  try {
    await copyChain(layers, temporary, deadline)
    await syncFile(temporary)
    const { digest, bytes } = await host.store.reference(temporary)
    const path = join(images.directory, digest)
    if (!(await images.keeps(digest))) made.add(digest)
    await rename(temporary, path)
    await syncFile(images.directory)
    return { name, overlay, layers: [{ file: { path, bytes, digest }, format: 'qcow2' }] }
  } finally {
    await rm(temporary, { force: true })
  }
}

async function checkRoom(host: Pick<DaemonHost, 'store'>, { name, layers }: FrozenDiskRecord): Promise<void> {
  const needed = layers.reduce((sum, { file, data }) => sum + file.bytes + (data?.bytes ?? 0), 0)
  const free = await host.store.freeBytes()
  if (free >= needed) return
  throw new SnapswitchError(
    'STORE_FULL',
    `disk ${name} may take ${needed} bytes in one image, and ${free} are free in ${host.store.state}`,
    'Free space there, or delete snapshots that are not needed.',
  )
}
