// What must hold of one host when its recording has been walked through to the end: the snapshot began and its channels
// closed, every port has cut once and stands open, nothing waits without a reason, and the ports of a machine have cut
// as one.

import type { EventTable } from '../trace/event-reader.js'
import { Event } from '../trace/events.js'
import type { Book } from './book.js'
import type { PortRun } from './port-run.js'

/** What is known when a recording has been walked through. */
export interface WalkedRun {
  readonly table: EventTable
  readonly ports: readonly PortRun[]
  /** Numbers of the events that the snapshot began with and its channels closed with; -1: there was none. */
  readonly begin: number
  readonly closed: number
}

export function checkEnd({ table, ports, begin, closed }: WalkedRun, book: Book): void {
  const { host } = table.head
  if (begin < 0) book.violated('termination', { what: 'the snapshot never began', host })
  if (closed < 0) book.violated('termination', { what: 'the channels never closed', host })
  ports.forEach((run, port) => {
    if (table.ports[port].kind !== 'member') return
    const where = { host, port: table.ports[port].name }
    book.examined('termination')
    if (run.epoch < 0) return
    if (run.flip < 0) book.violated('termination', { what: 'the port made no cut', ...where })
    if (run.closed) book.violated('termination', { what: 'the gate never opened', ...where })
    for (const held of run.held) {
      if (run.closed || table.color[held] > run.epoch) continue
      book.violatedBy('undisturbed run', table, held, 'held, and never delivered though nothing is in the way')
    }
  })
}

/** A machine's ports cut at once: nothing may happen between the first and the last. */
export function checkMachines({ table, ports }: WalkedRun, book: Book): void {
  const machines = new Map<string, number[]>()
  table.ports.forEach(({ vm }, port) => {
    const { flip } = ports[port]
    if (vm !== null && flip >= 0) machines.set(vm, [...(machines.get(vm) ?? []), flip])
  })
  for (const [vm, flips] of machines) {
    const last = Math.max(...flips)
    for (let at = Math.min(...flips); at <= last; at++) {
      const kind = table.kind[at]
      if (kind === Event.flip || kind === Event.residue) continue
      book.violatedBy('no orphan', table, at, `happens between the cuts of two ports of ${vm}`)
      break
    }
  }
}
