// From raw rows to medians with their range, and to the ratios that the project is held to.

import { median } from '../forwarding/statistics.js'
import type { Row, Summaries, Summary } from './rows.js'

export const summaryOf = (list: readonly number[]): Summary => ({
  median: median(list),
  low: Math.min(...list),
  high: Math.max(...list),
  count: list.length,
})

/** By subject and figure, over all rounds that have it. */
export function summarize(rows: readonly Row[]): Summaries {
  const values = new Map<string, Map<string, number[]>>()
  for (const { subject, figures } of rows) {
    const own = values.get(subject) ?? new Map<string, number[]>()
    values.set(subject, own)
    for (const [name, value] of Object.entries(figures))
      if (Number.isFinite(value)) own.set(name, [...(own.get(name) ?? []), value])
  }
  return Object.fromEntries(
    [...values].map(([subject, own]) => [
      subject,
      Object.fromEntries([...own].map(([name, list]) => [name, summaryOf(list)])),
    ]),
  )
}

export interface RatioRule {
  /** The subject. */
  readonly of: string
  readonly figure: string
  /** The best of these counts: each peer in its best setting. Empty: the figure itself is told, not a ratio. */
  readonly peers: readonly string[]
  readonly better: 'more' | 'less'
  /** Other keys that a report tells with it. */
  readonly beside?: readonly string[]
  /** What the project set itself, where it did. */
  readonly reach?: { readonly least?: number; readonly most?: number }
}

export type RatioRules = Readonly<Record<string, RatioRule>>

/** A ratio as a report tells it. */
export interface Told {
  readonly of: string
  readonly figure: string
  /** The peer whose setting was the best; null where there is none. */
  readonly peer: string | null
  /** Of medians; null where one is missing. */
  readonly value: number | null
  /** Of single rounds that have both: the lowest and the highest. */
  readonly low: number | null
  readonly high: number | null
  readonly rounds: number
  readonly aim: string
  /** Null where nothing was set, or nothing measured. */
  readonly reached: boolean | null
}

const four = (value: number) => Number(value.toFixed(4))

/** All ratios of the rules, those that miss a figure too. */
export function tellRatios(rules: RatioRules, rows: readonly Row[]): Record<string, Told> {
  const summaries = summarize(rows)
  return Object.fromEntries(Object.entries(rules).map(([key, rule]) => [key, tell(rule, summaries, rows)]))
}

function tell(rule: RatioRule, summaries: Summaries, rows: readonly Row[]): Told {
  const { of, figure, peers, better } = rule
  const value = (subject: string) => summaries[subject]?.[figure]?.median
  const nothing = {
    of,
    figure,
    peer: null,
    value: null,
    low: null,
    high: null,
    rounds: 0,
    aim: aimOf(rule),
    reached: null,
  }
  const own = value(of)
  if (own === undefined) return nothing
  const [best] = peers
    .flatMap((id) => {
      const median = value(id)
      return median === undefined ? [] : [{ id, median }]
    })
    .sort((a, b) => (better === 'more' ? b.median - a.median : a.median - b.median))
  if (peers.length > 0 && (best === undefined || best.median <= 0)) return nothing
  const told = four(best === undefined ? own : own / best.median)
  const paired = byRound(rows, of, figure).flatMap(([round, mine]) => {
    if (best === undefined) return [mine]
    const [, theirs = 0] = byRound(rows, best.id, figure).find(([one]) => one === round) ?? []
    return theirs > 0 ? [mine / theirs] : []
  })
  const range = paired.length === 0 ? [null, null] : [four(Math.min(...paired)), four(Math.max(...paired))]
  return {
    ...nothing,
    peer: best?.id ?? null,
    value: told,
    low: range[0]!,
    high: range[1]!,
    rounds: paired.length,
    reached: reaches(rule, told),
  }
}

const byRound = (rows: readonly Row[], subject: string, figure: string): [round: number, value: number][] =>
  rows.flatMap((row) => {
    const value = row.figures[figure]
    return row.subject === subject && value !== undefined && Number.isFinite(value) ? [[row.round, value]] : []
  })

/** Those that have a value, as plain numbers. */
export function valuesOf(ratios: Readonly<Record<string, Told>>): Record<string, number> {
  return Object.fromEntries(
    Object.entries(ratios).flatMap(([key, { value }]) => (value === null ? [] : [[key, value]])),
  )
}

/** Does a ratio reach what was set? Null where nothing was. */
export function reaches({ reach }: RatioRule, value: number): boolean | null {
  if (reach === undefined) return null
  return value >= (reach.least ?? Number.NEGATIVE_INFINITY) && value <= (reach.most ?? Number.POSITIVE_INFINITY)
}

/** The aim in words: `at most 0.5`. */
export function aimOf({ reach }: RatioRule): string {
  const { least, most } = reach ?? {}
  return [least === undefined ? '' : `at least ${least}`, most === undefined ? '' : `at most ${most}`]
    .filter(Boolean)
    .join(', ')
}
