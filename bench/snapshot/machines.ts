// The guests' side of a cell: boots them, reads their counters.

import { until } from '../../test/lab/command.js'
import type { StateLine } from '../../test/lab/console.js'
import { inGuest } from '../../test/lab/guest-shell.js'
import type { Lab } from '../../test/lab/lab.js'
import { patience } from '../../test/patience.js'
import type { Counted, CountedKey } from './rows.js'

export const bootTimeoutMs = 120_000

/** A busy machine gets twice as long, and no more: networks that stand still are waited for, too. */
export const atMost = (ms: number) => Math.min(patience(ms), 2 * ms)

/** Boots two at a time: emulated guests take all cores while they boot. */
export async function boot(lab: Lab, start: (name: string) => Promise<void>): Promise<void> {
  const names = [...lab.machines.keys()]
  for (let index = 0; index < names.length; index += 2) {
    await Promise.all(names.slice(index, index + 2).map(start))
  }
  await until('ring and streams of all machines', bootTimeoutMs, async () => {
    const states = [...lab.machines.values()].map((machine) => machine.console.state)
    const works = (state: StateLine | undefined) =>
      (state?.ring?.tokens ?? 0) > 3 && state!.receive.every((stream) => stream.received > 10)
    return states.every(works) ? true : undefined
  })
}

/** A report from each guest that was written after the call. They come twice a second. */
async function freshStates(lab: Lab): Promise<StateLine[]> {
  const before = new Map([...lab.machines].map(([name, machine]) => [name, machine.console.state?.ms ?? 0]))
  return until('a report of each machine', 15_000, () => {
    const states = [...lab.machines].flatMap(([name, machine]) => {
      const state = machine.console.state
      return state !== undefined && state.ms > before.get(name)! ? [state] : []
    })
    return states.length === before.size ? states : undefined
  })
}

export async function count(lab: Lab): Promise<Counted> {
  const states = await freshStates(lab)
  const tcp = (await Promise.all([...lab.machines.keys()].map((name) => inGuest(lab, name, readTcpCounters)))).map(
    tcpCounters,
  )
  const streams = states.flatMap((state) => state.receive)
  const sum = <T>(list: readonly T[], value: (item: T) => number) =>
    list.reduce((total, item) => total + value(item), 0)
  return {
    udpSent: sum(states, (state) => sum(state.send, (stream) => stream.sent)),
    udpReceived: sum(streams, (stream) => stream.received),
    udpLost: sum(streams, (stream) => stream.lost),
    udpDoubled: sum(streams, (stream) => stream.doubled),
    udpReordered: sum(streams, (stream) => stream.reordered),
    udpCorrupt: sum(streams, (stream) => stream.corrupt + stream.stale),
    ringHops: Math.max(...states.map((state) => state.ring?.hop ?? 0)),
    ringRetransmits: sum(states, (state) => state.ring?.retransmits ?? 0),
    tcpRetransmits: sum(tcp, (one) => one.tcpRetransmits),
    tcpTimeouts: sum(tcp, (one) => one.tcpTimeouts),
    tcpLossProbes: sum(tcp, (one) => one.tcpLossProbes),
    faults: sum(states, ({ ring, disk }) => {
      const ofRing = ring === undefined ? 0 : ring.resets + ring.duplicated + ring.skipped + ring.corrupt
      return ofRing + (disk === undefined ? 0 : disk.mismatches + disk.errors)
    }),
  }
}

/** `after` less `before`, field by field. */
export function growth(before: Counted, after: Counted): Counted {
  const keys = Object.keys(after) as CountedKey[]
  return Object.fromEntries(keys.map((key) => [key, after[key] - before[key]])) as Record<CountedKey, number>
}

/**
 * The fields of a table of /proc/net/snmp or netstat: a line of names, a line of values, both behind `Tcp:` or
 * `TcpExt:`.
 */
export function protocolCounters(text: string): Map<string, number> {
  const found = new Map<string, number>()
  const lines = text.split('\n').filter((line) => /^\s*Tcp(Ext)?: /.test(line))
  for (let index = 0; index + 1 < lines.length; index += 2) {
    const names = lines[index]!.trim().split(/\s+/)
    const values = lines[index + 1]!.trim().split(/\s+/)
    for (const [at, name] of names.entries()) if (at > 0) found.set(name, Number(values[at]))
  }
  return found
}

/** Retransmissions, timeouts (RTOs) and tail loss probes that this text counts. */
export function tcpCounters(text: string): Pick<Counted, 'tcpRetransmits' | 'tcpTimeouts' | 'tcpLossProbes'> {
  const counters = protocolCounters(text)
  const value = (name: string) => counters.get(name) ?? Number.NaN
  return {
    tcpRetransmits: value('RetransSegs'),
    tcpTimeouts: value('TCPTimeouts'),
    tcpLossProbes: value('TCPLossProbes'),
  }
}

export const readTcpCounters = 'grep -h "^Tcp" /proc/net/snmp /proc/net/netstat'
