// What the control thread asks of a network's forwarder (protocol.ts), performed between two batches of the datapath's
// loop: here is what a command does in one step, with nothing in between.

import { formatMacWords } from '../../src/frame/mac.js'
import { CaptureTap } from '../capture/tap.js'
import type { Forwarder } from '../forwarding/forwarder.js'
import type { InputName, Inputs } from '../forwarding/inputs.js'
import type { Network } from '../forwarding/network.js'
import type { CommandName, Commands, FdbRow, Opening } from './protocol.js'

export type Handlers<K extends CommandName> = {
  [Name in K]: (args: Commands[Name]['args']) => Commands[Name]['result']
}

export type NetworkCommand = Exclude<
  CommandName,
  | 'addNetwork'
  | 'removeNetwork'
  | 'addPort'
  | 'removePort'
  | 'changePort'
  | 'portChanged'
  | 'handOver'
  | 'startRecording'
  | 'continueRecording'
  | 'endRecording'
  | 'polling'
  | 'play'
  | 'endPlay'
  | 'fastPath'
  | 'hooked'
  | 'paths'
  | 'verdicts'
  | 'ping'
  | 'stop'
>

/** What the commands need of the datapath around the forwarders. */
export interface Surroundings {
  /** Throws NETWORK_UNKNOWN. */
  forwarder(network: string): Forwarder
  /** Hands an input to a network's forwarder. `events`: of `record`. Throws NETWORK_UNKNOWN. */
  perform<Name extends InputName>(
    network: string,
    name: Name,
    args: Inputs[Name]['args'],
    events?: SharedArrayBuffer | null,
  ): Inputs[Name]['result']
  /** Unix time in milliseconds. */
  now(): number
  /** Reads and forwards all that waits in a port's socket. */
  drain(network: string, port: number): void
  /** Counts what the kernel has dropped at the network's ports so far. */
  housekeeping(network: string): void
  /** Hands what was sent to the devices. */
  flush(): void
}

export function networkCommands(at: Surroundings): Handlers<NetworkCommand> {
  /** A command that opens gates. */
  const opening = <Name extends 'release' | 'drain' | 'advance'>(
    network: string,
    name: Name,
    args: Omit<Inputs[Name]['args'], 'now'>,
  ): Opening => {
    const now = at.now()
    at.perform(network, name, { ...args, now } as Inputs[Name]['args'])
    at.flush()
    return { opening: at.forwarder(network).snapshots.opening(), atUs: Math.round(now * 1000) }
  }
  const taps = new Map<number, { readonly tap: CaptureTap; readonly network: Network }>()
  return {
    configure: ({ network, settings }) => {
      at.perform(network, 'configure', { settings })
      return null
    },
    begin: ({ network, epoch, policy, until }) => {
      at.perform(network, 'begin', { epoch, policy, until, now: at.now() })
      at.flush()
      return null
    },
    arm: ({ network, ports }) => {
      at.perform(network, 'arm', { ports })
      return null
    },
    record: ({ network, memory }) => {
      const forwarder = at.forwarder(network)
      // What has come in fast by now is not recorded. Nor is what was sent before it, and waits here yet: a recording
      // begins at one point of a channel, or its audit would miss frames.
      if (memory !== null) for (const way of forwarder.ports) if (way.channel !== null) at.drain(network, way.index)
      // Kernel drops are read now: what was lost before or after is no matter of the recording.
      at.housekeeping(network)
      at.perform(network, 'record', { writes: memory !== null, now: at.now() }, memory)
      const ways = forwarder.ports.filter((port) => port.channel !== null)
      return ways.map((way) => ({ index: way.index, port: way.spec.index, host: way.channel!.host }))
    },
    capture: ({ network, id, tap: options }) => {
      const former = taps.get(id)
      taps.delete(id)
      former?.network.unobserve(former.tap)
      if (options === null) return null
      const { network: observed, ports } = at.forwarder(network)
      const tap = new CaptureTap(options)
      tap.begin(ports)
      observed.observe(tap)
      taps.set(id, { tap, network: observed })
      return null
    },
    gate: ({ network, ports, forOther = false }) => {
      const forwarder = at.forwarder(network)
      at.perform(network, 'gate', { ports, forOther, now: at.now() })
      at.flush()
      return { held: ports.map((index) => forwarder.byIndex[index]?.hold.length ?? 0) }
    },
    flip: ({ network, ports: indexes, epoch, residue }) => {
      for (const index of indexes) at.drain(network, index)
      const now = at.now()
      const results = at.perform(network, 'flip', { ports: indexes, epoch, residue, now })
      at.flush()
      return { atUs: Math.round(now * 1000), ports: results }
    },
    release: ({ network, ports, most }) => opening(network, 'release', { ports, most }),
    drain: ({ network, ports, most }) => opening(network, 'drain', { ports, most }),
    end: ({ network }) => {
      const held = at.forwarder(network).snapshots.heldFrames
      return { ...at.perform(network, 'end', {}), held }
    },
    advance: ({ network, epoch, most }) => opening(network, 'advance', { epoch, most }),
    fence: ({ network, ports: indexes, epoch }) => {
      // What a machine that has just ended left behind keeps its old color, and so stops at the fence.
      for (const index of indexes) at.drain(network, index)
      at.perform(network, 'fence', { ports: indexes, epoch, now: at.now() })
      at.flush()
      return null
    },
    preload: ({ network, port, frames }) => {
      at.perform(network, 'preload', { port, frames })
      return null
    },
    announce: ({ network, port, mac }) => {
      at.perform(network, 'announce', { port, mac, now: at.now() })
      at.flush()
      return null
    },
    learn: ({ network, addresses }) => {
      at.perform(network, 'learn', { addresses, now: at.now() })
      return null
    },
    fdb: ({ network }) => {
      const rows: FdbRow[] = []
      const { fdb, byIndex } = at.forwarder(network)
      fdb.visit(
        (high, low, vlan, index, ageSeconds, state) => {
          // What was learned from a peer on a LAN is behind the uplink.
          const port = byIndex[index]?.spec.index ?? index
          rows.push({ mac: formatMacWords(high, low), vlan, port, ageSeconds, state })
        },
        Math.floor(at.now() / 1000),
      )
      return rows
    },
    network: ({ network }) => {
      const forwarder = at.forwarder(network)
      const now = at.now()
      const trunks = forwarder.ports.filter((port) => port.isTrunk)
      return {
        epoch: forwarder.network.epoch,
        fdbEntries: forwarder.fdb.size,
        peers: trunks.map((port) => ({
          port: port.spec.index,
          host: port.channel!.host,
          bootId: port.channel!.bootId,
          alive: forwarder.trunks.isAlive(port, now),
          lastHeardMs: Number.isFinite(port.channel!.lastHeard) ? Math.round(now - port.channel!.lastHeard) : null,
        })),
      }
    },
  }
}
