// Snapshots and restores for people: a line each in a list, or all that is known of one.

import type { DeleteReport, Manifest, MemberPart, RestoreReport } from '../api/schemas.js'
import { describeHealth, healthWord } from './health-report.js'
import { formatBytes, formatMs, formatTable } from './output.js'

export function tableOfSnapshots(manifests: readonly Manifest[]): string {
  const head = ['SNAPSHOT', 'STATE', 'HEALTH', 'EPOCH', 'CREATED', 'MACHINES', 'MEMORY', 'TOOK', 'DOWNTIME', 'LOST']
  const rows = manifests.map((m) => [
    `${m.network}/${m.name}`,
    m.state,
    healthWord(m.health),
    m.epoch,
    m.createdAt.slice(0, 19).replace('T', ' '),
    m.parts.reduce((n, part) => n + part.members.length, 0),
    formatBytes(membersOf(m).reduce((n, { part }) => n + part.memory.bytes, 0)),
    m.figures === null ? null : formatMs(m.figures.globalMs),
    m.figures === null ? null : formatMs(m.figures.downtimeMaxMs),
    m.figures?.lost ?? null,
  ])
  return formatTable(head, rows)
}

export function describeManifest(manifest: Manifest): string {
  const { figures } = manifest
  const lines = [
    `snapshot ${manifest.network}/${manifest.name}: ${manifest.state}, epoch ${manifest.epoch}, policy ${manifest.policy}, begun ${manifest.createdAt}\n`,
  ]
  const { health } = manifest
  if (health !== null && health !== undefined) {
    lines.push(`files: ${healthWord(health)}\n`, describeHealth(manifest, health))
  }
  if (manifest.error !== null) lines.push(`error ${manifest.error.code}: ${manifest.error.message}\n`)
  if (figures !== null) {
    lines.push(
      `took ${formatMs(figures.globalMs)}; longest downtime ${formatMs(figures.downtimeMaxMs)}; cut skew ${formatMs(figures.skewMs)}\n`,
      `frames: ${figures.held} held, ${figures.early} early, ${figures.recorded} recorded in transit, ${figures.lost} lost to the snapshot, ${figures.dropped ?? 0} dropped\n`,
    )
  }
  const late = manifest.parts.flatMap((part) => part.closures).reduce((sum, closure) => sum + (closure.late ?? 0), 0)
  if (late > 0) {
    lines.push(
      `${late} frames came after their channel was closed and are in it: the network doubles or delays frames\n`,
    )
  }
  const rows = membersOf(manifest).map(({ host, part }) => [
    part.vm,
    host,
    formatMs((part.resumedAtUs - part.pausedAtUs) / 1000),
    formatBytes(part.memory.bytes),
    formatMs((part.sealedAtUs - part.cutAtUs) / 1000),
    part.captureMode,
    part.held,
    part.early,
    part.recorded,
    part.lost,
    part.dropped ?? 0,
  ])
  const times = membersOf(manifest).map(({ part: m }) => {
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
  const phases = ['MACHINE', 'SETTLE', 'STOP', 'DRAIN, FLIP', 'DISKS', 'MEMORY BEGUN', 'GATE CLOSED']
  const counts = ['HELD', 'EARLY', 'RECORDED', 'LOST', 'DROPPED']
  const head = ['MACHINE', 'HOST', 'DOWNTIME', 'MEMORY', 'SEALED AFTER', 'MODE', ...counts]
  if (rows.length > 0) lines.push('\n', formatTable(head, rows), '\n', formatTable(phases, times))
  for (const { part } of membersOf(manifest)) {
    for (const warning of part.warnings ?? []) lines.push(`\nwarning: ${part.vm}: ${warning}\n`)
  }
  return lines.join('')
}

export function describeRestore(report: RestoreReport): string {
  const rows = Object.entries(report.placement).map(([vm, host]) => [vm, host])
  return [
    `restored ${report.network}/${report.name} in ${formatMs(report.restoreMs)}, epoch ${report.epoch}\n`,
    `${formatBytes(report.transferredBytes)} copied between hosts; ${report.channelFrames} frames in transit delivered; resume skew ${formatMs(report.resumedSkewMs)}\n\n`,
    formatTable(['MACHINE', 'HOST'], rows),
    ...report.warnings.map((warning) => `\nwarning: ${warning}\n`),
  ].join('')
}

/** Where machines write to after a snapshot: a script that starts one must know. */
export function describeOverlays(manifest: Manifest): string {
  const lines = membersOf(manifest).flatMap(({ part }) =>
    part.disks.map(({ name, overlay }) => `${part.vm} writes to ${overlay} now (disk ${name})\n`),
  )
  return lines.length === 0 ? '' : `\n${lines.join('')}`
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

function membersOf(manifest: Manifest): { readonly host: string; readonly part: MemberPart }[] {
  return manifest.parts.flatMap(({ host, members }) => members.map((part) => ({ host, part })))
}
