// The state of a switch at a point of a run, as tables.

import type { RunView } from '../../switch/recording/view.js'
import { formatTable, type Terminal } from './output.js'

export function printView(terminal: Terminal, view: RunView): void {
  const { epoch, fence, snapshot, ports, fdb } = view
  const open = snapshot === null ? '' : `, the snapshot of epoch ${snapshot} is open`
  terminal.out(`after input ${view.inputs}, ${view.frames} frames: epoch ${epoch}, fence ${fence}${open}\n`)
  terminal.out(
    formatTable(
      ['PORT', 'KIND', 'MACHINE', 'EPOCH', 'GATE', 'HELD', 'PEER'],
      ports.map((port) => [port.name, port.kind, port.vm, port.epoch, port.gate, port.held, port.peer]),
    ),
  )
  terminal.out(
    formatTable(
      ['ADDRESS', 'VLAN', 'PORT', 'AGE', 'STATE'],
      fdb.map(({ mac, vlan, port, ageSeconds, state }) => [mac, vlan, port, ageSeconds, state]),
    ),
  )
}
