// What enters a network's forwarder besides frames and time: each input as plain data, and what it does. The datapath
// performs its commands by these, and a recorded run is replayed by them, so that both do the same.
//
// The times are Unix times in milliseconds.

import type { Policy } from '../../src/api/schemas.js'
import { macHigh, macLow } from '../../src/frame/ethernet.js'
import type { FrameCopy } from '../../src/frame/frame.js'
import { parseMac } from '../../src/frame/mac.js'
import { eventLogMemory } from './event-log.js'
import type { Forwarder } from './forwarder.js'
import type { NetworkSettings } from './network.js'
import type { DeviceState, Output, PortSpec } from './port-state.js'
import type { ChannelState } from './snapshot/open-snapshot.js'

type Ports = readonly number[]

export interface Cut {
  readonly recorded: number
  readonly lost: number
}

export interface Inputs {
  addPort: { args: { spec: PortSpec; now: number }; result: null }
  removePort: { args: { index: number }; result: null }
  changePort: { args: { spec: PortSpec; now: number }; result: null }
  portChanged: { args: { index: number; device: DeviceState; now: number }; result: null }
  configure: { args: { settings: NetworkSettings }; result: null }
  begin: { args: { epoch: number; policy: Policy; until: number; now: number }; result: null }
  arm: { args: { ports: Ports }; result: null }
  /** Frame events are written down from now on; `writes` false: no more. */
  record: { args: { writes: boolean; now: number }; result: null }
  gate: { args: { ports: Ports; forOther: boolean; now: number }; result: null }
  flip: { args: { ports: Ports; epoch: number; residue: readonly number[]; now: number }; result: readonly Cut[] }
  release: { args: { ports: Ports; most: readonly number[]; now: number }; result: number }
  drain: { args: { ports: Ports; most: readonly number[]; now: number }; result: number }
  end: { args: Record<string, never>; result: ChannelState }
  advance: { args: { epoch: number; most: number; now: number }; result: null }
  fence: { args: { ports: Ports; epoch: number; now: number }; result: null }
  preload: { args: { port: number; frames: readonly Omit<FrameCopy, 'color'>[] }; result: null }
  announce: { args: { port: number; mac: Uint8Array; now: number }; result: null }
  learn: { args: { addresses: readonly { mac: string; vlan: number; port: number }[]; now: number }; result: null }
}

export type InputName = keyof Inputs

/** What an input needs that is no data. */
export interface InputSurroundings {
  /** Where frames go that leave by a port. */
  outputOf(port: number): Output
  /** Of `record`: where events are written. By default, nobody will read them. */
  readonly events?: SharedArrayBuffer | null
}

type Performers = {
  readonly [Name in InputName]: (
    forwarder: Forwarder,
    args: Inputs[Name]['args'],
    at: InputSurroundings,
  ) => Inputs[Name]['result']
}

const performers: Performers = {
  addPort: (forwarder, { spec, now }, at) => {
    const port = forwarder.addPort(spec, at.outputOf(spec.index))
    // Before any frame: the peer must know that this end is new to read what comes from it.
    if (port.isTrunk) forwarder.trunks.greet(port, now)
    return null
  },
  removePort: (forwarder, { index }) => {
    forwarder.removePort(index)
    return null
  },
  changePort: (forwarder, { spec, now }, at) => {
    const port = forwarder.portReplaced(spec, at.outputOf(spec.index), now)
    if (port.isTrunk) forwarder.trunks.greet(port, now)
    return null
  },
  portChanged: (forwarder, { index, device, now }, at) => {
    forwarder.portChanged(index, device, at.outputOf(index), now)
    return null
  },
  configure: (forwarder, { settings }) => {
    forwarder.network.configure(settings)
    return null
  },
  begin: (forwarder, { epoch, policy, until, now }) => {
    forwarder.snapshots.begin(epoch, policy, until, now)
    return null
  },
  arm: (forwarder, { ports }) => {
    forwarder.snapshots.arm(ports)
    return null
  },
  record: (forwarder, { writes, now }, { events }) => {
    forwarder.snapshots.record(writes ? (events ?? eventLogMemory(0)) : null, now)
    return null
  },
  gate: (forwarder, { ports, forOther, now }) => {
    forwarder.snapshots.gate(ports, now, forOther)
    return null
  },
  flip: (forwarder, { ports, epoch, residue, now }) => forwarder.snapshots.flip(ports, epoch, residue, now),
  release: (forwarder, { ports, most, now }) => forwarder.snapshots.release(ports, now, most),
  drain: (forwarder, { ports, most, now }) => forwarder.snapshots.drain(ports, now, most),
  end: (forwarder) => forwarder.snapshots.end(),
  advance: (forwarder, { epoch, most, now }) => {
    forwarder.snapshots.advance(epoch, now, most)
    return null
  },
  fence: (forwarder, { ports, epoch, now }) => {
    forwarder.snapshots.fence(ports, epoch, now)
    return null
  },
  preload: (forwarder, { port, frames }) => {
    forwarder.snapshots.preload(port, frames)
    return null
  },
  announce: (forwarder, { port, mac, now }) => {
    forwarder.announce(port, mac, now)
    return null
  },
  learn: ({ fdb }, { addresses, now }) => {
    const seconds = Math.floor(now / 1000)
    for (const { mac, vlan, port } of addresses) {
      const bytes = parseMac(mac)
      fdb.learn(macHigh(bytes, 0), macLow(bytes, 0), vlan, port, seconds)
    }
    return null
  },
}

export const inputNames = Object.keys(performers) as readonly InputName[]

export function performInput<Name extends InputName>(
  forwarder: Forwarder,
  name: Name,
  args: Inputs[Name]['args'],
  at: InputSurroundings,
): Inputs[Name]['result'] {
  return performers[name](forwarder, args, at)
}
