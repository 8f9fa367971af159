// A bar chart as a self-contained SVG: one panel per figure, one bar per subject, values written beside the bars. No
// script, no font files; colors that hold on light and dark backgrounds.

export interface Panel {
  readonly title: string
  readonly bars: readonly {
    readonly label: string
    readonly value: number
    readonly text: string
    readonly accent: boolean
  }[]
}

const WIDTH = 860
const LABEL_WIDTH = 190
const VALUE_WIDTH = 110
const BAR = 18
const GAP = 6
const HEAD = 40
const MARGIN = 18

export function barChart(title: string, panels: readonly Panel[]): string {
  const body: string[] = []
  let y = MARGIN + 24
  for (const panel of panels) {
    const longest = Math.max(...panel.bars.map((bar) => bar.value), 0)
    body.push(`<text x="${MARGIN}" y="${y + 24}" class="panel">${xml(panel.title)}</text>`)
    y += HEAD
    for (const bar of panel.bars) {
      const room = WIDTH - 2 * MARGIN - LABEL_WIDTH - VALUE_WIDTH
      const length = longest > 0 ? Math.max((bar.value / longest) * room, 1) : 1
      const x = MARGIN + LABEL_WIDTH
      const middle = y + BAR / 2 + 4.5
      body.push(
        `<text x="${x - 8}" y="${middle}" class="label">${xml(bar.label)}</text>`,
        `<rect x="${x}" y="${y}" width="${length.toFixed(1)}" height="${BAR}" rx="2" class="${bar.accent ? 'own' : 'other'}"/>`,
        `<text x="${(x + length + 6).toFixed(1)}" y="${middle}" class="value">${xml(bar.text)}</text>`,
      )
      y += BAR + GAP
    }
    y += 8
  }
  const height = y + MARGIN
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img" aria-label="${xml(title)}">
<style>
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-size: 17px; font-weight: 600 }
.panel { font-weight: 600 }
.label { text-anchor: end }
.own { fill: #1a7f6b }
.other { fill: #8c959f }
</style>
<rect width="100%" height="100%" fill="#ffffff"/>
<text x="${MARGIN}" y="${MARGIN + 14}" class="title">${xml(title)}</text>
${body.join('\n')}
</svg>
`
}

function xml(text: string): string {
  return text.replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;').replace(/"/g, '&quot;')
}
