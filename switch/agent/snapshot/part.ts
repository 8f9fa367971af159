// Writes one host's part of a snapshot: the channel state, the definitions, and part.json that names every file by
// digest.

import { join } from 'node:path'
import type { ChannelClosure, FileReference, FrozenLayer, LocalPart, MemberPart } from '../../../src/api/schemas.js'
import { VNET_HEADER_LENGTH } from '../../../src/frame/frame.js'
import type { DiskLayer, FrozenDisk, MachineDefinition, ProcessUser } from '../../../src/hypervisor/hypervisor.js'
import { openAsUser } from '../../../src/hypervisor/shared/as-user.js'
import { writeChannel } from '../../../src/trace/channel.js'
import { writeHeld } from '../../../src/trace/held.js'
import type { HeldFrame } from '../../forwarding/snapshot/held-frames.js'
import type { ChannelClosed } from '../../forwarding/snapshot/open-snapshot.js'
import type { Host } from '../host.js'
import { nicOn } from '../machines.js'
import { countersOf, type Member, type SessionRequest } from './member.js'
import type { Recording } from './recording.js'

/**
 * Takes the channel state from the datapath and makes the host's part of the snapshot durable, part.json last. Throws
 * the signal's reason when nobody wants it any more.
 */
export async function writePart(
  host: Host,
  request: SessionRequest,
  machines: readonly Member[],
  recording: Recording | null,
  signal: AbortSignal,
): Promise<LocalPart> {
  const { network, snapshot, epoch } = request
  const { frames, overflow, closures, held } = await host.datapath.call('end', { network })
  const channelFrames = frames.map((frame) => {
    const port = host.ports.byIndex(frame.port)
    return {
      port: port?.name ?? `port-${frame.port}`,
      vm: port?.vm ?? 'unknown',
      color: frame.copy.color,
      verdict: frame.verdict,
      timeNs: BigInt(Math.round(frame.at * 1000)) * 1000n,
      vnetHeader: frame.copy.bytes.subarray(0, VNET_HEADER_LENGTH),
      vlanTag: frame.copy.tagTpid === 0 ? null : { tpid: frame.copy.tagTpid, tci: frame.copy.tagTci },
      bytes: frame.copy.bytes.subarray(VNET_HEADER_LENGTH),
    }
  })
  const channel = await host.store.writeFile(
    network,
    snapshot,
    join('hosts', host.name, 'channel.pcapng'),
    writeChannel(channelFrames),
  )
  const members: MemberPart[] = []
  for (const member of machines) {
    for (const port of member.ports) member.lost += overflow.get(port.index) ?? 0
    const recorded = channelFrames.filter((frame) => frame.vm === member.vm).length
    members.push(await memberPart(host, request, member, recorded, signal))
  }
  const part: LocalPart = {
    host: host.name,
    bootId: host.datapath.bootId,
    network,
    snapshot,
    epoch,
    members,
    channel,
    closures: closureRecords(host, closures),
    ...(held.length === 0 ? {} : { held: await heldFile(host, request, held) }),
    ...(recording === null ? {} : await recording.write()),
  }
  signal.throwIfAborted()
  // Before the part: a machine whose disk is not known to be on its overlay could lose it.
  for (const { vm, seal } of machines) {
    const chains = seal!.disks.map((disk) => [disk.name, chainAfter(disk)] as const)
    await host.disks.learn(vm, Object.fromEntries(chains))
  }
  await host.store.writePart(part)
  return part
}

function heldFile(
  { ports, store, name }: Host,
  { network, snapshot }: SessionRequest,
  held: readonly HeldFrame[],
): Promise<FileReference> {
  const frames = held.map(({ port: index, at, ...frame }) => {
    const port = ports.byIndex(index)
    const timeNs = BigInt(Math.round(at * 1000)) * 1000n
    return { ...frame, port: port?.name ?? `port-${index}`, vm: port?.vm ?? 'unknown', timeNs }
  })
  return store.writeFile(network, snapshot, join('hosts', name, 'held.pcapng'), writeHeld(frames))
}

/** What the machine writes to from the cut on. */
function chainAfter({ overlay, layers, copied }: FrozenDisk): DiskLayer[] {
  return [{ file: overlay, format: 'qcow2' }, ...layers.slice(copied === true ? 1 : 0)]
}

async function memberPart(
  host: Host,
  request: SessionRequest,
  member: Member,
  recorded: number,
  signal: AbortSignal,
): Promise<MemberPart> {
  const { store, ports } = host
  const { network, snapshot } = request
  const seal = member.seal!
  const after = countersOf(host, member.ports)
  const files = [...(member.definition.files ?? []), ...(seal.files ?? [])]
  const needed = { ...member.definition, ...(files.length === 0 ? {} : { files }) }
  const definition = JSON.parse(JSON.stringify(needed)) as MachineDefinition
  await store.writeFile(
    network,
    snapshot,
    join('vms', member.vm, 'definition.json'),
    JSON.stringify(definition, null, 2),
  )
  const disks = await Promise.all(
    seal.disks.map(async (disk) => ({
      name: disk.name,
      overlay: disk.overlay,
      ...(disk.copied === true ? { copied: true } : {}),
      layers: await frozenLayers(store, disk.layers, signal),
    })),
  )
  const media = await Promise.all(
    member.info.media.map(async ({ name, file, format, removable, backing = [] }) => ({
      name,
      file: file === null ? null : await store.reference(file, signal),
      format,
      removable,
      ...(backing.length > 0 && { backing: await frozenLayers(store, backing, signal) }),
    })),
  )
  const references = await Promise.all(
    (definition.files ?? []).map(async ({ role, path }) => ({
      role,
      file: await fileReference(store, path, definition.user, signal),
    })),
  )
  const outside = member.info.nics.flatMap(({ device }) => ports.outside(device) ?? [])
  return {
    vm: member.vm,
    ports: [...member.ports, ...member.otherPorts].map((port) => ({
      ...ports.record(port, nicOn(member.info, port.device)?.mac ?? null),
      ...(port.network === network ? {} : { network: port.network }),
    })),
    definition,
    ...(outside.length === 0 ? {} : { outside }),
    memory: { path: seal.memoryFile, bytes: seal.memoryBytes, digest: seal.memoryDigest },
    disks,
    ...(media.length > 0 && { media }),
    ...(member.info.warnings.length > 0 && { warnings: [...member.info.warnings] }),
    ...(references.length === 0 ? {} : { files: references }),
    captureMode: seal.captureMode ?? member.info.captureMode,
    ...member.times,
    held: after.held - member.before.held,
    early: after.early - member.before.early,
    recorded,
    residue: member.residue,
    lost: member.lost,
    dropped: after.dropped - member.before.dropped,
  }
}

/** `user`: whose machine it is. He may have put a name of another file in its place, which he cannot read. */
export async function fileReference(
  store: Pick<Host['store'], 'reference'>,
  path: string,
  user: ProcessUser | undefined,
  signal: AbortSignal,
): Promise<FileReference> {
  if (user === undefined) return store.reference(path, signal)
  const handle = await openAsUser(user, path)
  try {
    return { ...(await store.reference(`/proc/self/fd/${handle.fd}`, signal)), path }
  } finally {
    await handle.close()
  }
}

function frozenLayers(
  store: Pick<Host['store'], 'reference'>,
  layers: readonly DiskLayer[],
  signal: AbortSignal,
): Promise<FrozenLayer[]> {
  return Promise.all(
    layers.map(async ({ file, format, dataFile }) => ({
      file: await store.reference(file, signal),
      format,
      ...(dataFile !== undefined && { data: await store.reference(dataFile, signal) }),
    })),
  )
}

/** How the incoming channels closed, by the names that people know. */
export function closureRecords(host: Pick<Host, 'ports'>, closures: readonly ChannelClosed[]): ChannelClosure[] {
  return closures.map(({ port, host: peer, expected, received, lost, late, byCount }) => ({
    port: host.ports.byIndex(port)?.name ?? `port-${port}`,
    host: peer,
    expected,
    received,
    lost,
    late,
    byCount,
  }))
}
