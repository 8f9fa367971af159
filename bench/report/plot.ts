// Plots as SVG inside a page: one panel a figure, one row a subject, its range as a thin line, its aim as a dashed one.
// Bars from zero; where values lie more than a factor of 30 apart, dots on a logarithmic axis. Colors are the page's
// (CSS variables).

export interface PlotRow {
  readonly label: string
  readonly value: number
  readonly low: number
  readonly high: number
  /** The value as it is written beside. */
  readonly text: string
  readonly isOwn: boolean
}

export interface Plot {
  readonly title: string
  readonly unit: string
  readonly better: 'more' | 'less'
  readonly rows: readonly PlotRow[]
  /** What was to be reached, in the unit of the rows. */
  readonly aim: number | null
}

// As wide as a small phone: there it is shown at its own size, elsewhere somewhat larger.
export const WIDTH = 360
const LABEL = 154
const VALUE = 50
const ROW = 20
const TOP = 6
const AXIS = 18
const FACTOR_FOR_LOGARITHM = 30
const MOST_TICKS = 4

export const escaped = (text: string) =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')

export interface Axis {
  readonly isLogarithmic: boolean
  at(value: number): number
  readonly ticks: readonly number[]
}

/** Round numbers from zero, a few of them, the last not above `most`. */
export function roundTicks(most: number): number[] {
  if (!(most > 0)) return []
  const rough = most / MOST_TICKS
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough)!
  return Array.from({ length: Math.floor(most / step + 1e-9) + 1 }, (_, index) => Number((index * step).toPrecision(6)))
}

function logarithmicTicks(low: number, high: number): number[] {
  const step = Math.max(1, Math.ceil((high - low) / MOST_TICKS))
  const ticks = []
  for (let power = low; power <= high; power += step) ticks.push(10 ** power)
  return ticks
}

/** Where a value lies between `from` and `to`. Zero on a logarithmic axis lies at its start. */
export function axisOf(values: readonly number[], from: number, to: number): Axis {
  const most = Math.max(...values, 0)
  const positive = values.filter((value) => value > 0)
  const least = positive.length === 0 ? 0 : Math.min(...positive)
  const isLogarithmic = least > 0 && most / least > FACTOR_FOR_LOGARITHM
  const [start, end] = [Math.min(from, to), Math.max(from, to)]
  const clamp = (x: number) => Math.min(end, Math.max(start, x))
  if (isLogarithmic) {
    const [low, high] = [Math.floor(Math.log10(least)), Math.ceil(Math.log10(most))]
    const at = (value: number) =>
      value <= 0 ? from : clamp(from + ((Math.log10(value) - low) / (high - low)) * (to - from))
    return { isLogarithmic, at, ticks: logarithmicTicks(low, high) }
  }
  const at = (value: number) => (most === 0 ? from : clamp(from + (value / most) * (to - from)))
  return { isLogarithmic, at, ticks: roundTicks(most) }
}

export const tickText = (value: number) =>
  Math.abs(value) < 10_000 ? String(value) : `${Number((value / 1000).toPrecision(4))} k`

const short = (x: number) => x.toFixed(1)

/** An SVG element; its title is outside, in the page. */
export function svgOf({ title, rows, aim }: Plot): string {
  const values = rows.flatMap(({ value, low, high }) => [value, low, high])
  // A range that reaches zero must not make an axis logarithmic over many decades: medians and the aim decide.
  const medians = [...rows.map(({ value }) => value), ...(aim === null ? [] : [aim])]
  const axis = axisOf([...medians, Math.max(...values, 0)], LABEL, WIDTH - VALUE)
  const bottom = TOP + rows.length * ROW
  const [parts, written]: [string[], string[]] = [[], []]
  for (const tick of axis.ticks) {
    const x = short(axis.at(tick))
    parts.push(`<line class="grid" x1="${x}" x2="${x}" y1="${TOP}" y2="${bottom}"/>`)
    parts.push(`<text class="tick" x="${x}" y="${bottom + 13}" text-anchor="middle">${tickText(tick)}</text>`)
  }
  for (const [index, row] of rows.entries()) {
    const y = TOP + index * ROW
    const middle = y + ROW / 2
    const [start, end] = [axis.at(0), axis.at(row.value)]
    const kind = row.isOwn ? 'own' : 'other'
    parts.push(
      `<text class="label ${kind}" x="${LABEL - 6}" y="${middle + 4}" text-anchor="end">${escaped(row.label)}</text>`,
    )
    if (axis.isLogarithmic) parts.push(`<circle class="mark ${kind}" cx="${short(end)}" cy="${middle}" r="4.5"/>`)
    else {
      const width = Math.max(1, end - start).toFixed(1)
      parts.push(`<rect class="mark ${kind}" x="${start}" y="${y + 4}" width="${width}" height="${ROW - 8}" rx="2"/>`)
    }
    const [low, high] = [axis.at(row.low), axis.at(row.high)]
    if (high - low > 1)
      parts.push(`<line class="range" x1="${short(low)}" x2="${short(high)}" y1="${middle}" y2="${middle}"/>`)
    const right = Math.max(end, high) + 7
    // Above the aim's line.
    written.push(`<text class="value" x="${short(right)}" y="${middle + 4}">${escaped(row.text)}</text>`)
  }
  if (aim !== null) {
    const x = short(axis.at(aim))
    parts.push(`<line class="aim" x1="${x}" x2="${x}" y1="${TOP - 4}" y2="${bottom + 2}"/>`)
  }
  return `<svg viewBox="0 0 ${WIDTH} ${bottom + AXIS}" role="img" aria-label="${escaped(title)}">${[...parts, ...written].join('')}</svg>`
}
