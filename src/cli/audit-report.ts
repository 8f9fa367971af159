// An audit's report for people: the verdict, a line per check, then the evidence.

import type { AuditReport } from '../api/schemas.js'
import { formatMs, formatTable } from './output.js'

export function describeAudit(report: AuditReport): string {
  const { network, name, epoch, verdict, checks, hosts } = report
  const rows = checks.map(({ check, verdict, examined, violations }) => [check, verdict, examined, violations])
  const lines = [
    `snapshot ${network}/${name}, epoch ${epoch}: ${verdict}\n`,
    ...hosts.map(({ host, events, overflow, recordedMs }) => {
      const lost = overflow > 0 ? `, ${overflow} more found no room` : ''
      return `recorded on ${host}: ${events} events in ${formatMs(recordedMs)}${lost}\n`
    }),
    '\n',
    formatTable(['CHECK', 'VERDICT', 'EXAMINED', 'VIOLATIONS'], rows),
  ]
  for (const { check, violations, findings, notes } of checks) {
    for (const { what, host, port, file, offset, frame, atUs } of findings) {
      const where = [
        ...(host === null ? [] : [`host ${host}`]),
        ...(port === null ? [] : [`port ${port}`]),
        ...(frame === null ? [] : [`frame ${frame}`]),
        ...(atUs === null ? [] : [new Date(atUs / 1000).toISOString()]),
        ...(file === null ? [] : [`${file}${offset === null ? '' : ` at byte ${offset}`}`]),
      ]
      lines.push(`\n${check}: ${what}\n  ${where.join(', ')}\n`)
    }
    if (violations > findings.length) lines.push(`\n${check}: ${violations - findings.length} more\n`)
    for (const note of notes) lines.push(`\nnote (${check}): ${note}\n`)
  }
  return lines.join('')
}
