// Who goes where in a restore, what each host is asked for, and which host has a file. Pure functions over a manifest.

import { choices } from '../../src/api/names.js'
import type { FileReference, Manifest, MemberPart, RestoreRequest } from '../../src/api/schemas.js'
import { type ErrorReport, SnapswitchError } from '../../src/errors/errors.js'
import { listed } from './table.js'

export interface PlacedMember {
  readonly part: MemberPart
  /** Where it was cut. */
  readonly from: string
  /** Where it is to run. */
  readonly to: string
}

export interface RestorePlan {
  readonly members: readonly PlacedMember[]
  /** Hosts that get machines. */
  readonly targets: readonly string[]
  /** Hosts without which it cannot be done: targets, and those that machines move away from (an original may run there). */
  readonly required: readonly string[]
  /** All hosts of the network. */
  readonly hosts: readonly string[]
}

/** Throws SNAPSHOT_NOT_COMPLETE, PLACEMENT_INVALID. */
export function planRestore(
  manifest: Manifest,
  placement: Readonly<Record<string, string>>,
  hosts: readonly string[],
): RestorePlan {
  if (manifest.state !== 'complete') {
    const why = manifest.error === null ? '' : ` (${manifest.error.message})`
    throw new SnapswitchError(
      'SNAPSHOT_NOT_COMPLETE',
      `snapshot ${manifest.network}/${manifest.name} is ${manifest.state}${why}`,
      'Restore a snapshot that `snapswitch snapshot list` shows as complete.',
    )
  }
  const names = manifest.parts.flatMap((part) => part.members.map((m) => m.vm))
  for (const vm of Object.keys(placement)) {
    if (!names.includes(vm)) throw invalid(`the snapshot has no machine ${vm}`, vm, names, 'Its machines')
  }
  const members = manifest.parts.flatMap((part) =>
    part.members.map((member) => {
      const to = placement[member.vm] ?? part.host
      if (!hosts.includes(to)) {
        const what = placement[member.vm] === undefined ? `${member.vm} was cut on host ${to}, which` : `host ${to}`
        throw invalid(`${what} is not in the configuration of network ${manifest.network}`, to, hosts, 'Its hosts')
      }
      return { part: member, from: part.host, to }
    }),
  )
  const targets = hosts.filter((host) => members.some((m) => m.to === host))
  const sources = hosts.filter((host) => members.some((m) => m.from === host && m.to !== host))
  // A source that the configuration no longer has cannot be asked at all.
  const gone = members.find((m) => !hosts.includes(m.from))
  if (gone !== undefined) {
    throw invalid(
      `host ${gone.from}, which has the files of ${gone.part.vm}, is not configured`,
      gone.from,
      hosts,
      'Hosts',
    )
  }
  return { members, targets, required: hosts.filter((h) => targets.includes(h) || sources.includes(h)), hosts }
}

function invalid(message: string, word: string, known: readonly string[], whose: string): SnapswitchError {
  return new SnapswitchError('PLACEMENT_INVALID', message, choices(whose, word, known))
}

/** The body that check and load share, for one target. */
export function requestFor(
  manifest: Manifest,
  plan: RestorePlan,
  host: string,
  epoch: number,
  deadlineMs: number,
): RestoreRequest {
  const mine = plan.members.filter((m) => m.to === host)
  const channels = manifest.parts.filter((part) => mine.some((m) => m.from === part.host)).map((part) => part.channel)
  return { epoch, members: mine.map((m) => m.part), channels, deadlineMs }
}

/**
 * Where former selves may be: on the host where a machine was cut, and wherever it has a port now (`holds`: host -> its
 * machines), whether it runs or not; but for its target. Hosts that did not answer are left out.
 */
export function formerHosts(
  plan: RestorePlan,
  holds: Readonly<Record<string, readonly string[]>>,
): { readonly host: string; readonly members: readonly MemberPart[] }[] {
  return plan.hosts
    .filter((host) => holds[host] !== undefined)
    .map((host) => ({
      host,
      members: plan.members
        .filter((m) => m.to !== host && (m.from === host || holds[host]?.includes(m.part.vm)))
        .map((m) => m.part),
    }))
    .filter(({ members }) => members.length > 0)
}

/** The hosts that hold a file of that content, by the manifest. */
export function holdersOf(manifest: Manifest, digest: string): string[] {
  return manifest.parts
    .filter((part) => {
      if (part.channel.digest === digest) return true
      return part.members.some(
        (m) => m.memory.digest === digest || m.disks.some((d) => d.layers.some((l) => l.file.digest === digest)),
      )
    })
    .map((part) => part.host)
}

export interface Transfer {
  readonly file: FileReference
  readonly from: string
  readonly to: string
}

/** The transfers that make up for what the targets miss, or what stands against it. */
export function planTransfers(
  manifest: Manifest,
  missing: Readonly<Record<string, readonly FileReference[]>>,
): { readonly transfers: Transfer[]; readonly problems: ErrorReport[] } {
  const transfers: Transfer[] = []
  const problems: ErrorReport[] = []
  for (const [to, files] of Object.entries(missing)) {
    for (const file of files) {
      if (transfers.some((t) => t.to === to && t.file.digest === file.digest)) continue
      const holders = holdersOf(manifest, file.digest)
      const from = holders.find((host) => host !== to && !missing[host]?.some((f) => f.digest === file.digest))
      if (from !== undefined) {
        transfers.push({ file, from, to })
        continue
      }
      const where = holders.length === 0 ? 'no host has it' : `it is missing or damaged on ${listed(holders)}`
      problems.push({
        code: 'STORE_DAMAGED',
        message: `host ${to} needs ${file.path} (sha256 ${file.digest.slice(0, 12)}…), but ${where}`,
        action: 'Restore another snapshot, or put the file back from a backup.',
      })
    }
  }
  return { transfers, problems }
}
