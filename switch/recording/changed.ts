// A run on another configuration: its forwarder is changed when it takes up the run, as a running switch would be, and
// the commands of the run are changed before they are performed.

import { MAX_PORTS } from '../forwarding/counters.js'
import type { Forwarder } from '../forwarding/forwarder.js'
import type { InputName, Inputs } from '../forwarding/inputs.js'
import type { NetworkSettings } from '../forwarding/network.js'
import type { Output, PortSpec } from '../forwarding/port-state.js'

/** What is to be otherwise than it was when the run was recorded. */
export interface Changes {
  settings(settings: NetworkSettings): NetworkSettings
  /** What a port of the run is; null: it is not there. */
  port(spec: PortSpec): PortSpec | null
  /** Ports that the run has not; nothing comes in by them. */
  readonly added: readonly Omit<PortSpec, 'index' | 'epoch' | 'mac'>[]
}

const NO_MAC = new Uint8Array(6)

/** What is there when the run begins, or goes on after a gap. */
export function changeAll(forwarder: Forwarder, changes: Changes, outputOf: (port: number) => Output): void {
  const { network } = forwarder
  network.configure(changes.settings(network.options))
  for (const { peer, spec } of [...forwarder.ports]) {
    if (peer !== null) continue
    const other = changes.port(spec)
    if (other === null) forwarder.removePort(spec.index)
    else if (other.kind === spec.kind && other.vm === spec.vm) forwarder.setRules(spec.index, other.rules ?? {})
    // Nothing is under way: it is another port from now on, at once.
    else forwarder.portReplaced({ ...other, epoch: network.epoch }, outputOf(spec.index), Number.NEGATIVE_INFINITY)
  }
  // From the highest index down: the ports that the run adds come from below.
  let index = MAX_PORTS - 1
  for (const port of changes.added) {
    while (forwarder.byIndex[index] !== undefined) index--
    forwarder.addPort({ ...port, index, epoch: network.epoch, mac: NO_MAC }, outputOf(index))
  }
}

/** What a command is now; null: it is of a port that is not there. */
export function changedArgs<Name extends InputName>(
  forwarder: Forwarder,
  name: Name,
  args: Inputs[Name]['args'],
  changes: Changes,
): Inputs[Name]['args'] | null {
  const isThere = (port: number) => forwarder.byIndex[port] !== undefined
  switch (name) {
    case 'configure': {
      const { settings } = args as Inputs['configure']['args']
      return { settings: changes.settings(settings) } as Inputs[Name]['args']
    }
    case 'addPort':
    case 'changePort': {
      const { spec, now } = args as Inputs['addPort']['args']
      const other = changes.port(spec)
      return other === null ? null : ({ spec: other, now } as Inputs[Name]['args'])
    }
    case 'preload':
    case 'announce':
      return isThere((args as Inputs['announce']['args']).port) ? args : null
    case 'learn': {
      const { addresses, now } = args as Inputs['learn']['args']
      return { addresses: addresses.filter(({ port }) => isThere(port)), now } as Inputs[Name]['args']
    }
    default:
      return args
  }
}
