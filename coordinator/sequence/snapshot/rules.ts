// What decides whether a snapshot may begin, and what is read off the parts when it is done. Pure functions.

import type { LocalPart, Manifest, Preflight, SnapshotFigures } from '../../../src/api/schemas.js'
import type { ErrorReport } from '../../../src/errors/errors.js'
import { listed, onHost } from '../table.js'

const maxEpoch = 0xffffffff

/**
 * The epoch that a new cut or a restore gets: above all that any host or manifest has seen. Null: the u32 is used up.
 */
export function nextEpoch(preflights: readonly Preflight[], maxKnownEpoch: number): number | null {
  const next = 1 + Math.max(maxKnownEpoch, ...preflights.map((p) => p.epoch))
  return next > maxEpoch ? null : next
}

/** All that speaks against taking a snapshot now, gravest first; `preflights` by the coordinator's names of hosts. */
export function judgePreflights(preflights: Readonly<Record<string, Preflight>>, isRecorded: boolean): ErrorReport[] {
  const entries = Object.entries(preflights)
  const found: ErrorReport[] = [...misnamedHosts(entries), ...unknownPeers(entries), ...versionsThatDiffer(entries)]
  for (const [host, preflight] of entries) {
    for (const problem of preflight.problems) found.push(onHost(host, problem))
    const { freeBytes, neededBytes, recordingBytes = 0 } = preflight
    const recording = isRecorded ? recordingBytes : 0
    if (freeBytes < neededBytes + recording && !preflight.problems.some((p) => p.code === 'STORE_FULL')) {
      const ofIt = recording > 0 ? `, up to ${recording} of them for the recording` : ''
      const withoutIt = recording > 0 && freeBytes >= neededBytes ? ' Or leave out --record.' : ''
      found.push({
        code: 'STORE_FULL',
        message: `host ${host}: the snapshot needs ${neededBytes + recording} bytes${ofIt}; ${freeBytes} are free`,
        action: `Delete old snapshots (\`snapswitch snapshot list\`), or mount a larger disk at its state directory.${withoutIt}`,
      })
    }
    for (const [peer, ports] of parallelPorts(preflight)) {
      found.push({
        code: 'CONFIG_INVALID',
        message: `host ${host}: ports ${listed(ports)} all lead to the switch of ${peer}, so flooded frames reach its machines more than once`,
        action: 'Keep one trunk between two hosts; bond the links below it if one is not enough.',
      })
    }
    for (const peer of preflight.peers) {
      if (!peer.alive && !preflight.problems.some((p) => p.code === 'PEER_DOWN')) {
        found.push({
          code: 'PEER_DOWN',
          message: `host ${host}: no live switch answers on port ${peer.port}`,
          action: 'Start the switch on the other end and check the link; `snapswitch status` shows the peers.',
        })
      }
      const other = peer.alive && peer.host !== null ? preflights[peer.host] : undefined
      if (other !== undefined && peer.bootId !== null && peer.bootId !== other.bootId) {
        found.push({
          code: 'PEER_DOWN',
          message: `host ${host}: the switch of ${peer.host} was restarted and has not been heard on ${peer.port} since`,
          action: 'Try again in a few seconds.',
        })
      }
    }
  }
  return [...found, ...strangersOnLan(entries), ...memberProblems(entries)]
}

/** Ports that lead to one and the same switch, by its host. */
function parallelPorts({ peers }: Preflight): [string, string[]][] {
  const portsTo = new Map<string, string[]>()
  for (const { host, port } of peers) if (host !== null) portsTo.set(host, [...(portsTo.get(host) ?? []), port])
  return [...portsTo].filter(([, ports]) => ports.length > 1)
}

type Entries = readonly (readonly [string, Preflight])[]

export function misnamedHosts(entries: Entries): ErrorReport[] {
  return entries
    .filter(([host, preflight]) => preflight.host !== host)
    .map(([host, preflight]) => ({
      code: 'CONFIG_INVALID',
      message: `the switch that the coordinator knows as host ${host} calls itself ${preflight.host}`,
      action: 'Make the host names agree in the switch’s and the coordinator’s configuration.',
    }))
}

/** Switches that take part in the network, and would not be told to cut: their channels would never be closed. */
function unknownPeers(entries: Entries): ErrorReport[] {
  // One that calls itself otherwise than the coordinator does is told of by `misnamedHosts`.
  const known = new Set(entries.flatMap(([host, preflight]) => [host, preflight.host]))
  return entries.flatMap(([host, { peers }]) =>
    peers
      .filter((peer) => peer.alive && peer.host !== null && !known.has(peer.host))
      .map((peer) => ({
        code: 'CONFIG_INVALID' as const,
        message: `host ${host}: the switch of ${peer.host} is on port ${peer.port}, and the coordinator has no host ${peer.host} in this network`,
        action: `Name the socket of ${peer.host} under \`hosts:\`: in the configuration of the switch whose coordinator this is, or in the coordinator’s own (docs/guide/uplinks.md#one-coordinator). If it is of another lab, give the two networks different names.`,
      })),
  )
}

export function versionsThatDiffer(entries: Entries): ErrorReport[] {
  const versions = new Set(entries.map(([, preflight]) => preflight.version))
  if (versions.size < 2) return []
  return [
    {
      code: 'PEER_VERSION',
      message: `the hosts run different versions: ${entries.map(([host, p]) => `${host} ${p.version}`).join(', ')}`,
      action: 'Install the same version of snapswitch on all hosts of the network.',
    },
  ]
}

/** Hosts on a LAN that have not heard of one another: to each the other's members are the outside world, uncolored. */
function strangersOnLan(entries: Entries): ErrorReport[] {
  const onLan = entries.filter(([, preflight]) => (preflight.uplinks ?? []).length > 0)
  return onLan.flatMap(([host, preflight]) =>
    onLan
      .filter(([other]) => other !== host && !preflight.peers.some((peer) => peer.host === other))
      .map(([other]) => ({
        code: 'PEER_DOWN' as const,
        message: `host ${host}: the switch of ${other} has not been heard on uplink ${preflight.uplinks![0]}`,
        action:
          'Check that both uplinks are on one LAN that forwards EtherType 0x88B5, and try again in a few seconds.',
      })),
  )
}

function memberProblems(entries: Entries): ErrorReport[] {
  const hostsOf = new Map<string, string[]>()
  for (const [host, preflight] of entries) {
    for (const { vm } of preflight.members) hostsOf.set(vm, [...(hostsOf.get(vm) ?? []), host])
  }
  if (hostsOf.size === 0) {
    return [
      {
        code: 'MACHINE_UNKNOWN',
        message: 'the network has no member machines on any host',
        action: 'Add ports of kind `member` to the switches’ configuration.',
      },
      ...entries.flatMap(([host, { undriven = [], bridges = [] }]) => [
        ...undriven.map(({ port, problem }) => ({
          ...problem,
          message: `port ${port} of host ${host}: ${problem.message}`,
        })),
        ...bridges.map(({ bridge, problem }) => ({
          ...problem,
          message: `bridge ${bridge} of host ${host}: ${problem.message}`,
        })),
      ]),
    ]
  }
  return [...hostsOf]
    .filter(([, hosts]) => hosts.length > 1)
    .map(([vm, hosts]) => ({
      code: 'CONFIG_INVALID',
      message: `machine ${vm} is a member on more than one host: ${listed(hosts)}`,
      action: 'Give every machine of the network its own name.',
    }))
}

/** What is wrong with the part that a host reports as done; null when it is what was asked for. */
export function partFault(
  part: LocalPart,
  expected: {
    readonly network: string
    readonly snapshot: string
    readonly epoch: number
    readonly preflight: Preflight
  },
): string | null {
  const { preflight } = expected
  if (part.network !== expected.network || part.snapshot !== expected.snapshot) {
    return `it reported snapshot ${part.network}/${part.snapshot}`
  }
  if (part.host !== preflight.host) return `it reported as host ${part.host}`
  if (part.epoch !== expected.epoch) return `it cut at epoch ${part.epoch} instead of ${expected.epoch}`
  if (part.bootId !== preflight.bootId) return 'its switch was restarted meanwhile'
  const reported = part.members.map((m) => m.vm).sort()
  const members = preflight.members.map((m) => m.vm).sort()
  if (reported.join('\0') !== members.join('\0')) {
    return `it reported ${listed(reported) || 'no machine'} instead of ${listed(members) || 'none'}`
  }
  return null
}

export type Times = Pick<SnapshotFigures, 'globalMs' | 'tookMs'>

export function figuresOf(parts: readonly LocalPart[], { globalMs, tookMs }: Times): SnapshotFigures {
  const members = parts.flatMap((part) => part.members)
  const cuts = members.map((m) => m.cutAtUs)
  const sum = (count: (m: LocalPart['members'][number]) => number) => members.reduce((n, m) => n + count(m), 0)
  const channelsLost = parts.flatMap((part) => part.closures).reduce((n, closure) => n + closure.lost, 0)
  return {
    globalMs: rounded(globalMs),
    ...(tookMs === undefined ? {} : { tookMs: rounded(tookMs) }),
    skewMs: cuts.length === 0 ? 0 : (Math.max(...cuts) - Math.min(...cuts)) / 1000,
    downtimeMaxMs: Math.max(0, ...members.map((m) => m.resumedAtUs - m.pausedAtUs)) / 1000,
    held: sum((m) => m.held),
    early: sum((m) => m.early),
    recorded: sum((m) => m.recorded),
    lost: sum((m) => m.lost) + channelsLost,
    dropped: sum((m) => m.dropped ?? 0),
  }
}

const rounded = (ms: number) => Math.round(ms * 1000) / 1000

/** The same manifest, failed: parts are gone, the reason stays. */
export function failedManifest(
  manifest: Manifest,
  finishedAt: string,
  error: ErrorReport,
  undiscarded: readonly string[],
): Manifest {
  const { undiscarded: _, ...before } = manifest
  const failed: Manifest = { ...before, state: 'failed', finishedAt, parts: [], figures: null, error }
  return undiscarded.length === 0 ? failed : { ...failed, undiscarded: [...undiscarded] }
}
