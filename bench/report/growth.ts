// The curves of `scripts/bench growth`, from its cells.

import { figure as named } from '../run/rows.js'
import type { Curve, Series } from './curve.js'
import type { Results } from './read.js'

/** Known causes; the rest is read off the curves. */
const whys: Readonly<Record<string, string>> = {
  'machines.downtime.p50':
    'Machines are paused in turns. Beyond two, emulated machines wait for one of the cores as well.',
  'machines.skew.p50': 'Each cut takes some milliseconds of a core, and all share the cores that there are.',
  'machines.globalMs': 'All memory is written, and the machines that write it share the cores with those that run.',
  'machines.rss': 'One daemon a host; a machine adds its port’s rings.',
  'machines.cpu': 'Each machine is cut, and its image written, by itself.',
  'ports.flood': 'A flooded frame is sent once for each port.',
  'ports.rss': 'Each port has its rings.',
}

interface Axis {
  readonly along: string
  readonly figures: readonly string[]
  /** The series and the number of a cell; null: not on this axis. */
  place(id: string): { readonly series: string; readonly x: number } | null
}

const machines = (id: string) => {
  const [, count, hosts] = /^(\d+)m(\d+)h$/.exec(id) ?? []
  return count === undefined ? null : { count: Number(count), hosts: Number(hosts) }
}
const kinds: Readonly<Record<string, string>> = { snapswitch: 'fast path', bridge: 'bridge', userspace: 'userspace' }
/** The first color is snapswitch's. */
const toneOf = (series: string) => Math.max(0, Object.values(kinds).indexOf(series))
const ofMachines = ['downtime.p50', 'skew.p50', 'globalMs', 'rss', 'cpu'].map((name) => `machines.${name}`)
const ofPorts = ['pps60', 'rtt', 'tcp', 'flood', 'rss', 'cpuIdle'].map((name) => `ports.${name}`)

const axes: readonly Axis[] = [
  {
    along: 'machines, on two hosts',
    figures: ofMachines,
    place: (id) => {
      const cell = machines(id)
      return cell?.hosts === 2 ? { series: 'snapswitch', x: cell.count } : null
    },
  },
  {
    along: 'hosts, with four machines',
    figures: ofMachines.slice(0, 4),
    place: (id) => {
      const cell = machines(id)
      return cell?.count === 4 ? { series: 'snapswitch', x: cell.hosts } : null
    },
  },
  {
    along: 'ports',
    figures: ofPorts,
    place: (id) => {
      const [, kind, ports] = /^(\w+)-(\d+)p$/.exec(id) ?? []
      return kind === undefined ? null : { series: kinds[kind] ?? kind, x: Number(ports) }
    },
  },
]

export function growthCurves(results: Results): Curve[] {
  return axes.flatMap(({ along, figures, place }) =>
    figures.flatMap((name): Curve[] => {
      const known = results.figure(name) ?? named(name, name, '', 'less')
      const series = new Map<string, Series>()
      for (const { id } of results.subjects) {
        const at = place(id)
        const summary = results.summaries[id]?.[name]
        if (at === null || summary === undefined) continue
        const [value, low, high] = [summary.median, summary.low, summary.high].map((one) => one / known.scale)
        const own = series.get(at.series)?.points ?? []
        const point = { x: at.x, value: value!, low: low!, high: high! }
        series.set(at.series, { label: at.series, tone: toneOf(at.series), points: [...own, point] })
      }
      const all = [...series.values()].filter(({ points }) => points.length > 1)
      if (all.length === 0) return []
      const { text: title, unit, better } = known
      return [{ title, unit, better, along, series: all, why: whys[name] ?? '' }]
    }),
  )
}
