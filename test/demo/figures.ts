// The demo's figures: taken from manifest, restore report and guests; shown as tables and as JSON.

import Table from 'cli-table3'
import type { Manifest, RestoreReport } from '../../src/api/schemas.js'
import type { Check, MachineOutcome } from './checks.js'

export interface MachineFigures {
  readonly name: string
  readonly cutOn: string
  readonly restoredOn: string
  /** Pause to resume, by the hypervisor's own events. */
  readonly downtimeMs: number
  readonly memoryImageBytes: number
  /** Cut to image complete on disk. */
  readonly sealMs: number
  readonly held: number
  readonly early: number
  readonly recorded: number
  readonly residue: number
  readonly lost: number
}

export interface DemoFigures {
  readonly snapshotMs: number
  /** As the user waits for the command. */
  readonly snapshotCommandMs: number
  readonly skewMs: number
  readonly early: number
  readonly recorded: number
  readonly lost: number
  readonly restoreMs: number
  readonly restoreCommandMs: number
  readonly transferredBytes: number
  readonly channelFrames: number
  readonly tcpRetransmits: number
  readonly machines: readonly MachineFigures[]
}

export function figuresOf(
  manifest: Manifest,
  report: RestoreReport,
  outcome: readonly MachineOutcome[],
  commandMs: { readonly snapshot: number; readonly restore: number },
): DemoFigures {
  const figures = manifest.figures!
  const machines = manifest.parts.flatMap((part) =>
    part.members.map((member) => ({
      name: member.vm,
      cutOn: part.host,
      restoredOn: report.placement[member.vm] ?? '?',
      downtimeMs: (member.resumedAtUs - member.pausedAtUs) / 1000,
      memoryImageBytes: member.memory.bytes,
      sealMs: (member.sealedAtUs - member.cutAtUs) / 1000,
      held: member.held,
      early: member.early,
      recorded: member.recorded,
      residue: member.residue,
      lost: member.lost,
    })),
  )
  return {
    snapshotMs: figures.globalMs,
    snapshotCommandMs: commandMs.snapshot,
    skewMs: figures.skewMs,
    early: figures.early,
    recorded: figures.recorded,
    lost: figures.lost,
    restoreMs: report.restoreMs,
    restoreCommandMs: commandMs.restore,
    transferredBytes: report.transferredBytes,
    channelFrames: report.channelFrames,
    tcpRetransmits: outcome.reduce((sum, machine) => sum + (machine.done.ring?.retransmits ?? 0), 0),
    machines: machines.sort((one, other) => one.name.localeCompare(other.name)),
  }
}

const ms = (value: number) => `${value.toFixed(value < 100 ? 1 : 0)} ms`
const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`

// No lines between rows: a table of twenty checks fits a screen.
const chars = { mid: '', 'left-mid': '', 'mid-mid': '', 'right-mid': '' }

function newTable(head: string[], color: boolean): InstanceType<typeof Table> {
  return new Table({ head, chars, style: color ? { head: ['bold'], border: ['grey'] } : { head: [], border: [] } })
}

export function checksTable(checks: readonly Check[], color: boolean): string {
  const table = newTable(['', 'phase', 'check', 'seen'], color)
  for (const { ok, kind, phase, what, seen } of checks) {
    table.push([ok ? 'ok' : kind === 'must' ? 'FAILED' : 'missed', phase, what, seen])
  }
  return table.toString()
}

export function figuresTables(figures: DemoFigures, color: boolean): string {
  const perMachine = newTable(
    ['machine', 'host', 'downtime', 'memory image', 'sealed after', 'held', 'early', 'in transit', 'lost'],
    color,
  )
  for (const m of figures.machines) {
    const counts = [m.held, m.early, m.recorded, m.lost].map(String)
    const host = `${m.cutOn} → ${m.restoredOn}`
    perMachine.push([m.name, host, ms(m.downtimeMs), mib(m.memoryImageBytes), ms(m.sealMs), ...counts])
  }
  const whole = newTable(['whole network', ''], color)
  whole.push(
    ['global snapshot', ms(figures.snapshotMs)],
    ['cut skew, first to last', ms(figures.skewMs)],
    ['frames held early', String(figures.early)],
    ['frames recorded in transit', String(figures.recorded)],
    ['frames lost', String(figures.lost)],
    ['TCP retransmissions of the ring', String(figures.tcpRetransmits)],
    ['restore', ms(figures.restoreMs)],
    ['in-transit frames delivered by the restore', String(figures.channelFrames)],
  )
  return `${perMachine.toString()}\n${whole.toString()}`
}
