// `scripts/bench compare OLD NEW`: what changed beyond noise. A figure has changed when the ranges of its rounds do
// not meet, and its median moved by 3 % at least. Where rounds are few, the ranges must be as far apart as they are
// wide.

import { statSync } from 'node:fs'
import { isQuiet } from '../run/machine.js'
import { type Summary, shown } from '../run/rows.js'
import { type Results, readAll, readResults } from './read.js'

const LEAST_CHANGE = 0.03

/** Ranges of rounds that differ by chance alone meet but in so many cases; more is taken for noise. */
const MOST_CHANCE = 0.05

/**
 * Of n and m values of one kind in a random order, all of one side come first in 2 of (n + m over n) cases: one in
 * three for two rounds each, one in 35 for four.
 */
export function chanceApart(n: number, m: number): number {
  let cases = 1
  for (let index = 1; index <= n; index++) cases = (cases * (m + index)) / index
  return 2 / cases
}

function areApart(then: Summary, now: Summary): boolean {
  const distance = Math.max(now.low - then.high, then.low - now.high)
  if (distance <= 0 || chanceApart(then.count, now.count) <= MOST_CHANCE) return distance > 0
  return distance >= Math.max(then.high - then.low, now.high - now.low)
}

export interface Change {
  readonly subject: string
  readonly figure: string
  readonly before: number
  readonly after: number
  /** After to before; infinite from zero. */
  readonly factor: number
  readonly isBetter: boolean
}

export interface Comparison {
  readonly changes: readonly Change[]
  /** Figures that both have. */
  readonly compared: number
  /** Of them, those of one round on either side: no range, no judgement. */
  readonly withoutRange: number
}

export function compareResults(before: Results, after: Results): Comparison {
  const changes: Change[] = []
  let [compared, withoutRange] = [0, 0]
  for (const [subject, figures] of Object.entries(after.summaries)) {
    for (const [figure, now] of Object.entries(figures)) {
      const then = before.summaries[subject]?.[figure]
      if (then === undefined) continue
      compared++
      if (then.count < 2 || now.count < 2) {
        withoutRange++
        continue
      }
      if (!areApart(then, now) || Math.abs(now.median - then.median) < Math.abs(then.median) * LEAST_CHANGE) continue
      const isMore = now.median > then.median
      const isBetter = isMore === (after.figure(figure).better === 'more')
      const factor = then.median === 0 ? Number.POSITIVE_INFINITY : now.median / then.median
      changes.push({ subject, figure, before: then.median, after: now.median, factor, isBetter })
    }
  }
  // What became worse comes first, the largest change first.
  const size = ({ factor }: Change) => Math.abs(Math.log(factor))
  changes.sort((a, b) => Number(a.isBetter) - Number(b.isBetter) || size(b) - size(a))
  return { changes, compared, withoutRange }
}

/** Why two runs do not compare, in words; they are compared all the same. */
export function differences(before: Results, after: Results): string[] {
  const said: string[] = []
  const of = (results: Results) => `${results.machine.cpu}, ${results.machine.cores} cores`
  if (of(before) !== of(after)) said.push(`other machines: ${of(before)}; ${of(after)}`)
  if (before.machine.kernel !== after.machine.kernel)
    said.push(`other kernels: ${before.machine.kernel}; ${after.machine.kernel}`)
  if (before.quick !== after.quick) said.push('one of them is of short trials')
  const [then, now] = [before.machine, after.machine]
  if (!isQuiet(then) || !isQuiet(now))
    said.push(`not quiet: load ${then.loadBefore} before the older run, ${now.loadBefore} before the newer`)
  return said
}

const usage = `Usage: scripts/bench compare OLD NEW

What changed beyond noise between two results of the same bench: JSON as in bench/results, or raw rows (--json), also compressed.
Between two directories of results: of each bench that both have.
`

/** What is to be compared. Throws with a message for the user. */
function pairsOf(old: string, recent: string): (readonly [before: Results, after: Results])[] {
  const isDirectory = (path: string) => statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false
  if (!isDirectory(old) || !isDirectory(recent)) {
    const [before, after] = [readResults(old), readResults(recent)]
    if (before.bench !== after.bench) throw new Error(`${old} is of ${before.bench}, ${recent} of ${after.bench}`)
    return [[before, after]]
  }
  const earlier = readAll(old)
  const pairs = readAll(recent).flatMap((after) => {
    const before = earlier.find(({ bench }) => bench === after.bench)
    return before === undefined ? [] : [[before, after] as const]
  })
  if (pairs.length === 0) throw new Error(`${old} and ${recent} have results of no bench in common`)
  return pairs
}

function told(before: Results, after: Results): string[] {
  const { changes, compared, withoutRange } = compareResults(before, after)
  const title = (id: string) => after.subjects.find((subject) => subject.id === id)?.title ?? id
  const lines = differences(before, after).map((said) => `Read with care: ${said}`)
  for (const { subject, figure, before: then, after: now, factor, isBetter } of changes) {
    const known = after.figure(figure)
    const unit = known.unit === '' ? '' : ` (${known.unit})`
    const times = Number.isFinite(factor) ? `x ${factor.toPrecision(3)}` : 'from zero'
    const values = `${shown(known, then)} -> ${shown(known, now)}  ${times}`
    lines.push(`${isBetter ? 'better' : 'WORSE '}  ${title(subject)}: ${known.text}${unit}: ${values}`)
  }
  lines.push(`${changes.length} of ${compared} figures changed beyond the range of their rounds.`)
  if (withoutRange > 0)
    lines.push(`${withoutRange} have one round on one side: not judged. Raw rows (--json) have the rounds.`)
  return lines
}

/** Exit code: 0 compared (whatever came out), 2 wrong usage. */
export async function compare(argv: readonly string[]): Promise<number> {
  const [old, recent] = argv
  if (argv.length !== 2 || old === undefined || recent === undefined) {
    process.stderr.write(usage)
    return argv.includes('--help') || argv.includes('-h') ? 0 : 2
  }
  try {
    const pairs = pairsOf(old, recent)
    const blocks = pairs.map(([before, after]) =>
      [...(pairs.length === 1 ? [] : [`== ${after.title}`]), ...told(before, after)].join('\n'),
    )
    process.stdout.write(`${blocks.join('\n\n')}\n`)
    return 0
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n`)
    return 2
  }
}
