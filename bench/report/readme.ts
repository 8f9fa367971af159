// `scripts/bench report --readme`: the figures of the README, between two marks, from the results. Nobody copies them
// by hand, and a test sees that they agree.

import type { Told } from '../run/ratios.js'
import { shown } from '../run/rows.js'
import type { Results } from './read.js'

const BEGIN = '<!-- figures: scripts/bench report --readme -->'
const END = '<!-- end of figures -->'

type Ratios = Readonly<Record<string, Told>>

const figureOf = (ratios: Ratios, key: string): string => {
  const value = ratios[key]?.value ?? null
  return value === null ? '–' : value >= 10 ? value.toFixed(1) : value.toFixed(2)
}

const besideBridge: readonly (readonly [text: string, fast: string, userspace: string])[] = [
  ['60-byte frames a second', 'pps60.vsBridge', 'pps60Userspace.vsBridge'],
  ['the same over two hosts', 'pps60TwoHosts.vsBridge', 'pps60TwoHostsUserspace.vsBridge'],
  ['bulk TCP', 'tcp.vsBridge', 'tcpUserspace.vsBridge'],
  ['bulk TCP over two hosts', 'tcpTwoHosts.vsBridge', 'tcpTwoHostsUserspace.vsBridge'],
  ['idle round trip (less is better)', 'rttIdleP50.vsBridge', 'rttIdleP50Userspace.vsBridge'],
  ['processor time a frame (less is better)', 'cpuPerFrame.vsBridge', 'cpuPerFrameUserspace.vsBridge'],
]

const besideOthers: readonly (readonly [text: string, ovs: string, vde: string, vnsnap: string])[] = [
  ['60-byte frames a second', 'pps60.vsOvsUserspace', 'pps60.vsVde', ''],
  ['bulk TCP', 'tcp.vsOvsUserspace', 'tcp.vsVde', ''],
  ['bulk TCP over two hosts', 'tcpTwoHosts.vsOvsUserspace', 'tcpTwoHosts.vsVde', 'tcpTwoHosts.vsVnsnap'],
  ['idle round trip (less is better)', 'rttIdleP50.vsOvsUserspace', 'rttIdleP50.vsVde', 'rttP50.vsVnsnap'],
  ['longest TCP gap of a snapshot (less is better)', '', '', 'tcpGap.vsVnsnap'],
]

function snapshotLines(snapshot: Results): string[] {
  const of = (name: string) =>
    Object.values(snapshot.summaries).flatMap((figures) => {
      const summary = figures[name]
      return summary === undefined ? [] : [summary]
    })
  const figure = snapshot.figure('downtimeMs')
  const pauses = of('downtimeMs').map(({ median }) => median)
  const [least, most] = [Math.min(...pauses), Math.max(...pauses)].map((value) => shown(figure, value))
  const quiet = of('quietGapMs').map(({ median }) => median)
  const { told } = snapshot
  const plain = (key: string) => told[key]?.value?.toFixed(0) ?? '–'
  return [
    '| a snapshot under traffic | |',
    '| --- | ---: |',
    `| a machine stands still, p50 of each cell | ${least} to ${most} ms |`,
    `| the same, p99 of all | ${figureOf(told, 'downtimeP99Ms')} ms |`,
    `| datagrams lost, doubled | ${plain('udpLost')}, ${plain('udpDoubled')} |`,
    `| longest gap in a bulk TCP flow | ${plain('tcpGapMs')} ms |`,
    `| the same without a snapshot | ${quiet.length === 0 ? '–' : Math.max(...quiet).toFixed(0)} ms |`,
  ]
}

/** Without the marks. */
export function readmeFigures(all: readonly Results[]): string {
  const ratios: Ratios = Object.assign({}, ...all.filter(({ bench }) => bench !== 'snapshot').map(({ told }) => told))
  const lines = [
    '| snapswitch to a Linux bridge | fast path | userspace path |',
    '| --- | ---: | ---: |',
    ...besideBridge.map(
      ([text, fast, userspace]) => `| ${text} | ${figureOf(ratios, fast)} | ${figureOf(ratios, userspace)} |`,
    ),
    '',
    '| the fast path to each in its best setting | OVS userspace | vde_switch | [VNsnap-style](bench/vnsnap/README.md) |',
    '| --- | ---: | ---: | ---: |',
    ...besideOthers.map(([text, ...keys]) => {
      const cells = keys.map((key) => (key === '' ? '' : figureOf(ratios, key)))
      return `| ${text} | ${cells.join(' | ')} |`
    }),
  ]
  const snapshot = all.find(({ bench }) => bench === 'snapshot')
  if (snapshot !== undefined) lines.push('', ...snapshotLines(snapshot))
  return lines.join('\n')
}

/** The text with other figures between the marks; null: it has no marks. */
export function withFigures(text: string, figures: string): string | null {
  const [from, to] = [text.indexOf(BEGIN), text.indexOf(END)]
  if (from === -1 || to < from) return null
  return `${text.slice(0, from + BEGIN.length)}\n\n${figures}\n\n${text.slice(to)}`
}
