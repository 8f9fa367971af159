// What a play came to, in words.

import type { OutcomeReport } from '../play/expectation.js'
import type { PlayReport } from '../play/player.js'
import { formatBytes, formatTable } from './output.js'

const SKIPPED: Readonly<Record<keyof PlayReport['skipped'], string>> = {
  unmapped: 'mapped to nothing (--map)',
  direction: 'of the other direction (--direction)',
  filtered: 'not wanted by the filter',
  short: 'captured in part only (--allow-truncated, --pad)',
  tooLong: 'longer than the MTU (--cut)',
  noFrame: 'shorter than an Ethernet header',
}

const REFUSED: Readonly<Record<keyof PlayReport['refused'], string>> = {
  tooLong: 'refused as too long',
  full: 'lost at a device that took nothing for a second',
  malformed: 'refused as malformed',
  failed: 'not sent for another reason',
}

const ENDS: Readonly<Record<PlayReport['end'], string>> = {
  complete: '',
  limit: ', up to the limit',
  interrupted: ', then interrupted',
}

/** Frames that were to be sent, and were not. */
export function missedIn({ skipped, refused, switch: taken }: PlayReport): number {
  const lost = Object.values(refused).reduce((sum, count) => sum + count, 0)
  return lost + (taken?.refused ?? 0) + skipped.short + skipped.tooLong + skipped.noFrame
}

export function describePlay(report: PlayReport, dryRun: boolean): string {
  const { frames, bytes, seconds, framesPerSecond, late, skipped, refused, targets, passes, end } = report
  const rate = seconds === 0 ? '' : ` in ${seconds.toFixed(3)} s, ${framesPerSecond} frames/s`
  const loops = passes > 1 ? `, ${passes} passes` : ''
  const lines = [
    dryRun
      ? `${frames} frames would be sent\n`
      : `${frames} frames sent, ${formatBytes(bytes)}${rate}${loops}${ENDS[end]}\n`,
  ]
  if (late !== null) lines.push(`late: p50 ${us(late.p50)}, p99 ${us(late.p99)}, at most ${us(late.max)}\n`)
  for (const [why, words] of Object.entries(SKIPPED)) {
    const count = skipped[why as keyof typeof skipped]
    if (count > 0) lines.push(`${count} packets left out: ${words}\n`)
  }
  for (const [why, words] of Object.entries(REFUSED)) {
    const count = refused[why as keyof typeof refused]
    if (count > 0) lines.push(`${count} frames ${words}\n`)
  }
  if (report.switch !== undefined && report.switch.refused > 0) {
    lines.push(`${report.switch.refused} frames refused by the switch: a port has gone\n`)
  }
  if (report.pieces > 0) lines.push(`${report.pieces} frames are pieces of longer ones\n`)
  if (report.backward > 0) lines.push(`${report.backward} packets have an earlier time than one before them\n`)
  if (report.cutMs > 0) lines.push(`${(report.cutMs / 1000).toFixed(3)} s of silence left out\n`)
  if (report.starved > 0)
    lines.push(`the capture was not read in time, ${report.starved} times: frames after that were late\n`)
  if (!dryRun && targets.length > 1) {
    lines.push(
      '\n',
      formatTable(
        ['TO', 'NAME', 'FRAMES'],
        targets.map((one) => [one.kind, one.name, one.frames]),
      ),
    )
  }
  return lines.join('')
}

function us(value: number): string {
  return value >= 1000 ? `${(value / 1000).toFixed(2)} ms` : `${value.toFixed(1)} us`
}

/** What came out is not what was expected, or nobody can tell. */
export function differIn({ lost, doubled, reordered, changed, late, missed }: OutcomeReport): boolean {
  return lost + doubled + reordered + changed + late + missed > 0
}

export function describeExpected(outcomes: readonly OutcomeReport[]): string {
  const head = ['AT', 'NAME', 'EXPECTED', 'CAME', 'LOST', 'DOUBLED', 'REORDERED', 'CHANGED', 'LATE', 'OTHER']
  const rows = outcomes.map((one) => [
    one.kind,
    one.name,
    ...[one.expected, one.found, one.lost, one.doubled, one.reordered, one.changed, one.late, one.other],
  ])
  const told = outcomes.flatMap(({ name, told: all, missed }) => [
    ...all.map(({ kind, packet, words }) => `${name}: ${kind}: packet ${packet} ${words}\n`),
    ...(missed === 0 ? [] : [`${name}: ${missed} frames came and were not looked at: play more slowly\n`]),
  ])
  return ['\n', formatTable(head, rows), ...told].join('')
}
