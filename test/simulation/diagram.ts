// A run as a space-time diagram for people: a column per switch and machine, time downward, and in words what was
// violated.

import { isCalm, isUndisturbed, type Scenario } from './scenario.js'
import type { Violation, World } from './world.js'

const NARROW = 14
const WIDE = 30

/** The world must have been run with its trace on. */
export function drawDiagram(world: World, violation: Violation | null): string {
  const notes = world.trace ?? []
  const columns = ['coord', ...world.hosts.flatMap((host) => [host.name, ...placed(world.scenario, host.index)])]
  const widths = columns.map((name) => {
    const longest = Math.max(...notes.filter((note) => note.who === name).map((note) => note.text.length), name.length)
    return Math.min(WIDE, Math.max(NARROW, longest + 1))
  })
  const line = (cells: readonly string[], time: string) =>
    `${time.padStart(10)}  ${cells.map((cell, i) => cell.padEnd(widths[i] as number)).join('│')}`.trimEnd()
  const lines = [
    line(columns, 'ms'),
    line(
      columns.map((_, i) => '─'.repeat(widths[i] as number)),
      '',
    ),
  ]
  let before = ''
  for (const { at, who, text } of notes) {
    const column = columns.indexOf(who)
    const time = at.toFixed(3)
    const pieces = split(text, widths[column] as number)
    for (const [i, piece] of pieces.entries()) {
      const cells = columns.map((_, c) => (c === column ? piece : ''))
      lines.push(line(cells, i > 0 || time === before ? '' : time))
    }
    before = time
  }
  const verdict =
    violation === null ? 'all invariants hold' : `invariant ${violation.invariant} violated: ${violation.message}`
  return [describe(world.scenario), '', ...lines, '', verdict].join('\n')
}

/** The scenario in a few lines. */
export function describe(scenario: Scenario): string {
  const { hosts, machines, trunk, pace, portion, sends, orders, faults, policy } = scenario
  const where = machines
    .map(({ host, nics }, vm) => `vm${vm} on h${host}${nics > 1 ? ` (${nics} NICs)` : ''}`)
    .join(', ')
  const weather = isCalm(scenario)
    ? 'nothing goes wrong'
    : isUndisturbed(scenario)
      ? 'the network is exact'
      : 'the network errs'
  const show = (values: object) =>
    Object.entries(values)
      .map(([key, value]) => `${key} ${value}`)
      .join(', ')
  return [
    `seed ${scenario.seed}: ${hosts} hosts${scenario.lan !== null ? ` on a LAN, colors by ${scenario.lan}` : scenario.chain ? ' in a chain' : ''}${scenario.keyed ? ' with a key' : ''}, ${where}; ${sends.length} frames; ${policy}; ${weather}`,
    `trunks: ${show(trunk)}; up to, in ms: ${show(pace)}; gates let out ${portion} frames at once`,
    ...orders.map((order) => `order: ${show(order)}`),
    ...faults.map((fault) => `fault: ${show(fault)}`),
  ].join('\n')
}

function placed(scenario: Scenario, host: number): string[] {
  return scenario.machines.flatMap((machine, vm) => (machine.host === host ? [`vm${vm}`] : []))
}

function split(text: string, width: number): string[] {
  const pieces: string[] = []
  let rest = text
  while (rest.length > width) {
    const space = rest.lastIndexOf(' ', width)
    const at = space > 0 ? space : width
    pieces.push(rest.slice(0, at))
    rest = ` ${rest.slice(at).trimStart()}`
  }
  return [...pieces, rest]
}
