// The health of snapshots' files for people: a word in a list, the files that are wrong in a report.

import type { FileFault, Manifest, MemberPart, SnapshotHealth, VerifyReport } from '../api/schemas.js'
import { formatBytes, formatMs, formatTable } from './output.js'

type HostHealth = SnapshotHealth['hosts'][number]

/** `ok`, `damaged on a`, `host b away`, `unchecked`; null for what has no files. */
export function healthWord(health: SnapshotHealth | null | undefined): string | null {
  if (health === null || health === undefined) return null
  const of = (verdict: HostHealth['verdict']) => health.hosts.filter((h) => h.verdict === verdict).map((h) => h.host)
  const [damaged, away] = [of('damaged'), of('away')]
  const words = [
    ...(damaged.length > 0 ? [`damaged on ${damaged.join(', ')}`] : []),
    ...(away.length > 0 ? [`${away.length === 1 ? 'host' : 'hosts'} ${away.join(', ')} away`] : []),
  ]
  if (words.length > 0) return words.join('; ')
  return health.verdict
}

/** What is wrong, host by host; empty when nothing is. */
export function describeHealth(manifest: Manifest, health: SnapshotHealth): string {
  return health.hosts.map((host) => describeHost(manifest, host)).join('')
}

function describeHost(manifest: Manifest, found: HostHealth): string {
  const { host, verdict, error, faults, faultCount } = found
  if (verdict === 'ok') return ''
  const lines: string[] = []
  if (verdict === 'away') lines.push(`host ${host} cannot be asked: ${error?.message ?? 'no reason known'}\n`)
  else if (verdict === 'unchecked') lines.push(`host ${host}: not all was looked at in the time that there was\n`)
  else if (error !== null) lines.push(`host ${host}: ${error.message}\n`)
  if (faultCount > 0 && verdict !== 'away') {
    lines.push(
      `host ${host}: ${faultCount} ${faultCount === 1 ? 'file is not as it was' : 'files are not as they were'}\n`,
    )
  }
  if (faults.length === 0) return lines.join('')
  const anyCopies = faults.some(({ elsewhere }) => elsewhere !== undefined)
  const head = ['FILE', 'WHAT', 'SIZE', 'WRONG', ...(anyCopies ? ['COPY ON'] : [])]
  const rows = faults.map((fault) => [
    fault.file.path,
    roleOf(manifest, host, fault),
    formatBytes(fault.file.bytes),
    fault.detail,
    ...(anyCopies ? [fault.elsewhere?.join(',') || 'no host'] : []),
  ])
  lines.push(indent(formatTable(head, rows)))
  if (faultCount > faults.length)
    lines.push(`  and ${faultCount - faults.length} more: see \`snapswitch snapshot verify\`\n`)
  return lines.join('')
}

const indent = (text: string) => text.replace(/^(?=.)/gm, '  ')

/** `memory of vm1`, `disk0 of vm1`, `channel state`. */
function roleOf(manifest: Manifest, host: string, { file }: FileFault): string {
  const part = manifest.parts.find((one) => one.host === host)
  const is = (other: { readonly path: string; readonly digest: string } | undefined) =>
    other?.path === file.path && other.digest === file.digest
  if (part === undefined) return ''
  if (is(part.channel)) return 'channel state'
  if (is(part.events)) return 'recording'
  if (is(part.run)) return 'recorded run'
  if (is(part.held)) return 'held frames'
  for (const member of part.members) {
    const role = roleInMember(member, is)
    if (role !== null) return `${role} of ${member.vm}`
  }
  return ''
}

type IsFile = (file: { readonly path: string; readonly digest: string } | undefined) => boolean

function roleInMember(member: MemberPart, is: IsFile): string | null {
  if (is(member.memory)) return 'memory'
  const disk = member.disks.find(({ layers }) => layers.some(({ file, data }) => is(file) || is(data)))
  if (disk !== undefined) return `disk ${disk.name}`
  const medium = member.media?.find(
    ({ file, backing }) => (file !== null && is(file)) || backing?.some((layer) => is(layer.file)),
  )
  if (medium !== undefined) return `medium ${medium.name}`
  return member.files?.some(({ file }) => is(file)) === true ? 'file' : null
}

export function describeVerification(manifest: Manifest, report: VerifyReport): string {
  const { network, name, health, files, bytes, quick, restorable, verifyMs } = report
  const how = quick ? 'by presence and size only' : 'by content'
  const lines = [
    `snapshot ${network}/${name}: ${healthWord(health)}; ${files} files, ${formatBytes(bytes)}, looked at ${how} in ${formatMs(verifyMs)}\n`,
    describeHealth(manifest, health),
  ]
  if (health.verdict === 'ok') return lines.join('')
  if (restorable === true) lines.push('A restore is possible: hosts that answer have copies of all that is missing.\n')
  if (restorable === false) lines.push('It cannot be restored as it is: bring those files, or those hosts, back.\n')
  return lines.join('')
}
