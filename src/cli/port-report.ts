// `port list` in words: a row a port, then what is wrong with some of them.

import type { PortInfo } from '../api/schemas.js'
import { formatBytes, formatTable } from './output.js'

export function describePorts(ports: readonly PortInfo[]): string {
  const withRules = ports.some(({ rules }) => rules !== undefined)
  const withPaths = ports.some(({ fastPath }) => fastPath !== undefined)
  const head = [
    'PORT',
    'NETWORK',
    'DEVICE',
    'KIND',
    'VM',
    'UP',
    'MTU',
    'EPOCH',
    'GATE',
    'RX',
    'RX BYTES',
    'TX',
    'TX BYTES',
    'DROPS',
    ...(withPaths ? ['PATH'] : []),
    ...(withRules ? ['RULES'] : []),
  ]
  const problems = ports.flatMap(({ name, problem, warnings = [], holder }) =>
    [problem, ...warnings, holder?.problem]
      .flatMap((one) => one ?? [])
      .map(({ message, action }) => `port ${name}: ${message}. ${action}\n`),
  )
  return [
    formatTable(
      head,
      ports.map((port) => [
        ...portRow(port),
        ...(withPaths ? [describePath(port.fastPath)] : []),
        ...(withRules ? [describeRules(port.rules)] : []),
      ]),
    ),
    ...(problems.length === 0 ? [] : ['\n', ...problems]),
  ].join('')
}

/** Of all reasons, the kernel's included. */
export function allDrops(counters: PortInfo['counters']): number {
  return Object.values(counters.drops).reduce((sum, count) => sum + count, counters.kernelDrops)
}

/** Behind a port that belongs to no machine. */
function holderInWords(holder: PortInfo['holder']): string | null {
  if (holder === null || holder === undefined) return null
  return holder.kind === 'undrivable' ? `(${holder.name ?? '?'}: not driven)` : `(${holder.name ?? '?'})`
}

/** `fast`, or `slow: why`. */
const describePath = (path: PortInfo['fastPath']) => (path?.fast === true ? 'fast' : `slow: ${path?.why ?? 'off'}`)

function portRow(p: PortInfo): (string | number | null)[] {
  const { counters: c } = p
  const traffic = [c.rxFrames, formatBytes(c.rxBytes), c.txFrames, formatBytes(c.txBytes), allDrops(c)]
  return [
    p.name,
    p.network,
    // Renamed since, or named by one of its other names.
    p.ifname === undefined || p.ifname === null || p.ifname === p.device ? p.device : `${p.device} (${p.ifname})`,
    p.kind,
    p.vm ?? holderInWords(p.holder),
    p.waiting === true ? 'waiting' : p.up ? 'yes' : 'NO',
    p.mtu === 0 ? null : p.mtu,
    p.epoch,
    p.gate,
    ...traffic,
  ]
}

/** `VLAN 10* 20t-29t isolated`: `*` marks the pvid, `t` VLANs whose frames leave with their tags. */
function describeRules(rules: PortInfo['rules'] = {}): string {
  const { vlan, fdb = [], mirror } = rules
  const words: string[] = []
  if (vlan !== undefined) {
    const { pvid, untagged = [], tagged = [] } = vlan
    const isListed = [...untagged, ...tagged].some((one) => covers(one, pvid))
    const ofAll = [...(pvid === undefined || isListed ? [] : [pvid]), ...untagged]
    const mark = (one: number | string) => (covers(one, pvid) ? (one === pvid ? '*' : ` (pvid ${pvid})`) : '')
    const list = [...ofAll.map((one) => `${one}${mark(one)}`), ...tagged.map((one) => `${one}t${mark(one)}`)]
    words.push(list.length === 0 ? 'no VLAN' : `VLAN ${list.join(' ')}`)
  }
  for (const flag of ['isolated', 'hairpin', 'locked'] as const) if (rules[flag] === true) words.push(flag)
  for (const flag of ['learning', 'flood', 'mcastFlood', 'bcastFlood'] as const)
    if (rules[flag] === false) words.push(`no ${flag}`)
  if (fdb.length > 0) words.push(`${fdb.length} static`)
  if (mirror !== undefined) words.push(mirrorInWords(mirror))
  return words.join(', ')
}

function mirrorInWords({ of, direction = 'both' }: NonNullable<NonNullable<PortInfo['rules']>['mirror']>): string {
  return `mirror of ${of.join(' ')}${direction === 'both' ? '' : ` (${direction})`}`
}

function covers(one: number | string, vlan: number | undefined): boolean {
  if (vlan === undefined) return false
  const [first, last = first] = String(one).split('-').map(Number)
  return vlan >= first! && vlan <= last!
}
