// The report: one page without anything from elsewhere. Light or dark as the reader has it, on phones and on paper.

import { reaches as forwardingReaches, ratioRules as forwardingRules } from '../forwarding/figures.js'
import { targets as snapshotTargets, type Target } from '../snapshot/figures.js'
import { aimOf as vnsnapAim, reaches as vnsnapReaches } from '../vnsnap/figures.js'
import { figureOf, tables } from '../vnsnap/rows.js'
import { escaped, type Plot, svgOf } from './plot.js'
import { nameOf, type Results } from './read.js'
import { style } from './style.js'

const significant = (value: number) => {
  if (value === 0) return '0'
  const size = Math.abs(value)
  if (size >= 1000) return Math.round(value).toLocaleString('en')
  return String(Number(value.toPrecision(3)))
}

const hasTables = ({ bench }: Results) => bench === 'vnsnap' || bench === 'growth'
const known = (results: Results, figure: string) => (hasTables(results) ? figureOf(figure) : undefined)

/** What a value is divided by where it is shown, in the unit that `unitOf` gives. */
function scaleOf(results: Results, figure: string): number {
  const { unit } = results.meaning(figure)
  return known(results, figure)?.scale ?? (unit === 'bit/s' ? 1e9 : unit === '1/s' ? 1e3 : 1)
}

/** A value for people, in the unit of its column. */
export function told(results: Results, figure: string, value: number): string {
  const shown = value / scaleOf(results, figure)
  const digits = known(results, figure)?.digits
  return digits === undefined ? significant(shown) : shown.toFixed(digits)
}

function unitOf(results: Results, figure: string): string {
  const { unit } = results.meaning(figure)
  return unit === 'bit/s' ? 'Gbit/s' : unit === '1/s' ? 'thousand/s' : unit
}

/** What is plotted, in this order, where it was measured. */
const plotted: Readonly<Record<string, readonly string[]>> = {
  vnsnap: [
    'rtt.8.p50',
    'rtt.8.p99',
    'rttTcp.p50',
    'rttTwoHosts.8.p50',
    'tcp',
    'tcpTwoHosts',
    'udp.64',
    'udp.1472',
    'udp.gso',
    'cpuPerFrame',
    'cpuPerGbit',
    'cpuPerGbitTwoHosts',
    'wire.60',
    'downtime.p50',
    'skew.p50',
    'globalMs',
    'localMs',
    'tcpGap',
    'timeouts',
    'udpLost',
    'slowdown.2x2',
    'slowdown.4x2',
    'slowdown.8x2',
    'noise.2x2',
  ],
  growth: [
    'machines.downtime.p50',
    'machines.skew.p50',
    'machines.globalMs',
    'machines.rss',
    'machines.cpu',
    'ports.pps60',
    'ports.rtt',
    'ports.tcp',
    'ports.flood',
    'ports.rss',
  ],
  snapshot: ['downtimeMs', 'skewMs', 'globalMs', 'cutGapMs'],
  forwarding: ['pps60', 'pps1514', 'tcp', 'tcpTwoHosts', 'rttIdleP50', 'cpuMachineLight'],
}

export function plotsOf(results: Results): Plot[] {
  return (plotted[results.bench] ?? []).flatMap((figure): Plot[] => {
    const { text, better } = results.meaning(figure)
    const rows = results.subjects.flatMap(({ id, title }) => {
      const summary = results.summaries[id]?.[figure]
      if (summary === undefined) return []
      const isOwn = results.bench === 'snapshot' || results.bench === 'growth' || id.startsWith('snapswitch')
      const scale = scaleOf(results, figure)
      const [value, low, high] = [summary.median / scale, summary.low / scale, summary.high / scale]
      return [{ label: title, value, low, high, text: told(results, figure, summary.median), isOwn }]
    })
    return rows.length < 2 ? [] : [{ title: text, unit: unitOf(results, figure), better, rows }]
  })
}

const figureBlock = (plot: Plot) => `<figure>
<figcaption>${escaped(plot.title)}${plot.unit === '' ? '' : `, ${escaped(plot.unit)}`}<small>${plot.better === 'more' ? 'more' : 'less'} is better</small></figcaption>
${svgOf(plot)}
</figure>`

function ratioTable(results: Results): string {
  const rows = Object.entries(results.ratios).map(([key, value]) => {
    let [aim, reached]: [string, boolean | null] = ['', null]
    if (results.bench === 'vnsnap') [aim, reached] = [vnsnapAim(key), vnsnapReaches(key, value)]
    if (results.bench === 'forwarding') {
      const reach = forwardingRules[key]?.reach
      aim = reach === undefined ? '' : reach.least === undefined ? `at most ${reach.most}` : `at least ${reach.least}`
      reached = forwardingReaches(key, value)
    }
    const target = results.bench === 'snapshot' ? snapshotTargets[key as Target] : undefined
    if (target !== undefined) [aim, reached] = [`at most ${target.most}: ${target.what}`, value <= target.most]
    const mark = reached === null ? '' : reached ? '<span class="yes">reached</span>' : '<span class="no">missed</span>'
    return `<tr><td>${escaped(key)}</td><td class="number">${significant(value)}</td><td>${aim}</td><td>${mark}</td></tr>`
  })
  if (rows.length === 0) return ''
  const note =
    results.bench === 'snapshot'
      ? 'Of all cells together.'
      : 'Of medians, snapswitch to the peer. Where a peer has several settings, its best one counts.'
  return `<h3>What was to be reached</h3>
<p class="note">${note}</p>
<div class="wide"><table><thead><tr><th>ratio</th><th>value</th><th>aim</th><th></th></tr></thead><tbody>${rows.join('')}</tbody></table></div>`
}

function wholeTable(results: Results): string {
  const names = new Set(Object.values(results.summaries).flatMap((figures) => Object.keys(figures)))
  const order = tables.flatMap(({ figures }) => figures.map(({ name }) => name))
  const figures = [...names].sort((a, b) => order.indexOf(a) - order.indexOf(b))
  const subjects = results.subjects.filter(({ id }) => results.summaries[id] !== undefined)
  const head = subjects.map(({ title }) => `<th>${escaped(title)}</th>`).join('')
  const rows = figures.map((figure) => {
    const unit = unitOf(results, figure)
    const cells = subjects.map(({ id }) => {
      const summary = results.summaries[id]?.[figure]
      if (summary === undefined) return '<td></td>'
      const [middle, low, high] = [summary.median, summary.low, summary.high].map((value) =>
        told(results, figure, value),
      )
      const range = summary.count > 1 && (low !== middle || high !== middle) ? `<small>${low}–${high}</small>` : ''
      return `<td class="number">${middle}${range}</td>`
    })
    return `<tr><th scope="row">${escaped(results.meaning(figure).text)}${unit === '' ? '' : ` <small>${escaped(unit)}</small>`}</th>${cells.join('')}</tr>`
  })
  return `<details><summary>All figures, median and range</summary>
<div class="wide"><table><thead><tr><th></th>${head}</tr></thead><tbody>${rows.join('\n')}</tbody></table></div></details>`
}

const titles: Readonly<Record<string, string>> = {
  vnsnap: 'Beside VNsnap, UnaCloud and the rest',
  snapshot: 'What a snapshot costs, cell by cell',
  growth: 'Growth',
  forwarding: 'Forwarding',
}

/** Emulated machines, a busy machine, short trials: whatever makes a figure mean less, said before it. */
export function cautions(results: Results): string[] {
  const said: string[] = []
  if (results.machine.loadBefore > 0.5)
    said.push(
      `The machine was not quiet: its load was ${results.machine.loadBefore} before the run. Figures mean little in absolute terms.`,
    )
  if (results.quick) said.push('Short trials: a look, not a result.')
  if (results.accelerator.startsWith('TCG'))
    said.push('Virtual machines were emulated (TCG): their times are far longer than with KVM, for every subject.')
  return [...said, ...results.remarks]
}

function section(results: Results, raw: string | null): string {
  const { machine } = results
  const facts = [
    `${results.date.slice(0, 16).replace('T', ' ')} UTC, ${results.minutes} minutes`,
    `${machine.cpu}, ${machine.cores} cores, ${(machine.memoryBytes / 2 ** 30).toFixed(0)} GiB`,
    `Linux ${machine.kernel}, Node ${machine.node}`,
    ...(results.accelerator === '' ? [] : [`virtual machines: ${results.accelerator}`]),
    `load before ${machine.loadBefore}`,
  ]
  const data = [nameOf(results), ...(raw === null ? [] : [raw])].map(
    (name) => `<a href="${escaped(name)}">${escaped(name)}</a>`,
  )
  const subjects = results.subjects.map(
    ({ title, version, setup }) =>
      `<li><b>${escaped(title)}</b> <small>${escaped(version)}</small> ${escaped(setup)}</li>`,
  )
  return `<section id="${results.bench}">
<h2>${titles[results.bench] ?? results.bench}</h2>
<p class="facts">${facts.map(escaped).join(' · ')}</p>
<p class="facts"><code>${escaped(results.command)}</code> · data: ${data.join(', ')}</p>
${cautions(results)
  .map((said) => `<p class="caution">${escaped(said)}</p>`)
  .join('\n')}
${ratioTable(results)}
<div class="plots">
${plotsOf(results).map(figureBlock).join('\n')}
</div>
${wholeTable(results)}
<details><summary>Subjects and their settings</summary><ul>${subjects.join('\n')}</ul></details>
</section>`
}

/** `raw`: the name of a file of raw rows beside the report, by bench. */
export function htmlReport(all: readonly Results[], raw: ReadonlyMap<string, string>): string {
  const links = all.map(({ bench }) => `<a href="#${bench}">${titles[bench] ?? bench}</a>`).join('')
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
<nav>${links}</nav>
</header>
<main>
${all.map((results) => section(results, raw.get(results.bench) ?? null)).join('\n')}
</main>
</body>
</html>
`
}
