// Who goes where in a restore, what each host is asked for, and which host has a file. Pure functions over a manifest.

import { contentOf, distinctFiles, filesOf } from '../../../src/api/files.js'
import { choices } from '../../../src/api/names.js'
import type { FileReference, Manifest, MemberPart, RestoreRequest } from '../../../src/api/schemas.js'
import { type ErrorReport, SnapswitchError } from '../../../src/errors/errors.js'
import { listed } from '../table.js'

export interface PlacedMember {
  readonly part: MemberPart
  /** Where it was cut. */
  readonly from: string
  /** Where it is to run. */
  readonly to: string
}

export interface RestorePlan {
  readonly members: readonly PlacedMember[]
  /** Hosts that get machines: without them it cannot be done. */
  readonly targets: readonly string[]
  /** All hosts of the network. */
  readonly hosts: readonly string[]
}

export interface PlannedRestore {
  readonly manifest: Manifest
  readonly plan: RestorePlan
  /** End machines that still run before their next selves are loaded. */
  readonly endFirst: boolean
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
  return { members, targets, hosts }
}

function invalid(message: string, word: string, known: readonly string[], whose: string): SnapswitchError {
  return new SnapswitchError('PLACEMENT_INVALID', message, choices(whose, word, known))
}

/** The body that check and load share, for one target. */
export function requestFor(
  { manifest, plan, endFirst }: PlannedRestore,
  host: string,
  epoch: number,
  deadlineMs: number,
): RestoreRequest {
  const mine = plan.members.filter((m) => m.to === host)
  const channels = manifest.parts.filter((part) => mine.some((m) => m.from === part.host)).map((part) => part.channel)
  return { epoch, members: mine.map((m) => m.part), channels, deadlineMs, ...(endFirst ? { endFirst } : {}) }
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

/** The hosts that ought to have a file of that content, by the manifest. */
export function ownersOf(manifest: Manifest, file: FileReference): string[] {
  const content = contentOf(file)
  return manifest.parts.filter((part) => filesOf(part).some((own) => contentOf(own) === content)).map((p) => p.host)
}

export interface Transfer {
  readonly file: FileReference
  readonly from: string
  readonly to: string
  /** Other hosts that have it, should this one fail. */
  readonly others: readonly string[]
}

/** What hosts that have looked for files do not have; and those that could not be asked. */
export interface Search {
  readonly lacking: Readonly<Record<string, readonly FileReference[]>>
  readonly silent: readonly string[]
}

/** The transfers that make up for what the targets miss, or what stands against it. */
export function planTransfers(
  manifest: Manifest,
  missing: Readonly<Record<string, readonly FileReference[]>>,
  search: Search,
): { readonly transfers: Transfer[]; readonly problems: ErrorReport[] } {
  const transfers: Transfer[] = []
  const nowhere: Nowhere[] = []
  for (const [to, files] of Object.entries(missing)) {
    for (const file of distinctFiles(files)) {
      const owners = ownersOf(manifest, file)
      const has = (host: string) => search.lacking[host]?.every((one) => contentOf(one) !== contentOf(file)) ?? false
      const asked = Object.keys(search.lacking).filter((host) => host !== to)
      // The host that it was cut on first: the others have copies.
      const holders = [...owners, ...asked.filter((host) => !owners.includes(host))].filter(
        (host) => host !== to && has(host),
      )
      const [from, ...others] = holders
      if (from === undefined) nowhere.push({ file, ...whyNowhere(to, owners, search) })
      else transfers.push({ file, from, to, others })
    }
  }
  return { transfers, problems: joined(nowhere) }
}

interface Nowhere {
  readonly file: FileReference
  readonly to: string
  readonly why: string
  readonly action: string
}

const namedAtMost = 3

/** One report for all files that are missing for the same reason. */
function joined(all: readonly Nowhere[]): ErrorReport[] {
  const reasons = [...new Set(all.map(({ to, why }) => `${to} ${why}`))]
  return reasons.map((reason) => {
    const group = all.filter(({ to, why }) => `${to} ${why}` === reason)
    const { to, why, action } = group[0] as Nowhere
    const named = group.slice(0, namedAtMost).map(({ file }) => `${file.path} (sha256 ${file.digest.slice(0, 12)}…)`)
    const more = group.length - named.length
    const files = listed(more > 0 ? [...named, `${more} more`] : named)
    return { code: 'STORE_DAMAGED', message: `host ${to} lacks ${files}: ${why}`, action }
  })
}

/** Names the host that lacks the file, those that ought to have it, and where it was looked for. */
function whyNowhere(to: string, owners: readonly string[], search: Search): Omit<Nowhere, 'file'> {
  const hosts = (names: readonly string[]) => listed(names.map((host) => `host ${host}`))
  const lacking = owners.filter((host) => host !== to && search.lacking[host] !== undefined)
  const silent = owners.filter((host) => host !== to && search.lacking[host] === undefined)
  const reasons = [
    ...(owners.includes(to) ? ['cut there, missing or changed since'] : []),
    ...(lacking.length === 0 ? [] : [`missing or changed on ${hosts(lacking)}, which ought to have it`]),
    ...(silent.length === 0 ? [] : [`${hosts(silent)}, which ought to have it, cannot be asked`]),
  ]
  const others = Object.keys(search.lacking).filter((host) => host !== to && !owners.includes(host))
  const elsewhere = others.length === 0 ? '' : `, and ${hosts(others)} ${others.length === 1 ? 'has' : 'have'} no copy`
  return {
    to,
    why: `${reasons.join('; ')}${elsewhere}`,
    action:
      silent.length > 0
        ? `Bring ${hosts(silent)} back, put the file back from a backup, or restore another snapshot.`
        : 'Put the file back from a backup, or restore another snapshot.',
  }
}
