// Snapshots and restores for people: a line each in a list, or all that is known of one.

import type { DeleteReport, FlattenReport, Manifest, MemberPart, PruneReport, RestoreReport } from '../api/schemas.js'
import { describeHealth, healthWord } from './health-report.js'
import { formatBytes, formatDuration, formatMs, formatTable, formatTime } from './output.js'

export function tableOfSnapshots(manifests: readonly Manifest[]): string {
  if (manifests.length === 0) return 'no snapshots\n'
  const head = [
    'SNAPSHOT',
    'STATE',
    'HEALTH',
    'LOADS',
    'CREATED',
    'MACHINES',
    'MEMORY',
    'LAYERS',
    'TOOK',
    'STOOD STILL',
    'LOST',
  ]
  const rows = manifests.map((m) => {
    if (isUnreadable(m)) return [`${m.network}/${m.name}`, 'damaged', ...head.slice(2).map(() => null)]
    return rowOf(m)
  })
  const reasons = manifests.filter(isUnreadable).map(({ error }) => `${error?.message}\nwhat to do: ${error?.action}\n`)
  return [formatTable(head, rows), ...reasons].join('')
}

/** Its manifest says nothing: it is damaged, or gone. */
const isUnreadable = ({ state, error, parts }: Manifest) =>
  state === 'failed' && error?.code === 'STORE_DAMAGED' && parts.length === 0

function rowOf(m: Manifest): (string | number | null)[] {
  return [
    `${m.network}/${m.name}`,
    m.state,
    healthWord(m.health),
    loadsWord(m),
    formatTime(new Date(m.createdAt)),
    m.parts.reduce((n, part) => n + part.members.length, 0),
    formatBytes(membersOf(m).reduce((n, { part }) => n + part.memory.bytes, 0)),
    deepest(membersOf(m).map(({ part }) => part)),
    m.figures === null ? null : formatMs(m.figures.tookMs ?? m.figures.globalMs),
    m.figures === null ? null : formatMs(m.figures.downtimeMaxMs),
    m.figures?.lost ?? null,
  ]
}

/** Whether all of its images were seen to load; null when nobody has tried. */
export function loadsWord(manifest: Manifest): string | null {
  const verdicts = membersOf(manifest).map(({ part }) => part.verified?.verdict)
  if (verdicts.includes('fails')) return 'no'
  if (verdicts.length > 0 && verdicts.every((verdict) => verdict === 'loads')) return 'yes'
  return verdicts.some((verdict) => verdict !== undefined) ? 'not all tried' : null
}

/** Images in the longest chain of a disk. */
const deepest = (members: readonly MemberPart[]): number =>
  Math.max(0, ...members.flatMap(({ disks }) => disks.map(({ layers }) => layers.length)))

/** What was taken, as `create` says it. */
export function describeCreated(manifest: Manifest): string {
  return [...headLines(manifest), '\n', machineTable(manifest), ...warningLines(manifest), overlayTable(manifest)].join(
    '',
  )
}

/** All that is known of a snapshot. */
export function describeManifest(manifest: Manifest): string {
  const lines = headLines(manifest)
  if (membersOf(manifest).length > 0) {
    const title = 'Where the time went, from the closing of each machine’s gate to its opening:\n'
    lines.push('\n', machineTable(manifest), '\n', title, phaseTable(manifest), ...warningLines(manifest))
  }
  return lines.join('')
}

function headLines(manifest: Manifest): string[] {
  const { network, name, state, epoch, policy, figures, health } = manifest
  const lines = [
    `snapshot ${network}/${name}: ${state}, begun ${formatTime(new Date(manifest.createdAt))}, epoch ${epoch}${policy === 'buffer' ? '' : `, policy ${policy}`}\n`,
  ]
  if (health !== null && health !== undefined) {
    lines.push(`files: ${healthWord(health)}\n`, describeHealth(manifest, health))
  }
  if (manifest.error !== null)
    lines.push(`error ${manifest.error.code}: ${manifest.error.message}\nwhat to do: ${manifest.error.action}\n`)
  if (figures !== null) {
    const cut = `${formatMs(figures.globalMs)} from the cut to the last file`
    const { tookMs = null } = figures
    lines.push(
      `took ${tookMs === null ? cut : `${formatMs(tookMs)}, of these ${cut}`}\n`,
      `machines stood still for ${formatMs(figures.downtimeMaxMs)} at most; first to last cut ${formatSpread(figures.skewMs, figures.globalMs)}\n`,
      `frames: ${figures.recorded} recorded in transit, ${figures.held} held, ${figures.early} early, ${figures.lost} lost to the snapshot, ${figures.dropped ?? 0} dropped\n`,
    )
  }
  const late = manifest.parts.flatMap((part) => part.closures).reduce((sum, closure) => sum + (closure.late ?? 0), 0)
  if (late > 0) {
    lines.push(
      `${late} frames came after their channel was closed and are in it: the network doubles or delays frames\n`,
    )
  }
  lines.push(...runLines(manifest))
  const loads = loadsWord(manifest)
  if (loads !== null) lines.push(`every image loaded once in a throw-away machine: ${loads}\n`)
  for (const { part } of membersOf(manifest)) {
    if (part.verified?.reason != null) lines.push(`  ${part.vm}: ${part.verified.reason}\n`)
  }
  return lines
}

/** Where `replay` finds what was recorded. */
function runLines({ parts }: Manifest): string[] {
  return parts.flatMap(({ host, run, runProblem }) => [
    ...(run === undefined ? [] : [`run on host ${host}, ${formatBytes(run.bytes)}: snapswitch replay ${run.path}\n`]),
    ...(runProblem === undefined ? [] : [`run on host ${host}: not all is recorded: ${runProblem}\n`]),
  ])
}

const warningLines = (manifest: Manifest) =>
  membersOf(manifest).flatMap(({ part }) => (part.warnings ?? []).map((text) => `\nwarning: ${part.vm}: ${text}\n`))

/** Where machines write to from now on: a script that starts one must know. */
function overlayTable(manifest: Manifest): string {
  const rows = membersOf(manifest).flatMap(({ part }) => part.disks.map((disk) => [part.vm, disk.name, disk.overlay]))
  return rows.length === 0 ? '' : `\n${formatTable(['MACHINE', 'DISK', 'WRITES TO FROM NOW ON'], rows)}`
}

function machineTable(manifest: Manifest): string {
  const rows = membersOf(manifest).map(({ host, part }) => [
    part.vm,
    host,
    formatMs((part.resumedAtUs - part.pausedAtUs) / 1000),
    formatBytes(part.memory.bytes),
    deepest([part]),
    formatMs((part.sealedAtUs - part.cutAtUs) / 1000),
    part.captureMode,
    part.held,
    part.early,
    part.recorded,
    part.lost,
    part.dropped ?? 0,
  ])
  const counts = ['HELD', 'EARLY', 'IN TRANSIT', 'LOST', 'DROPPED']
  return formatTable(['MACHINE', 'HOST', 'STOOD STILL', 'MEMORY', 'LAYERS', 'SAVED AFTER', 'MODE', ...counts], rows)
}

function phaseTable(manifest: Manifest): string {
  const rows = membersOf(manifest).map(({ part: m }) => {
    const between = (from: number | undefined, to: number | undefined) =>
      from === undefined || to === undefined ? '-' : formatMs((to - from) / 1000)
    return [
      m.vm,
      between(m.gatedAtUs, m.settledAtUs),
      between(m.settledAtUs, m.pausedAtUs),
      between(m.pausedAtUs, m.cutAtUs),
      between(m.pausedAtUs, m.disksAtUs),
      between(m.savingAtUs, m.resumedAtUs),
      between(m.gatedAtUs, m.releasedAtUs),
    ]
  })
  return formatTable(['MACHINE', 'SETTLE', 'STOP', 'DRAIN, FLIP', 'DISKS', 'MEMORY BEGUN', 'GATE CLOSED'], rows)
}

/** By the clocks of several hosts. What is longer than all that it is a part of, by one clock, is their difference. */
function formatSpread(ms: number, allMs: number): string {
  return ms <= allMs ? formatMs(ms) : `unknown, for the clocks of the hosts differ by ${formatMs(ms)} or so`
}

export function describeRestore(report: RestoreReport, now: Date): string {
  const rows = Object.entries(report.placement).map(([vm, host]) => [
    vm,
    host,
    (report.disks[vm] ?? []).map(({ file }) => file).join(', '),
  ])
  const lines = [`restored ${report.network}/${report.name} in ${formatMs(report.restoreMs)}, epoch ${report.epoch}\n`]
  if (report.cutAtUs !== undefined) {
    const cut = new Date(report.cutAtUs / 1000)
    const ago = formatDuration((now.getTime() - cut.getTime()) / 1000)
    lines.push(`the machines are back at ${formatTime(cut)}, ${ago} ago: what they have done since is undone\n`)
    const outside = report.outsidePorts ?? []
    if (outside.length > 0) {
      lines.push(`peers outside (${outside.join(', ')}) are not: what machines have told them since, only they know\n`)
    }
  }
  lines.push(
    `${report.transferredBytes === 0 ? 'nothing' : formatBytes(report.transferredBytes)} copied between hosts; ${report.channelFrames} frames in transit delivered; first to last machine to run ${formatSpread(report.resumedSkewMs, report.restoreMs)}\n\n`,
    formatTable(['MACHINE', 'HOST', 'DISKS ARE NOW'], rows),
    ...report.warnings.map((warning) => `\nwarning: ${warning}\n`),
  )
  return lines.join('')
}

export function describeFlattening({ network, name, disks }: FlattenReport): string {
  if (disks.length === 0) return `each disk of ${network}/${name} is one image already\n`
  const rows = disks.map(({ vm, host, disk, images, bytes, file }) => [
    vm,
    host,
    disk,
    images,
    formatBytes(bytes),
    file,
  ])
  return formatTable(['MACHINE', 'HOST', 'DISK', 'IMAGES BEFORE', 'NOW', 'IN'], rows)
}

export function describeDeletion({ network, name, hosts }: DeleteReport): string {
  const lines = [`deleted ${network}/${name}\n`]
  for (const { host, freedBytes, merged, removed, kept } of hosts) {
    if (freedBytes === 0 && merged.length === 0 && removed.length === 0 && kept.length === 0) continue
    const layers = merged.reduce((sum, { files }) => sum + files.length, 0)
    lines.push(
      `host ${host}: ${formatBytes(freedBytes)} freed, ${layers} disk layers merged, ${removed.length} files removed\n`,
      ...kept.map(({ file, reason }) => `  kept ${file}: ${reason}\n`),
    )
  }
  return lines.join('')
}

/** Whether nothing is left that was to go: each host has answered and done its part. */
export function isAllPruned({ failed, hosts }: PruneReport): boolean {
  return failed.every(({ error }) => error === null) && hosts.every(({ pruned }) => pruned?.failures.length === 0)
}

export function describePruning({ failed, hosts }: PruneReport, dryRun: boolean): string {
  const lines = failed.map(({ network, name, error }) => {
    const done = dryRun ? 'would be removed' : 'removed'
    return `failed snapshot ${network}/${name}: ${error === null ? done : `stays: ${error.message}`}\n`
  })
  for (const { host, pruned, error } of hosts) {
    if (pruned === null) {
      lines.push(`host ${host}: ${error?.message ?? 'no answer'}\n`)
      continue
    }
    const { freedBytes, merged, removed, kept, failures } = pruned
    const layers = merged.reduce((sum, { files }) => sum + files.length, 0)
    const would = dryRun ? 'would be ' : ''
    lines.push(
      `host ${host}: ${formatBytes(freedBytes)} ${would}freed, ${layers} disk layers ${would}merged, ${removed.length} files ${would}removed\n`,
      ...removed.map((file) => `  ${would}removed ${file}\n`),
      ...kept.map(({ file, reason }) => `  kept ${file}: ${reason}\n`),
      ...failures.map(({ message }) => `  not merged: ${message}\n`),
    )
  }
  return lines.join('')
}

function membersOf(manifest: Manifest): { readonly host: string; readonly part: MemberPart }[] {
  return manifest.parts.flatMap(({ host, members }) => members.map((part) => ({ host, part })))
}
