// `snapshot create --verify`: each image of this host's part is loaded into a throw-away machine, paused, on overlays
// of its own, cut off from every network; then that is ended. What came of it goes into part.json. One machine at a
// time: each takes as much memory as its guest has.

import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { LocalPart, MemberPart, Rehearsal, Verdict } from '../../src/api/schemas.js'
import { asSnapswitchError } from '../../src/errors/errors.js'
import { makeDirectory } from '../../src/files/durable.js'
import { whyNotTwice } from '../../src/hypervisor/drivers.js'
import type { Deadline, MachineDefinition } from '../../src/hypervisor/hypervisor.js'
import { availableBytes } from '../../src/linux/memory.js'
import type { DiskKeeper } from './disks/keeper.js'
import type { DaemonHost } from './host.js'
import { locateFiles } from './located-files.js'

const END_MS = 10_000
/** What QEMU needs besides the guest's memory, and the host to go on as before. */
const SPARE_BYTES = 256 << 20

/** What keeps a machine from being tried, and says nothing of its image. */
const untold: ReadonlySet<string> = new Set(['DEADLINE', 'STORE_FULL', 'PERMISSION'])

const unknown = (reason: string): Verdict => ({ verdict: 'unknown', reason })

/** Loads every machine's image. Throws SNAPSHOT_UNKNOWN; what does not load is told, not thrown. */
export async function rehearse(
  host: DaemonHost,
  keeper: Pick<DiskKeeper, 'exclusively'>,
  network: string,
  snapshot: string,
  deadline: Deadline,
): Promise<Rehearsal> {
  const part = await host.store.partAsWritten(network, snapshot)
  const began = performance.now()
  const members: Rehearsal['members'] = []
  for (const member of part.members) {
    const verified = await rehearseMember(host, member, deadline)
    host.log.info({ vm: member.vm, snapshot, ...verified }, 'tried to load an image')
    members.push({ vm: member.vm, verified })
  }
  await keeper.exclusively(() => note(host, part, members))
  return { members, tookMs: performance.now() - began }
}

/** The snapshot may have been deleted since its part was read, and taken anew; or its disks lie in other files now. */
async function note({ store }: DaemonHost, tried: LocalPart, verdicts: Rehearsal['members']): Promise<void> {
  const part = await store.readPart(tried.network, tried.snapshot)
  if (part === null || part.epoch !== tried.epoch) return
  const members = part.members.map((member) => {
    const verdict = verdicts.find(({ vm }) => vm === member.vm)
    return verdict === undefined ? member : { ...member, verified: verdict.verified }
  })
  await store.writePart({ ...part, members })
}

/** Where throw-away machines live, one at a time. */
export const rehearsalDirectory = (host: DaemonHost) => join(host.store.state, 'rehearsal')

async function rehearseMember(host: DaemonHost, part: MemberPart, deadline: Deadline): Promise<Verdict> {
  const definition = part.definition as MachineDefinition
  const impossible = whyNotTwice(definition)
  if (impossible !== null) return unknown(impossible)
  if (performance.now() >= deadline) return unknown('there was no time left')
  const free = availableBytes()
  if (free !== null && free < definition.memoryBytes + SPARE_BYTES)
    return unknown(
      `this host has ${Math.floor(free / 2 ** 20)} MiB of memory to spare, too little for another one like it`,
    )
  const directory = rehearsalDirectory(host)
  try {
    await clearRehearsal(host)
    await makeDirectory(directory, 0o700)
    const located = await locateFiles(await host.store.images.finder(), part)
    const taps = definition.nics.map(({ device }) => device)
    const { control } = await host.machines.load({ definition, ...located, taps, directory, rehearsal: true }, deadline)
    await control.destroy(performance.now() + END_MS)
    return { verdict: 'loads', reason: null }
  } catch (thrown) {
    const error = asSnapswitchError(thrown)
    return untold.has(error.code) ? unknown(error.message) : { verdict: 'fails', reason: error.message }
  } finally {
    await clearRehearsal(host).catch((thrown) => host.log.error({ err: thrown }, 'cannot end a throw-away machine'))
  }
}

/** Ends what a killed daemon has left of one, too. */
export async function clearRehearsal(host: DaemonHost): Promise<void> {
  const directory = rehearsalDirectory(host)
  await host.machines.endRehearsal(directory, performance.now() + END_MS)
  await rm(directory, { recursive: true, force: true })
}
