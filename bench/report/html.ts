// The report: one page without anything from elsewhere. Light or dark as the reader has it, on phones and on paper.

import { isQuiet } from '../run/machine.js'
import { type Summary, shown } from '../run/rows.js'
import { bendOf, type Curve, curveSvg } from './curve.js'
import { growthCurves } from './growth.js'
import { escaped, type Plot, svgOf } from './plot.js'
import { nameOf, type Results } from './read.js'
import { style } from './style.js'

/** What a run of all benches kept of itself, beside their results. */
export interface RunNote {
  readonly date: string
  readonly minutes: number
  readonly budget: number | null
  readonly command: string
  readonly commit: string
  readonly whole: boolean
  readonly benches: readonly {
    readonly bench: string
    readonly state: string
    readonly minutes: number
    readonly load: number
    readonly busyCores: number
  }[]
}

export function plotsOf(results: Results): Plot[] {
  return results.plots.flatMap((name): Plot[] => {
    const known = results.figure(name)
    const rows = results.subjects.flatMap(({ id, title }) => {
      const summary = results.summaries[id]?.[name]
      if (summary === undefined) return []
      const isOwn = results.bench === 'snapshot' || id.startsWith('snapswitch')
      const [value, low, high] = [summary.median, summary.low, summary.high].map((one) => one / known.scale)
      return [{ label: title, value: value!, low: low!, high: high!, text: shown(known, summary.median), isOwn }]
    })
    const aim = results.aims[name]
    const { text: title, unit, better, scale } = known
    return rows.length < 2 ? [] : [{ title, unit, better, rows, aim: aim === undefined ? null : aim / scale }]
  })
}

const caption = ({ title, unit, better }: Pick<Plot, 'title' | 'unit' | 'better'>, more = '') =>
  `<figcaption>${escaped(title)}${unit === '' ? '' : `, ${escaped(unit)}`}<small>${better} is better${more}</small></figcaption>`

const plotBlock = (plot: Plot) =>
  `<figure>${caption(plot, plot.aim === null ? '' : ', dashed: the aim')}\n${svgOf(plot)}\n</figure>`

function curveBlock(curve: Curve): string {
  const bends = curve.series.map(({ label, points }) => {
    const bend = bendOf(points)
    return curve.series.length === 1 ? bend : `${label} ${bend}`
  })
  const said = `${bends.filter(Boolean).join('; ')}.${curve.why === '' ? '' : ` ${curve.why}`}`
  return `<figure>${caption(curve)}\n${curveSvg(curve)}\n<p class="note">${escaped(said)}</p></figure>`
}

const number = (value: number) => (Math.abs(value) >= 100 ? value.toFixed(0) : String(Number(value.toPrecision(3))))

const small = (words: string) => `<small class="words">${escaped(words)}</small>`

/** What a ratio is, in words, from its figure and its two sides. */
function ratioRows(results: Results, isWanted: (aim: string) => boolean): string[] {
  const title = (id: string) => results.subjects.find((subject) => subject.id === id)?.title ?? id
  const one = results.bench === 'snapshot' ? 'snapshot' : 'round'
  return Object.entries(results.told).flatMap(([key, told]) => {
    const { of, figure, peer, value, low, high, rounds, aim, reached } = told
    if (!isWanted(aim) || (aim === '' && value === null)) return []
    const range = low === null || high === null || low === high ? '' : `<small>${number(low)}–${number(high)}</small>`
    const made = value === null ? '' : `${range}<small>${rounds} ${rounds === 1 ? one : `${one}s`}</small>`
    const beside = (results.beside[key] ?? []).flatMap((other) => {
      const { value: its = null, of: whose = '', figure: name = '' } = results.told[other] ?? {}
      return its === null ? [] : [`${title(whose)}, ${results.figure(name).text}: ${number(its)}`]
    })
    const sides = peer === null ? title(of) : `${title(of)}, to ${title(peer)}`
    const words = results.words[key] ?? `${results.figure(figure).text}: ${sides}`
    return [
      `<tr><td><b>${escaped(key).replace('.', '.<wbr>')}</b>${[words, ...beside].map(small).join('')}</td>` +
        `<td class="number">${value === null ? '–' : number(value)}${made}</td>` +
        `<td class="aimed">${mark(value, reached)}${small(aim)}</td></tr>`,
    ]
  })
}

function mark(value: number | null, reached: boolean | null): string {
  if (value === null) return '<span class="no">not measured</span>'
  if (reached === null) return ''
  return reached ? '<span class="yes">reached</span>' : '<span class="no">missed</span>'
}

const ratioTable = (rows: readonly string[]) =>
  `<div class="wide"><table class="ratios"><thead><tr><th>ratio</th><th class="number">value</th><th>aim</th></tr></thead>
<tbody>${rows.join('\n')}</tbody></table></div>`

/** A run of all benches that was ended leaves the results of those that it did not come to. */
const isEarlier = ({ date }: Results, note: RunNote | null) => note !== null && date < note.date

/** Everything that was to be reached, before all else. */
function promises(all: readonly Results[], note: RunNote | null): string {
  const blocks = all.flatMap((results) => {
    if (isEarlier(results, note)) return []
    const rows = ratioRows(results, (aim) => aim !== '')
    return rows.length === 0 ? [] : [`<div><h3>${escaped(results.title)}</h3>\n${ratioTable(rows)}</div>`]
  })
  if (blocks.length === 0) return ''
  return `<section id="promises">
<h2>What was to be reached</h2>
<p class="note">A ratio is snapswitch to the peer, of medians. Of a peer’s settings the best one counts, unless the key says otherwise.
Small print: the lowest and the highest single round.</p>
<div class="promises">
${blocks.join('\n')}
</div>
</section>`
}

function wholeTable(results: Results): string {
  const present = new Set(Object.values(results.summaries).flatMap((figures) => Object.keys(figures)))
  const figures = results.figures.filter(({ name }) => present.has(name))
  const subjects = results.subjects.filter(({ id }) => results.summaries[id] !== undefined)
  const head = subjects.map(({ title }) => `<th>${escaped(title)}</th>`).join('')
  const rows = figures.map((figure) => {
    const cell = (summary: Summary | undefined) => {
      if (summary === undefined) return '<td></td>'
      const [middle, low, high] = [summary.median, summary.low, summary.high].map((value) => shown(figure, value))
      const range = summary.count > 1 && (low !== middle || high !== middle) ? `<small>${low}–${high}</small>` : ''
      return `<td class="number">${middle}${range}</td>`
    }
    const cells = subjects.map(({ id }) => cell(results.summaries[id]?.[figure.name]))
    const unit = figure.unit === '' ? '' : ` <small>${escaped(figure.unit)}</small>`
    return `<tr><th scope="row">${escaped(figure.text)}${unit}</th>${cells.join('')}</tr>`
  })
  return `<details><summary>All figures, median and range</summary>
<div class="wide"><table><thead><tr><th></th>${head}</tr></thead><tbody>${rows.join('\n')}</tbody></table></div></details>`
}

/** Emulated machines, a busy machine, short trials: whatever makes a figure mean less, said before it. */
export function cautions(results: Results): string[] {
  const said: string[] = []
  const { loadBefore, busyBefore } = results.machine
  if (!isQuiet(results.machine)) {
    const busy = busyBefore === undefined ? '' : `, and others kept ${busyBefore} cores busy`
    said.push(
      `The machine was not quiet: its load was ${loadBefore} before the run${busy}. Figures mean little in absolute terms.`,
    )
  }
  if (results.accelerator.startsWith('TCG'))
    said.push('Virtual machines were emulated (TCG): their times are far longer than with KVM, for every subject.')
  return [...said, ...results.remarks]
}

function factsOf({ date, minutes, machine, accelerator, parts }: Results): string[] {
  const busy = machine.busyBefore === undefined ? '' : ` (${machine.busyBefore} cores busy)`
  return [
    `${date.slice(0, 16).replace('T', ' ')} UTC, ${minutes} minutes`,
    `${machine.cpu}, ${machine.cores} cores, ${(machine.memoryBytes / 2 ** 30).toFixed(0)} GiB`,
    `Linux ${machine.kernel}, Node ${machine.node}`,
    ...(accelerator === '' ? [] : [`virtual machines: ${accelerator}`]),
    `load before ${machine.loadBefore}${busy}`,
    ...parts.map(({ part, rounds, wanted }) => `${part}: ${rounds} of ${wanted} rounds`),
  ]
}

function section(results: Results, raw: string | null, note: RunNote | null): string {
  const data = [nameOf(results), ...(raw === null ? [] : [raw])].map(
    (name) => `<a href="${escaped(name)}">${escaped(name)}</a>`,
  )
  const subjects = results.subjects.map(
    ({ title, version, setup }) =>
      `<li><b>${escaped(title)}</b> <small>${escaped(version)}</small> ${escaped(setup)}</li>`,
  )
  const earlier = isEarlier(results, note) ? ['These figures are of an earlier run than the others.'] : []
  const said = [...earlier, ...cautions(results)]
  const context = ratioRows(results, (aim) => aim === '')
  const figures = results.bench === 'growth' ? growthCurves(results).map(curveBlock) : plotsOf(results).map(plotBlock)
  return `<section id="${results.bench}">
<h2>${escaped(results.title)}</h2>
<p class="facts">${factsOf(results).map(escaped).join(' · ')}</p>
<p class="facts"><code>${escaped(results.command)}</code> · data: ${data.join(', ')}</p>
${said.length === 0 ? '' : `<ul class="caution">${said.map((one) => `<li>${escaped(one)}</li>`).join('')}</ul>`}
<div class="plots">
${figures.join('\n')}
</div>
${context.length === 0 ? '' : `<details><summary>More ratios</summary>${ratioTable(context)}</details>`}
${wholeTable(results)}
<details><summary>Subjects and their settings</summary><ul>${subjects.join('\n')}</ul></details>
</section>`
}

const ends: Readonly<Record<string, string>> = { done: 'done', failed: 'with failures', running: 'not ended' }

function runNote(note: RunNote, all: readonly Results[]): string {
  const facts = [
    `${note.date.slice(0, 16).replace('T', ' ')} UTC, ${note.minutes} minutes${note.budget === null ? '' : ` of ${note.budget}`}`,
    `commit ${note.commit}`,
    ...note.benches.map(
      ({ bench, state, minutes, load, busyCores }) =>
        `${bench}: ${ends[state] ?? state}, ${minutes} minutes, load before ${load}, ${busyCores} cores busy`,
    ),
  ]
  const without = note.benches.filter(({ bench }) => !all.some((one) => one.bench === bench && !isEarlier(one, note)))
  const missing = without.map(({ bench }) => bench).join(', ')
  const said = [
    ...(note.whole ? [] : ['The run of all benches ended before its end.']),
    ...(missing === '' ? [] : [`Nothing was measured of: ${missing}.`]),
  ]
  const caution = said.length === 0 ? '' : `\n<p class="caution">${escaped(said.join(' '))}</p>`
  return `<p class="facts"><code>${escaped(note.command)}</code></p>
<ul class="facts">${facts.map((fact) => `<li>${escaped(fact)}</li>`).join('')}</ul>${caution}`
}

/** `raw`: the name of a file of raw rows beside the report, by bench. `note`: of the run of all, if there was one. */
export function htmlReport(
  all: readonly Results[],
  raw: ReadonlyMap<string, string>,
  note: RunNote | null = null,
): string {
  const links = all.map(({ bench, title }) => `<a href="#${bench}">${escaped(title)}</a>`).join('')
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>snapswitch: measurements</title>
<style>${style}</style>
</head>
<body>
<header>
<h1>snapswitch: measurements</h1>
<p>Each figure is the median of the rounds of one run; the thin line, or the small print, is the range from the lowest to the highest
round. Subjects took turns within a run. Figures of different machines do not compare.</p>
${note === null ? '' : runNote(note, all)}
<nav>${links}</nav>
</header>
<main>
${promises(all, note)}
${all.map((results) => section(results, raw.get(results.bench) ?? null, note)).join('\n')}
</main>
</body>
</html>
`
}
