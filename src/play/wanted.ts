// The filter language of `snapswitch capture` (src/capture/filter.ts), asked of a packet in a file. Pure.

import type { Filter } from '../capture/filter.js'
import { SnapswitchError } from '../errors/errors.js'
import { EtherType, isGroup, macHigh, macLow } from '../frame/ethernet.js'
import { parseMac } from '../frame/mac.js'
import type { TracePacket } from '../trace/packet.js'
import { afterTags } from './mapping.js'

export type Wanted = (packet: TracePacket) => boolean

/** @throws SnapswitchError REQUEST_INVALID for what only a switch knows of a frame */
export function wantedBy(filter: Filter): Wanted {
  switch (filter.kind) {
    case 'all': {
      const of = filter.of.map(wantedBy)
      return (packet) => of.every((one) => one(packet))
    }
    case 'any': {
      const of = filter.of.map(wantedBy)
      return (packet) => of.some((one) => one(packet))
    }
    case 'not': {
      const of = wantedBy(filter.of)
      return (packet) => !of(packet)
    }
    case 'port':
      return (packet) => packet.interface.name === filter.name
    case 'mac':
      return byMac(filter.mac, filter.side)
    case 'group':
      return ({ buffer, start }) => isGroup(buffer, start) && (!filter.broadcast || isBroadcast(buffer, start))
    case 'vlan':
      return (packet) => {
        const vlan = vlanOf(packet)
        return filter.vlan === null ? vlan > 0 : vlan === filter.vlan
      }
    case 'ethertype':
      return ({ buffer, start, length }) => {
        const at = afterTags(buffer, start, length)
        return ((buffer[at - 2] << 8) | buffer[at - 1]) === filter.type
      }
    case 'direction':
      return (packet) => packet.direction === (filter.direction === 'in' ? 'inbound' : 'outbound')
    default:
      throw new SnapswitchError(
        'REQUEST_INVALID',
        `a packet in a file cannot be asked for its ${filter.kind}`,
        'Filter by port (the interface), mac, src, dst, vlan, ethertype, in, out; see `snapswitch capture --help`.',
      )
  }
}

function byMac(text: string, side: 'src' | 'dst' | 'either'): Wanted {
  const mac = parseMac(text)
  const [high, low] = [macHigh(mac, 0), macLow(mac, 0)]
  const at = (buffer: Uint8Array, offset: number) => macHigh(buffer, offset) === high && macLow(buffer, offset) === low
  return ({ buffer, start }) => (side !== 'src' && at(buffer, start)) || (side !== 'dst' && at(buffer, start + 6))
}

function isBroadcast(buffer: Uint8Array, start: number): boolean {
  return macHigh(buffer, start) === 0xffff && macLow(buffer, start) === -1
}

/** 0: no tag. */
function vlanOf({ buffer, start, length }: TracePacket): number {
  const type = (buffer[start + 12] << 8) | buffer[start + 13]
  if ((type !== EtherType.VLAN && type !== EtherType.SERVICE_VLAN) || length < 18) return 0
  return ((buffer[start + 14] << 8) | buffer[start + 15]) & 0xfff
}
