// A capture's filter as the forwarding thread asks it, once a frame and port: functions that were put together when the
// capture began, and allocate nothing.

import type { Filter } from '../../src/capture/filter.js'
import { Direction } from '../../src/capture/stream.js'
import { EtherType, isGroup, macHigh, macLow, VLAN_TAG_LENGTH, vlanId } from '../../src/frame/ethernet.js'
import type { Frame } from '../../src/frame/frame.js'
import { parseMac } from '../../src/frame/mac.js'
import { type DropReason, dropReasons } from '../forwarding/counters.js'
import type { PortState } from '../forwarding/port-state.js'

/** What becomes of a frame at a port. `RECEIVED`: it has come in there, and was not turned away. */
export const Verdict = { RECEIVED: 0, DELIVERED: 1, HELD: 2, DROPPED: 3 } as const
export type Verdict = (typeof Verdict)[keyof typeof Verdict]

const VERDICTS = {
  received: Verdict.RECEIVED,
  delivered: Verdict.DELIVERED,
  held: Verdict.HELD,
  dropped: Verdict.DROPPED,
}
const ANY = -1

/** `direction`: Direction; `reason`: index among dropReasons, or beyond. */
export type Matcher = (port: PortState, frame: Frame, direction: number, verdict: number, reason: number) => boolean

export function matcherOf(filter: Filter | null): Matcher {
  if (filter === null) return () => true
  switch (filter.kind) {
    case 'all': {
      const [first, second, ...more] = filter.of.map(matcherOf)
      const rest = more.length === 0 ? second : matcherOf({ kind: 'all', of: filter.of.slice(1) })
      return (p, f, d, v, r) => first(p, f, d, v, r) && rest(p, f, d, v, r)
    }
    case 'any': {
      const [first, second, ...more] = filter.of.map(matcherOf)
      const rest = more.length === 0 ? second : matcherOf({ kind: 'any', of: filter.of.slice(1) })
      return (p, f, d, v, r) => first(p, f, d, v, r) || rest(p, f, d, v, r)
    }
    case 'not': {
      const inner = matcherOf(filter.of)
      return (p, f, d, v, r) => !inner(p, f, d, v, r)
    }
    case 'port':
      return ({ spec }) => spec.name === filter.name
    case 'vm':
      return ({ spec }) => spec.vm === filter.name
    case 'mac':
      return ofMac(parseMac(filter.mac), filter.side)
    case 'group':
      return filter.broadcast ? (_, f) => isBroadcast(f) : (_, f) => isGroup(f.bytes, f.start)
    case 'vlan':
      return ofVlan(filter.vlan ?? ANY)
    case 'ethertype':
      return (_, frame) => typeOf(frame) === filter.type
    case 'direction': {
      const wanted = filter.direction === 'in' ? Direction.IN : Direction.OUT
      return (_, __, direction) => direction === wanted
    }
    case 'verdict': {
      const wanted = VERDICTS[filter.verdict]
      return (_, __, ___, verdict) => verdict === wanted
    }
    case 'reason': {
      const wanted = dropReasons.indexOf(filter.reason as DropReason)
      return (_, __, ___, verdict, reason) => verdict === Verdict.DROPPED && reason === wanted
    }
  }
}

function ofMac(mac: Uint8Array, side: 'src' | 'dst' | 'either'): Matcher {
  const high = macHigh(mac, 0)
  const low = macLow(mac, 0)
  const isAt = (frame: Frame, at: number) =>
    macLow(frame.bytes, frame.start + at) === low && macHigh(frame.bytes, frame.start + at) === high
  if (side === 'dst') return (_, frame) => isAt(frame, 0)
  if (side === 'src') return (_, frame) => isAt(frame, 6)
  return (_, frame) => isAt(frame, 0) || isAt(frame, 6)
}

/** Without a tag it is of the port's pvid: so it was before its tag was taken off, or will be. */
function ofVlan(wanted: number): Matcher {
  return (port, frame) => {
    const vlan = vlanId(frame) || (port.rules?.vlans?.pvid ?? 0)
    return wanted === ANY ? vlan !== 0 : vlan === wanted
  }
}

function isBroadcast({ bytes, start }: Frame): boolean {
  return macHigh(bytes, start) === 0xffff && macLow(bytes, start) === -1
}

/** Behind all tags; what a frame has no room for is 0. */
function typeOf({ bytes, start, length }: Frame): number {
  let at = 12
  for (;;) {
    if (at + 2 > length) return 0
    const type = (bytes[start + at] << 8) | bytes[start + at + 1]
    if (type !== EtherType.VLAN && type !== EtherType.SERVICE_VLAN) return type
    at += VLAN_TAG_LENGTH
  }
}

/** Whether any frame at a port can fit. */
export function mayMatch(filter: Filter | null, port: PortState): boolean {
  return filter === null || ofPort(filter, port) !== false
}

/** As far as the port alone says; null: it depends on the frame. */
function ofPort(filter: Filter, port: PortState): boolean | null {
  switch (filter.kind) {
    case 'port':
      return port.spec.name === filter.name
    case 'vm':
      return port.spec.vm === filter.name
    case 'not': {
      const inner = ofPort(filter.of, port)
      return inner === null ? null : !inner
    }
    case 'all':
    case 'any': {
      const decides = filter.kind === 'any'
      const all = filter.of.map((one) => ofPort(one, port))
      if (all.includes(decides)) return decides
      return all.includes(null) ? null : !decides
    }
    default:
      return null
  }
}
