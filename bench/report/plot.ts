// Plots as SVG inside a page: one panel a figure, one row a subject, its range as a thin line. Bars from zero; where
// values lie more than a factor of 30 apart, dots on a logarithmic axis. Colors are the page's (CSS variables).

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
}

// As wide as a small phone: there it is shown at its own size, elsewhere somewhat larger.
const WIDTH = 360
const LABEL = 146
const VALUE = 58
const ROW = 20
const TOP = 6
const FACTOR_FOR_LOGARITHM = 30

export const escaped = (text: string) =>
  text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;').replaceAll('"', '&quot;')

interface Axis {
  readonly isLogarithmic: boolean
  at(value: number): number
  readonly ticks: readonly number[]
}

/** Where a value lies between `from` and `to`. Zero on a logarithmic axis lies at its start. */
export function axisOf(rows: readonly PlotRow[], from: number, to: number): Axis {
  const most = Math.max(...rows.map(({ value, high }) => Math.max(value, high)), 0)
  const positive = rows.map(({ value }) => value).filter((value) => value > 0)
  const least = positive.length === 0 ? 0 : Math.min(...positive)
  const isLogarithmic = least > 0 && most / least > FACTOR_FOR_LOGARITHM
  const clamp = (x: number) => Math.min(to, Math.max(from, x))
  if (isLogarithmic) {
    const [low, high] = [Math.floor(Math.log10(least)), Math.ceil(Math.log10(most))]
    const step = Math.max(1, Math.ceil((high - low) / 4))
    const ticks = []
    for (let power = low; power <= high; power += step) ticks.push(10 ** power)
    const at = (value: number) =>
      value <= 0 ? from : clamp(from + ((Math.log10(value) - low) / (high - low)) * (to - from))
    return { isLogarithmic, at, ticks }
  }
  const at = (value: number) => (most === 0 ? from : clamp(from + (value / most) * (to - from)))
  return { isLogarithmic, at, ticks: [] }
}

const tickText = (value: number) => (value < 10_000 ? String(value) : `${value / 1000} k`)

/** An SVG element; its title is outside, in the page. */
export function svgOf({ title, rows }: Plot): string {
  const axis = axisOf(rows, LABEL, WIDTH - VALUE)
  const bottom = TOP + rows.length * ROW
  const height = bottom + (axis.isLogarithmic ? 18 : 6)
  const parts: string[] = []
  for (const tick of axis.ticks) {
    const x = axis.at(tick).toFixed(1)
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
    if (axis.isLogarithmic) parts.push(`<circle class="mark ${kind}" cx="${end.toFixed(1)}" cy="${middle}" r="4.5"/>`)
    else {
      const width = Math.max(1, end - start).toFixed(1)
      parts.push(`<rect class="mark ${kind}" x="${start}" y="${y + 4}" width="${width}" height="${ROW - 8}" rx="2"/>`)
    }
    const [low, high] = [axis.at(row.low), axis.at(row.high)]
    if (high - low > 1)
      parts.push(`<line class="range" x1="${low.toFixed(1)}" x2="${high.toFixed(1)}" y1="${middle}" y2="${middle}"/>`)
    parts.push(
      `<text class="value" x="${(Math.max(end, high) + 7).toFixed(1)}" y="${middle + 4}">${escaped(row.text)}</text>`,
    )
  }
  return `<svg viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label="${escaped(title)}">${parts.join('')}</svg>`
}
