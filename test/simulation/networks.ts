// Several networks on the same hosts: what each has of its own, and how a schedule comes to have them. Machines have
// NICs in more than one; the first network may be on a LAN, the others are joined by trunks.

import type { Random } from './chance.js'
import { BROADCAST, type Fault, type MachineSpec, type Order, OUTSIDE, type Scenario, type Send } from './scenario.js'

export interface TrunkWeather {
  readonly delay: number
  readonly jitter: number
  readonly reorder: boolean
  readonly loss: number
  readonly duplicate: number
}

/** A network beside the first. */
export interface OtherNetwork {
  readonly epoch: number
  readonly chain: boolean
  readonly trunk: TrunkWeather
}

export const networkName = (network: number): string => (network === 0 ? 'lab' : `lab${network}`)

export const networkNumber = (name: string): number => Number(name.slice('lab'.length))

/** How the hosts are joined in a network. */
export function waysOf(scenario: Scenario, network: number): OtherNetwork {
  return network === 0 ? scenario : scenario.others[network - 1]
}

/** Whether a fault strikes a network: it is one of all of it, or of a link that is this network's. */
export function isOfNetwork(fault: Fault, network: number): boolean {
  return !('a' in fault) || (fault.network ?? 0) === network
}

export function networkOf({ networks }: MachineSpec, nic: number): number {
  return networks?.[nic] ?? 0
}

/** Whether a machine is in both. */
export function shareMachine({ machines }: Scenario, one: number, other: number): boolean {
  return machines.some((machine) => isIn(machine, one) && isIn(machine, other))
}

function isIn(machine: MachineSpec, network: number): boolean {
  return Array.from({ length: machine.nics }, (_, nic) => networkOf(machine, nic)).includes(network)
}

/** The same with one or two more networks. */
export function withNetworks(scenario: Scenario, random: Random): Scenario {
  const others = Array.from({ length: random.pick([1, 1, 2]) }, (): OtherNetwork => {
    const rough = random.chance(0.2)
    return {
      epoch: random.pick([0, 0, 3, 4093]),
      chain: scenario.hosts > 2 && random.chance(0.2),
      trunk: {
        delay: random.pick([0.05, 1, 5, 20]),
        jitter: random.pick([0, 0.1, 1, 8]),
        reorder: rough && random.chance(0.5),
        loss: rough && random.chance(0.5) ? random.pick([0.02, 0.3]) : 0,
        duplicate: 0,
      },
    }
  })
  const machines = scenario.machines.map((machine): MachineSpec => {
    const nics = Math.max(machine.nics, random.chance(0.75) ? random.pick([2, 2, 3]) : 1)
    const networks = Array.from({ length: nics }, (_, nic) =>
      nic === 0 && random.chance(0.6) ? 0 : random.integer(0, others.length),
    )
    return { ...machine, nics, networks }
  })
  const network = () => random.integer(0, others.length)
  return {
    ...scenario,
    others,
    machines,
    sends: sendsWithin(scenario.sends, machines, random),
    orders: ordersOf(scenario.orders, network, random),
    faults: scenario.faults.map((fault) => ('a' in fault ? { ...fault, network: network() } : fault)),
  }
}

/** Frames stay in the network that they are sent in. Bursts keep their NICs. */
function sendsWithin(sends: readonly Send[], machines: readonly MachineSpec[], random: Random): Send[] {
  let turn = 0
  return sends.map((send) => {
    if (random.chance(0.4)) turn = random.integer(0, 5)
    const { vm, toVm } = send
    if (vm === OUTSIDE) {
      const nic = toVm < 0 ? 0 : nicIn(machines[toVm], 0, turn)
      return nic === null ? { ...send, toVm: BROADCAST, toNic: 0 } : { ...send, toNic: toVm < 0 ? send.toNic : nic }
    }
    const nic = (send.nic + turn) % machines[vm].nics
    const network = networkOf(machines[vm], nic)
    const floating = send.floating && network === 0
    const toAll = { ...send, nic, floating, toVm: BROADCAST, toNic: 0 }
    if (toVm === BROADCAST) return toAll
    if (toVm === OUTSIDE) return network === 0 ? { ...send, nic, floating } : toAll
    const toNic = nicIn(machines[toVm], network, turn)
    return toNic === null || (toVm === vm && toNic === nic) ? toAll : { ...send, nic, floating, toNic }
  })
}

/** One of a machine's NICs in a network; null: it has none. */
function nicIn(machine: MachineSpec, network: number, turn: number): number | null {
  const there = Array.from({ length: machine.nics }, (_, nic) => nic).filter(
    (nic) => networkOf(machine, nic) === network,
  )
  return there.length === 0 ? null : there[turn % there.length]
}

/** Each of some network; some are followed by one of another, soon enough to meet it or after it. */
function ordersOf(orders: readonly Order[], network: () => number, random: Random): Order[] {
  const list = orders.flatMap((order): Order[] => {
    const one = { ...order, network: network() }
    if (order.kind === 'restore' && random.chance(0.6)) {
      // Another network, which has a snapshot by then, is restored at about the same time.
      const other = network()
      const before: Order = { kind: 'snapshot', at: order.at - 100, deadline: order.deadline, network: other }
      const at = order.at + 30 * (random.next() - 0.5)
      const another: Order = random.chance(0.6) ? { ...order, at, network: other } : { ...before, at }
      return [before, one, another]
    }
    if (!random.chance(0.5)) return [one]
    const at = order.at + random.pick([0, 3, 20, 120, 400]) * random.next()
    return [one, { kind: 'snapshot', at, deadline: order.deadline, network: network() }]
  })
  return list.sort((a, b) => a.at - b.at)
}
