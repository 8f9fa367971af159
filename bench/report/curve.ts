// Curves as SVG: how a figure changes with a number (of machines, hosts, ports), a line for each of what is compared;
// and where a curve bends, in words.

import { axisOf, escaped, tickText, WIDTH } from './plot.js'

export interface Point {
  readonly x: number
  readonly value: number
  readonly low: number
  readonly high: number
}

export interface Series {
  readonly label: string
  /** Of its color: the same for the same thing in all curves of a page. */
  readonly tone: number
  readonly points: readonly Point[]
}

export interface Curve {
  readonly title: string
  readonly unit: string
  readonly better: 'more' | 'less'
  /** What is counted along the axis: `ports`. */
  readonly along: string
  readonly series: readonly Series[]
  /** Why it runs as it does, where that is known. */
  readonly why: string
}

const LEFT = 44
const RIGHT = 14
const TOP = 8
const HEIGHT = 150
const LEGEND = 16
/** A change of less is none. */
const FLAT = 0.15

/** The numbers along the axis are few, and far apart: they stand at even distances by their logarithm. */
function along(xs: readonly number[]): (x: number) => number {
  const [low, high] = [Math.log(Math.min(...xs)), Math.log(Math.max(...xs))]
  return (x) =>
    high === low
      ? (LEFT + WIDTH - RIGHT) / 2
      : LEFT + 8 + ((Math.log(x) - low) / (high - low)) * (WIDTH - LEFT - RIGHT - 16)
}

export function curveSvg({ title, series, along: what }: Curve): string {
  const points = series.flatMap((one) => one.points)
  const xs = [...new Set(points.map(({ x }) => x))].sort((a, b) => a - b)
  const bottom = TOP + HEIGHT
  const right = along(xs)
  const axis = axisOf(
    points.flatMap(({ value, high }) => [value, high]),
    bottom,
    TOP,
  )
  const parts: string[] = []
  for (const tick of axis.ticks) {
    const y = axis.at(tick).toFixed(1)
    parts.push(`<line class="grid" x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${y}" y2="${y}"/>`)
    parts.push(`<text class="tick" x="${LEFT - 5}" y="${Number(y) + 4}" text-anchor="end">${tickText(tick)}</text>`)
  }
  for (const x of xs) {
    const at = right(x).toFixed(1)
    parts.push(`<text class="tick" x="${at}" y="${bottom + 14}" text-anchor="middle">${x}</text>`)
  }
  parts.push(`<text class="tick" x="${WIDTH - RIGHT}" y="${bottom + 28}" text-anchor="end">${escaped(what)}</text>`)
  for (const [index, { label, tone, points: own }] of series.entries()) {
    const sorted = [...own].sort((a, b) => a.x - b.x)
    const places = sorted.map((point) => `${right(point.x).toFixed(1)},${axis.at(point.value).toFixed(1)}`)
    parts.push(`<polyline class="curve s${tone}" points="${places.join(' ')}"/>`)
    for (const { x, value, low, high } of sorted) {
      const at = right(x).toFixed(1)
      const [from, to] = [axis.at(low).toFixed(1), axis.at(high).toFixed(1)]
      if (from !== to) parts.push(`<line class="curve s${tone}" x1="${at}" x2="${at}" y1="${from}" y2="${to}"/>`)
      parts.push(`<circle class="dot s${tone}" cx="${at}" cy="${axis.at(value).toFixed(1)}" r="3.5"/>`)
    }
    if (series.length < 2) continue
    const x = LEFT + index * 105
    parts.push(`<circle class="dot s${tone}" cx="${x}" cy="${bottom + 24 + LEGEND}" r="3.5"/>`)
    parts.push(`<text class="value" x="${x + 8}" y="${bottom + 28 + LEGEND}">${escaped(label)}</text>`)
  }
  const height = bottom + 34 + (series.length < 2 ? 0 : LEGEND)
  return `<svg viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="${escaped(title)}">${parts.join('')}</svg>`
}

/** Where a curve leaves its first level, and how far it goes: `level to 64, bends behind it, × 0.70 from 2 to 200`. */
export function bendOf(points: readonly Point[]): string {
  const sorted = [...points].sort((a, b) => a.x - b.x)
  const [first, last] = [sorted[0], sorted.at(-1)]
  if (first === undefined || last === undefined || sorted.length < 2) return ''
  const times = (from: Point, to: Point) => (from.value === 0 ? Number.NaN : to.value / from.value)
  const isLevel = (point: Point) => {
    const factor = times(first, point)
    return Number.isNaN(factor) ? point.value === first.value : factor > 1 / (1 + FLAT) && factor < 1 + FLAT
  }
  const bend = sorted.findIndex((point) => !isLevel(point))
  if (bend === -1) return `level from ${first.x} to ${last.x}`
  const level = sorted[bend - 1]!
  const factor = times(first, last)
  const change = Number.isFinite(factor)
    ? `, × ${factor >= 100 ? factor.toFixed(0) : factor.toPrecision(2)} from ${first.x} to ${last.x}`
    : ''
  return bend === 1
    ? `${factor < 1 ? 'falls' : 'rises'} from ${first.x} on${change}`
    : `level to ${level.x}, bends behind it${change}`
}
