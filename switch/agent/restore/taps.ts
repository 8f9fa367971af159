// The TAPs of the machines that a restore loads: opened here and handed over. One that is missing is made; one that a
// former self holds gets a stand-in, which takes its name when that has ended.

import type { Logger } from 'pino'
import type { MemberPart } from '../../../src/api/schemas.js'
import type { TapNeed } from '../../../src/hypervisor/driver.js'
import { tapNeeds, whyNotTwice } from '../../../src/hypervisor/drivers.js'
import type { MachineDefinition } from '../../../src/hypervisor/hypervisor.js'
import { Links } from '../../../src/linux/link.js'
import { closeAll, createTap, type OpenOptions, openFreeTap, openStandIn } from '../../../src/linux/tap.js'
import type { Ports } from '../../ports/ports.js'
import type { RestoreRecord } from '../journal.js'
import { nicOn } from '../machines.js'
import { tapHeld } from './held-taps.js'

let made = 0

interface StandIn {
  readonly vm: string
  readonly device: string
  readonly name: string
}

interface TapsHost {
  readonly ports: Pick<Ports, 'replaceTap' | 'removeTap'>
  readonly log: Pick<Logger, 'warn'>
}

/** What a restore needs of it. */
export type Taps = Pick<RestoreTaps, keyof RestoreTaps>

export class RestoreTaps {
  readonly #host: TapsHost
  readonly #links = new Links()
  readonly #standIns: StandIn[] = []
  /** TAPs of NICs that are no ports, made here. */
  readonly #madeOutside: { readonly vm: string; readonly device: string }[] = []
  readonly #opened: number[] = []
  readonly warnings: string[] = []

  constructor(host: TapsHost) {
    this.#host = host
  }

  /** Names for the stand-ins that may be made: to be on record before they are there. */
  planned(members: readonly MemberPart[]): NonNullable<RestoreRecord['standIns']> {
    if (this.#standIns.length === 0) {
      for (const { vm, definition } of members) {
        const machine = definition as MachineDefinition
        if (whyNotTwice(machine) !== null) continue
        for (const { device } of machine.nics) this.#standIns.push({ vm, device, name: this.#freeName() })
      }
    }
    return this.#standIns
  }

  #freeName(): string {
    for (;;) {
      const name = `sswt${process.pid}-${made++ % 1000}`
      if (this.#links.find(name) === null && !this.#standIns.some((one) => one.name === name)) return name
    }
  }

  /** TAPs that `makeOutside` will make: to be on record before they are there. */
  plannedOutside(members: readonly MemberPart[]): RestoreRecord['taps'] {
    return members.flatMap((part) => this.#lackingOutside(part).map((device) => ({ device, vm: part.vm })))
  }

  /** Of a machine's NICs that are no ports, those whose TAPs are not there. */
  #lackingOutside({ definition, ports }: MemberPart): string[] {
    const devices = (definition as MachineDefinition).nics.map(({ device }) => device)
    return devices.filter((name) => !ports.some(({ device }) => device === name) && this.#links.find(name) === null)
  }

  /** TAPs of a machine's NICs that are no ports: there on return. Those of ports are made with the ports. */
  makeOutside(part: MemberPart): void {
    for (const device of this.#lackingOutside(part)) {
      const record = part.outside?.find((one) => one.device === device)
      const multiQueue = hasQueues(part, device)
      createTap(device, { multiQueue, ...(record === undefined ? {} : { mtu: record.mtu }) })
      this.#madeOutside.push({ vm: part.vm, device })
    }
  }

  /**
   * Opens the taps of its NICs, in order, where the driver takes them so. `formerTaps`: those that its former self
   * holds. Throws DEVICE_BUSY when somebody else holds one, and when one cannot be had; `close` closes what was opened.
   */
  open(part: MemberPart, formerTaps: ReadonlySet<string>): number[][] {
    const machine = part.definition as MachineDefinition
    if (whyNotTwice(machine) !== null) return []
    const needs = needsOf(part)
    return machine.nics.map(({ device }) => {
      const { queues, vnetHeader } = needs.get(device) ?? { queues: 1, vnetHeader: true }
      const descriptors = this.#openOne(part.vm, device, queues, { vnetHeader }, formerTaps)
      this.#opened.push(...descriptors)
      return descriptors
    })
  }

  #openOne(
    vm: string,
    device: string,
    queues: number,
    options: OpenOptions,
    formerTaps: ReadonlySet<string>,
  ): number[] {
    const link = this.#links.get(device)
    const free = openFreeTap(link, queues, options)
    if (free !== null) return free
    if (!formerTaps.has(device)) throw tapHeld(vm, device)
    const standIn = this.#standIns.find((one) => one.vm === vm && one.device === device)!
    return openStandIn(standIn.name, link, queues, options)
  }

  /** The stand-in of a port's device; null: it needs none. */
  standInOf(vm: string, device: string): string | null {
    const name = this.#standIns.find((one) => one.vm === vm && one.device === device)?.name
    return name !== undefined && this.#links.find(name) !== null ? name : null
  }

  /**
   * NICs that are no ports: under their names, up, and in the bridges that they were in. What cannot be had is a
   * warning.
   */
  connectOutside(part: MemberPart): void {
    for (const { device } of (part.definition as MachineDefinition).nics) {
      if (part.ports.some((port) => port.device === device)) continue
      const former = this.#links.find(device)
      const standIn = this.standInOf(part.vm, device)
      if (standIn !== null) this.#host.ports.replaceTap(device, standIn)
      const link = this.#links.find(device)
      if (link === null) continue
      const made = standIn !== null || this.#madeOutside.some((one) => one.device === device)
      const master = this.#masterOf(part, device, former?.master ?? null)
      try {
        if (master !== null && link.master === null) this.#links.change(link.index, { master })
        if (made || !link.up) this.#links.change(link.index, { up: true })
      } catch (thrown) {
        this.warnings.push(`${part.vm}: NIC ${device} is not connected as it was: ${(thrown as Error).message}`)
      }
    }
  }

  #masterOf(part: MemberPart, device: string, former: number | null): number | null {
    if (former !== null) return former
    const record = part.outside?.find((one) => one.device === device)
    if (record === undefined) {
      if (this.#links.find(device)?.master === null)
        this.warnings.push(`${part.vm}: NIC ${device} is no port of snapswitch: nothing is known of what it led to`)
      return null
    }
    if (record.master === null) return null
    const master = this.#links.find(record.master)
    if (master === null)
      this.warnings.push(`${part.vm}: NIC ${device} was in bridge ${record.master}, which this host has not`)
    return master?.index ?? null
  }

  /** The hypervisors have their own. */
  close(): void {
    closeAll(this.#opened.splice(0))
  }

  /** Removes what was made, but for machines that run. */
  giveBack(running: ReadonlySet<string>): void {
    const gone = [
      ...this.#standIns.map(({ vm, name }) => ({ vm, device: name })),
      ...this.#madeOutside.splice(0),
    ].filter(({ vm }) => !running.has(vm))
    for (const { device } of gone) {
      try {
        this.#host.ports.removeTap(device)
      } catch (thrown) {
        this.#host.log.warn({ err: thrown, tap: device }, 'cannot remove a TAP')
      }
    }
    this.finish()
  }

  finish(): void {
    this.close()
    this.#links.close()
  }
}

/** Whether its NIC on that tap has several queues. */
export function hasQueues(part: MemberPart, device: string): boolean {
  const nic = nicOn(part.definition as MachineDefinition, device)
  return (needsOf(part).get(device)?.queues ?? nic?.queues ?? 1) > 1
}

/** How the taps of its NICs are to be opened; none where the driver opens them. */
function needsOf(part: MemberPart): ReadonlyMap<string, TapNeed> {
  const machine = part.definition as MachineDefinition
  const needs = tapNeeds(machine)
  return new Map(
    machine.nics.flatMap(({ device }, nth) => {
      const need = needs[nth]
      return need === undefined ? [] : [[device, need] as const]
    }),
  )
}
