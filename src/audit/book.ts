// The audit's book: per check what was examined, what was found against it, and what a reader should know besides.

import type { AuditCheck, AuditFinding, AuditVerdict } from '../api/schemas.js'
import type { EventTable } from '../trace/event-reader.js'

export type CheckName = AuditCheck['check']

/** In the order in which they are told. */
export const checkNames: readonly CheckName[] = [
  'files',
  'events',
  'no orphan',
  'channel state',
  'undisturbed run',
  'termination',
]
/** Violations are counted all, and shown up to here. */
const FINDINGS_SHOWN = 10

interface Entry {
  examined: number
  violations: number
  incomplete: boolean
  readonly findings: AuditFinding[]
  readonly notes: string[]
}

export class Book {
  readonly #entries = new Map<CheckName, Entry>(
    checkNames.map((name) => [name, { examined: 0, violations: 0, incomplete: false, findings: [], notes: [] }]),
  )

  examined(check: CheckName, count = 1): void {
    this.#entries.get(check)!.examined += count
  }

  note(check: CheckName, text: string): void {
    this.#entries.get(check)!.notes.push(text)
  }

  /** What the check would need is not there. */
  incomplete(check: CheckName, why: string): void {
    this.#entries.get(check)!.incomplete = true
    this.note(check, why)
  }

  violated(check: CheckName, finding: Partial<AuditFinding> & { readonly what: string }): void {
    const entry = this.#entries.get(check)!
    entry.violations++
    if (entry.findings.length >= FINDINGS_SHOWN) return
    const nowhere = { host: null, port: null, file: null, offset: null, frame: null, atUs: null }
    entry.findings.push({ ...nowhere, ...finding })
  }

  /** A violation that event `at` of a host shows. */
  violatedBy(check: CheckName, table: EventTable, at: number, what: string): void {
    const port = table.port[at]
    this.violated(check, {
      what: `event #${at}: ${what}`,
      host: table.head.host,
      port: port < 0 ? null : table.ports[port].name,
      file: `hosts/${table.head.host}/events.pcapng`,
      offset: table.offset[at],
      frame: table.identity[at] < 0 ? null : hex(table.identity[at]),
      atUs: table.timeUs[at],
    })
  }

  checks(): AuditCheck[] {
    return checkNames.map((check) => {
      const { examined, violations, incomplete, findings, notes } = this.#entries.get(check)!
      return { check, verdict: verdictOf(violations, incomplete), examined, violations, findings, notes }
    })
  }
}

function verdictOf(violations: number, incomplete: boolean): AuditVerdict {
  if (violations > 0) return 'violated'
  return incomplete ? 'incomplete' : 'consistent'
}

/** The gravest of the checks' verdicts. */
export function verdictOfAll(checks: readonly AuditCheck[]): AuditVerdict {
  return verdictOf(
    checks.filter((check) => check.verdict === 'violated').length,
    checks.some((check) => check.verdict === 'incomplete'),
  )
}

export function hex(identity: number): string {
  return identity.toString(16).padStart(14, '0')
}
