// The state of a forwarder at any point of a run, for people and programs.

import { formatMacWords } from '../../src/frame/mac.js'
import type { Replay } from './replay.js'

export interface PortView {
  readonly index: number
  readonly name: string
  readonly kind: string
  readonly vm: string | null
  readonly epoch: number | null
  readonly gate: 'open' | 'closed' | 'opening'
  /** Frames that wait for its gate or its cut. */
  readonly held: number
  readonly peer: string | null
}

export interface RunView {
  readonly network: string
  readonly host: string
  /** Inputs and frames performed. */
  readonly inputs: number
  readonly frames: number
  /** Unix time in milliseconds of the last input. */
  readonly now: number
  readonly epoch: number
  readonly fence: number
  /** Of the snapshot that is open. */
  readonly snapshot: number | null
  readonly ports: readonly PortView[]
  readonly fdb: readonly {
    readonly mac: string
    readonly vlan: number
    readonly port: string
    readonly ageSeconds: number
    readonly state: string
  }[]
}

export function viewOf(replay: Replay): RunView {
  const { forwarder, head, input, frames } = replay
  const { network } = forwarder
  const fdb: RunView['fdb'][number][] = []
  const nameOf = (index: number) => {
    const port = forwarder.byIndex[index]
    if (port === undefined) return `port ${index}`
    return port.peer === null ? port.spec.name : `${port.spec.name} to ${port.channel?.host ?? 'a peer'}`
  }
  network.fdb.visit(
    (high, low, vlan, port, ageSeconds, state) =>
      fdb.push({ mac: formatMacWords(high, low), vlan, port: nameOf(port), ageSeconds, state }),
    Math.floor(input.now / 1000),
  )
  return {
    network: head.options.network,
    host: head.options.host,
    inputs: input.number,
    frames,
    now: input.now,
    epoch: network.epoch,
    fence: network.fence,
    snapshot: forwarder.snapshots.openEpoch,
    ports: forwarder.ports.map((port) => ({
      index: port.index,
      name: nameOf(port.index),
      kind: port.peer === null ? port.spec.kind : 'peer',
      vm: port.spec.vm,
      epoch: port.isMember ? port.epoch : null,
      gate: port.opening ? 'opening' : port.closed ? 'closed' : 'open',
      held: port.hold.length,
      peer: port.channel?.host ?? null,
    })),
    fdb: fdb.sort((a, b) => (a.mac < b.mac ? -1 : a.mac > b.mac ? 1 : a.vlan - b.vlan)),
  }
}
