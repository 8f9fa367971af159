// From raw rows to medians with their spread, and to the ratios that the project is held to.

import { median } from '../forwarding/statistics.js'
import type { Row } from './rows.js'

export interface Summary {
  readonly median: number
  readonly low: number
  readonly high: number
  readonly count: number
}

export type Summaries = Readonly<Record<string, Readonly<Record<string, Summary>>>>

/** By subject and figure, over all rounds that have it. */
export function summarize(rows: readonly Row[]): Summaries {
  const values = new Map<string, Map<string, number[]>>()
  for (const { subject, figures } of rows) {
    const own = values.get(subject) ?? new Map<string, number[]>()
    values.set(subject, own)
    for (const [name, value] of Object.entries(figures))
      if (Number.isFinite(value)) own.set(name, [...(own.get(name) ?? []), value])
  }
  const summary = (list: readonly number[]): Summary => ({
    median: median(list),
    low: Math.min(...list),
    high: Math.max(...list),
    count: list.length,
  })
  return Object.fromEntries(
    [...values].map(([subject, own]) => [
      subject,
      Object.fromEntries([...own].map(([name, list]) => [name, summary(list)])),
    ]),
  )
}

interface RatioRule {
  /** `snapswitch` unless said. */
  readonly of?: string
  readonly figure: string
  /** The best of these counts: each peer in its best setting. Empty: the figure itself is told, not a ratio. */
  readonly peers: readonly string[]
  readonly better: 'more' | 'less'
  readonly reach?: { readonly least?: number; readonly most?: number }
}

const asProcess = ['vnsnap', 'vnsnap-spin'] as const
const against = (
  figure: string,
  better: RatioRule['better'],
  peers: readonly string[],
  reach?: RatioRule['reach'],
): RatioRule => ({ figure, peers, better, ...(reach === undefined ? {} : { reach }) })

export const ratioRules: Readonly<Record<string, RatioRule>> = {
  'rttP50.vsVnsnap': against('rtt.8.p50', 'less', asProcess, { most: 0.5 }),
  'tcpTwoHosts.vsVnsnap': against('tcpTwoHosts', 'more', asProcess, { least: 5 }),
  'cpuPerGbit.vsVnsnap': against('cpuPerGbitTwoHosts', 'less', asProcess, { most: 0.25 }),
  'tcpGap.vsVnsnap': against('tcpGap', 'less', ['vnsnap'], { most: 0.1 }),
  udpLost: against('udpLost', 'less', [], { most: 0 }),
  ringSlowdown: against('slowdown.2x2', 'less', [], { most: 1 }),
  // Context that keeps those above honest.
  'rttTwoHostsP50.vsVnsnap': against('rttTwoHosts.8.p50', 'less', asProcess),
  'rttP50Fast.vsVnsnap': { ...against('rtt.8.p50', 'less', asProcess), of: 'snapswitch-fast' },
  'tcpFast.vsBridge': { ...against('tcp', 'more', ['bridge']), of: 'snapswitch-fast' },
  'rttP50.vsVnsnapVm': against('rtt.8.p50', 'less', ['vnsnap-vm']),
  'tcpTwoHosts.vsVnsnapVm': against('tcpTwoHosts', 'more', ['vnsnap-vm']),
  'cpuPerGbit.vsVnsnapVm': against('cpuPerGbitTwoHosts', 'less', ['vnsnap-vm']),
  'tcpGap.vsUnacloud': against('tcpGap', 'less', ['unacloud']),
  'tcp.vsBridge': against('tcp', 'more', ['bridge']),
  'tcpTwoHosts.vsBridge': against('tcpTwoHosts', 'more', ['bridge']),
  'rttP50.vsBridge': against('rtt.8.p50', 'less', ['bridge']),
  'cpuPerGbit.vsBridge': against('cpuPerGbitTwoHosts', 'less', ['bridge']),
  'tcp.vsOvsUserspace': against('tcp', 'more', ['ovs-userspace', 'ovs-userspace-tso']),
  'tcpTwoHosts.vsOvsUserspace': against('tcpTwoHosts', 'more', ['ovs-userspace', 'ovs-userspace-tso']),
  'rttP50.vsOvsUserspace': against('rtt.8.p50', 'less', ['ovs-userspace', 'ovs-userspace-tso']),
  'tcpTwoHosts.vsVde': against('tcpTwoHosts', 'more', ['vde', 'vde-plug']),
}

/** Ratios of medians, of snapswitch to the best of the peers that were measured. */
export function ratiosOf(summaries: Summaries): Record<string, number> {
  const ratios: Record<string, number> = {}
  const value = (subject: string, figure: string) => summaries[subject]?.[figure]?.median
  for (const [key, { figure, peers, better, of = 'snapswitch' }] of Object.entries(ratioRules)) {
    const own = value(of, figure)
    if (own === undefined) continue
    if (peers.length === 0) {
      ratios[key] = Number(own.toFixed(4))
      continue
    }
    const others = peers.flatMap((peer) => value(peer, figure) ?? [])
    if (others.length === 0) continue
    const best = better === 'more' ? Math.max(...others) : Math.min(...others)
    if (best > 0) ratios[key] = Number((own / best).toFixed(4))
  }
  return ratios
}

/** Does a ratio reach what was set? Null where nothing was. */
export function reaches(key: string, value: number): boolean | null {
  const reach = ratioRules[key]?.reach
  if (reach === undefined) return null
  return value >= (reach.least ?? Number.NEGATIVE_INFINITY) && value <= (reach.most ?? Number.POSITIVE_INFINITY)
}

/** The aim in words: `at most 0.5`. */
export function aimOf(key: string): string {
  const { least, most } = ratioRules[key]?.reach ?? {}
  return [least === undefined ? '' : `at least ${least}`, most === undefined ? '' : `at most ${most}`]
    .filter(Boolean)
    .join(', ')
}
