// A schedule to be run, as plain data: the network, what its guests send and when, what is asked of the coordinator,
// what goes wrong. Everything else that happens follows from it and its seed. Plain data shrinks and prints well.

import type { Policy } from '../../src/api/schemas.js'
import { Random } from './chance.js'
import { onFastPath } from './fast-scenario.js'
import { type FrameForm, frameForms } from './frames.js'
import { isOfNetwork, type OtherNetwork, type TrunkWeather, waysOf, withNetworks } from './networks.js'

/** Destinations of a send that are no machine. */
export const BROADCAST = -1
/** A station of the outside world: `toNic` is the host behind whose plain port it is, or LAN_STATION. */
export const OUTSIDE = -2
/** Whoever has the address that machines take over from one another. */
export const FLOATING = -3
/** The station on the LAN that joins the hosts' uplinks. */
export const LAN_STATION = 7

export interface Send {
  readonly at: number
  /** A machine, or OUTSIDE: then `nic` says which station sends. */
  readonly vm: number
  readonly nic: number
  readonly toVm: number
  readonly toNic: number
  readonly form: FrameForm
  /** From an address that machines share, not from the NIC's own. */
  readonly floating: boolean
}

/** What belongs to one network; the first, when it does not say. */
interface InNetwork {
  readonly network?: number
}

export type Order = InNetwork &
  (
    | { readonly kind: 'snapshot'; readonly at: number; readonly deadline: number }
    /** Of the latest complete snapshot. `shift`: machines move on by so many hosts. */
    | { readonly kind: 'restore'; readonly at: number; readonly deadline: number; readonly shift: number }
  )

/** Between two hosts, for a while. */
interface OnTrunk extends InNetwork {
  readonly a: number
  readonly b: number
  readonly at: number
  readonly for: number
}

export type Fault =
  /** The daemon is killed after so many of its steps from the first order on, and started again. */
  | { readonly kind: 'kill daemon'; readonly host: number; readonly step: number; readonly down: number }
  /** Its datapath worker throws. */
  | { readonly kind: 'fail datapath'; readonly host: number; readonly step: number }
  | { readonly kind: 'kill coordinator'; readonly step: number; readonly down: number }
  /** Everything between two hosts is lost. */
  | (OnTrunk & { readonly kind: 'break trunk' })
  /** The device of a's port to b goes away, and comes back; on a LAN, that of a's uplink. */
  | (OnTrunk & { readonly kind: 'unplug trunk' })
  /** Control frames from a to b are lost. */
  | (OnTrunk & { readonly kind: 'lose control' })
  /** Control frames from a to b come later than the frames around them. */
  | (InNetwork & { readonly kind: 'delay control'; readonly a: number; readonly b: number; readonly by: number })
  /** The coordinator and a host do not hear each other. */
  | { readonly kind: 'cut off'; readonly host: number; readonly at: number; readonly for: number }
  | { readonly kind: 'refuse pause'; readonly vm: number; readonly nth: number }
  /** Its hypervisor lets it run only after so many milliseconds. */
  | { readonly kind: 'slow resume'; readonly vm: number; readonly by: number }
  | { readonly kind: 'fail capture'; readonly vm: number; readonly nth: number }
  | { readonly kind: 'crash machine'; readonly vm: number; readonly at: number }
  /** Its hypervisor cannot load its image. */
  | { readonly kind: 'fail load'; readonly vm: number }

export interface MachineSpec {
  readonly host: number
  readonly nics: number
  /** Of each NIC; all are in the first network when left out. */
  readonly networks?: readonly number[]
  /** It stands still for as long as its memory is saved. */
  readonly stopped: boolean
}

export interface Scenario {
  readonly seed: number
  readonly hosts: number
  readonly machines: readonly MachineSpec[]
  /** Hosts with a plain port and a station of the outside world behind it; LAN_STATION where there is a LAN. */
  readonly outside: readonly number[]
  /** How members' frames are colored on the LAN that joins the hosts; null: they are joined by trunks. */
  readonly lan: 'dscp' | 'carrier' | null
  /** Machines and stations say that they are there, before anything else is sent. */
  readonly announced: boolean
  /** Trunks in a chain that passes frames on, instead of a full mesh. On a LAN: it would, were there any trunks. */
  readonly chain: boolean
  /** Control frames carry the seal of a pre-shared key. */
  readonly keyed: boolean
  /** Kernels forward what the forwarders have decided, while a network is quiet. */
  readonly fastPath: boolean
  /** Seconds until an address that is silent is forgotten. */
  readonly ageing: number
  /** Snapshots are recorded, and audited when all is over. */
  readonly recorded: boolean
  /** What is on every host's disk as the highest epoch at the start. */
  readonly epoch: number
  readonly policy: Policy
  readonly hold: number
  readonly record: number
  readonly trunk: TrunkWeather
  /** Networks beside the first, which is what is said here. */
  readonly others: readonly OtherNetwork[]
  /** Longest random waits in milliseconds. */
  readonly pace: {
    /** Until the datapath looks at its ports, and until a command gets to it or its answer back. */
    readonly poll: number
    /** Until a guest reads on. */
    readonly read: number
    /** A call between coordinator and agent, one way. */
    readonly call: number
    readonly hypervisor: number
    readonly seal: number
    readonly store: number
  }
  /** How many held frames a gate lets out at once, and how many may lie unread in a TAP when it does. */
  readonly portion: number
  readonly sends: readonly Send[]
  readonly orders: readonly Order[]
  readonly faults: readonly Fault[]
}

export type Weather = 'calm' | 'rough' | 'failing' | 'restoring'

/**
 * Whether the network itself neither loses nor reorders nor doubles, all bounds have room, and no daemon or machine
 * dies.
 */
export function isUndisturbed(scenario: Scenario, network = 0): boolean {
  const { policy, orders } = scenario
  const { trunk } = waysOf(scenario, network)
  const faults = scenario.faults.filter((fault) => isOfNetwork(fault, network))
  // A channel state that did not fit is lost to a restore.
  if (scenario.record < 1000 && orders.some(({ kind }) => kind === 'restore')) return false
  if (trunk.loss > 0 || trunk.duplicate > 0 || trunk.reorder || policy !== 'buffer' || scenario.hold < 1000)
    return false
  const disturbing = ['kill daemon', 'fail datapath', 'break trunk', 'unplug trunk', 'crash machine']
  return !faults.some(({ kind }) => disturbing.includes(kind))
}

/**
 * Whether the network loses nothing that was sent to an end that is there: whatever else happens, no channel may count
 * a loss.
 */
export function isLossless(scenario: Scenario, network = 0): boolean {
  const { trunk } = waysOf(scenario, network)
  const lan = network === 0 ? scenario.lan : null
  const faults = scenario.faults.filter((fault) => isOfNetwork(fault, network))
  // Pieces of a carried frame that come out of order, or twice, are lost with their frame.
  if (lan !== null && (trunk.reorder || trunk.duplicate > 0)) return false
  return trunk.loss === 0 && !faults.some(({ kind }) => kind === 'break trunk')
}

/**
 * Whether nothing goes wrong that a snapshot would have to fail for: markers may come late, and are repeated when lost.
 */
export function isCalm(scenario: Scenario, network = 0): boolean {
  const faults = scenario.faults.filter((fault) => isOfNetwork(fault, network))
  return (
    isUndisturbed(scenario, network) &&
    scenario.record >= 1000 &&
    faults.every(({ kind }) => kind === 'delay control' || kind === 'lose control')
  )
}

const weathers: readonly Weather[] = ['calm', 'calm', 'rough', 'rough', 'failing', 'failing', 'restoring']

/** Draws the scenario of a seed. */
export function drawScenario(seed: number): Scenario {
  const scenario = drawOneNetwork(seed)
  const random = new Random(seed ^ 0x2e7)
  const drawn = random.chance(0.17) ? withNetworks(scenario, random) : scenario
  const quiet = new Random(seed ^ 0xfa57)
  return quiet.chance(0.15) ? onFastPath(drawn, quiet) : drawn
}

function drawOneNetwork(seed: number): Scenario {
  const random = new Random(seed ^ 0x5eed)
  const drawn = aroundRestore(drawOnTrunks(seed), random)
  const scenario = { ...drawn, recorded: !drawn.chain && new Random(seed ^ 0xa0d17).chance(0.1) }
  if (random.chance(0.2)) return putOnLan(scenario, random)
  return random.chance(0.1) ? { ...scenario, sends: drawForms(scenario.sends, random, false) } : scenario
}

/** A restore meets frames of the former incarnation, which travel for long, and deaths of those who take part in it. */
function aroundRestore(scenario: Scenario, random: Random): Scenario {
  const restore = scenario.orders.find(({ kind }) => kind === 'restore')
  if (restore === undefined) return scenario
  let { sends, trunk, faults } = scenario
  if (random.chance(0.4)) {
    trunk = { ...trunk, delay: random.pick([15, 40]) }
    sends = sends
      .map((send) => (random.chance(0.5) ? { ...send, at: restore.at - 20 + random.next() * 60 } : send))
      .sort((a, b) => a.at - b.at)
  }
  if (random.chance(0.3)) {
    const host = random.integer(0, scenario.hosts - 1)
    const step = random.integer(40, 200)
    const death: Fault = random.pick<Fault>([
      { kind: 'kill daemon', host, step, down: 50 },
      { kind: 'fail datapath', host, step },
      { kind: 'kill coordinator', step: random.integer(15, 60), down: 500 },
      { kind: 'cut off', host, at: restore.at + random.integer(0, 40), for: 25_000 },
      { kind: 'fail load', vm: random.integer(0, scenario.machines.length - 1) },
    ])
    faults = [...faults, death]
  }
  return { ...scenario, sends, trunk, faults }
}

/** The same on a LAN, when the switches have found each other, mostly: later. */
export function putOnLan(onTrunks: Scenario, random: Random): Scenario {
  const scenario = { ...onTrunks, faults: heardOnLan(onTrunks.faults) }
  const after = random.pick([1200, 1200, 1200, 3000, 700])
  const later = <T extends { readonly at: number }>(list: readonly T[]) =>
    list.map((one) => ({ ...one, at: one.at + after }))
  // What a LAN that errs does to addresses which are new to the switches: see docs/reference/limits.md.
  const { loss, reorder, duplicate } = scenario.trunk
  const errs = loss > 0 || reorder || duplicate > 0 || scenario.faults.some(({ kind }) => kind === 'break trunk')
  const floating = !errs && random.chance(0.3)
  const announced = errs || random.chance(0.7)
  const sends = drawForms(scenario.sends, random, floating).map((send) =>
    send.toVm === OUTSIDE && random.chance(0.7) ? { ...send, toNic: LAN_STATION } : send,
  )
  const { first, last } = { first: scenario.sends[0]?.at ?? 0, last: scenario.sends.at(-1)?.at ?? 0 }
  const strangers = Array.from({ length: random.integer(0, 8) }, (): Send => {
    const to = random.integer(0, scenario.machines.length - 1)
    const one = { vm: OUTSIDE, nic: LAN_STATION, toVm: to, toNic: 0, form: random.pick(frameForms), floating: false }
    const at = first + random.next() * (last - first)
    const toAll = random.chance(0.3)
    if (toAll) return { ...one, at, toVm: BROADCAST }
    return random.chance(0.5) ? { ...one, at } : { ...one, at, vm: to, nic: 0, toVm: OUTSIDE, toNic: LAN_STATION }
  })
  // A machine whose first frame goes to one outsider is taken for an outsider, too, until its address is claimed.
  const isKnown = ({ vm, toVm }: Send) => announced || vm === OUTSIDE || toVm !== OUTSIDE
  return {
    ...scenario,
    lan: random.pick(['dscp', 'dscp', 'dscp', 'carrier']),
    announced,
    outside: [...scenario.outside, LAN_STATION],
    sends: later([...sends, ...strangers].filter(isKnown).sort((a, b) => a.at - b.at)),
    orders: later(scenario.orders),
    faults: scenario.faults.map((fault) => ('at' in fault ? { ...fault, at: fault.at + after } : fault)),
  }
}

/**
 * A switch that starts, or takes its uplink anew, must be heard, or its peers and it misread one another: see
 * docs/reference/limits.md.
 */
function heardOnLan(faults: readonly Fault[]): readonly Fault[] {
  const starts = faults.some(({ kind }) => ['kill daemon', 'fail datapath', 'unplug trunk'].includes(kind))
  return starts ? faults.filter(({ kind }) => kind !== 'lose control' && kind !== 'break trunk') : faults
}

/** Bursts keep one form. */
function drawForms(sends: readonly Send[], random: Random, floating: boolean): Send[] {
  let form: FrameForm = 'raw'
  let floats = false
  return sends.map((send) => {
    if (random.chance(0.4)) {
      form = random.pick(frameForms)
      floats = floating && random.chance(0.2)
    }
    return { ...send, form, floating: floats && send.vm !== OUTSIDE }
  })
}

/** Of a seed, the scenario with trunks and plain frames only. */
export function drawOnTrunks(seed: number): Scenario {
  const random = new Random(seed)
  const weather = random.pick(weathers)
  const hosts = random.integer(weather === 'restoring' ? 1 : 2, 4)
  const machines = Array.from({ length: random.integer(2, 5) }, () => ({
    host: random.integer(0, hosts - 1),
    nics: random.chance(0.3) ? random.integer(2, 3) : 1,
    stopped: random.chance(0.15),
  }))
  const outside = random.chance(0.3) ? [random.integer(0, hosts - 1)] : []
  const rough = weather === 'rough' || (weather !== 'calm' && random.chance(0.25))
  const trunk = {
    delay: random.pick([0.05, 0.2, 1, 5]),
    jitter: random.pick([0, 0.1, 1, 8]),
    reorder: rough && random.chance(0.5),
    loss: rough && random.chance(0.5) ? random.pick([0.02, 0.1, 0.3]) : 0,
    duplicate: rough && random.chance(0.3) ? random.pick([0.02, 0.1]) : 0,
  }
  const pace = {
    poll: random.pick([0.05, 0.3, 3]),
    read: random.pick([0.05, 0.5, 3, 30]),
    call: random.pick([0.3, 2, 10, 40]),
    hypervisor: random.pick([0.5, 2, 8]),
    seal: random.pick([2, 20, 60]),
    store: random.pick([0.1, 2]),
  }
  const first = random.integer(20, 60)
  const last = first + random.integer(20, 150)
  let orders = drawOrders(random, weather, first, last)
  let sends = drawSends(random, machines, outside, first, last)
  if (random.chance(0.12)) {
    // A second round after some HELLOs: restarted peers have been heard of again, ordinary loss has been noticed.
    const shift = random.pick([1200, 2300, 4500])
    sends = [...sends, ...sends.map((send) => ({ ...send, at: send.at + shift }))]
    orders = [...orders, { kind: 'snapshot', at: random.integer(first, last) + shift, deadline: 20_000 }]
  }
  return {
    seed,
    hosts,
    machines,
    outside,
    lan: null,
    announced: false,
    chain: hosts > 2 && random.chance(0.2),
    epoch: random.chance(0.15) ? random.pick([4092, 4093, 4094, 8187, 2046]) : 0,
    policy: random.chance(0.15) ? ('drop' as const) : ('buffer' as const),
    hold: random.chance(0.08) ? random.integer(1, 6) : 10_000,
    record: random.chance(0.08) ? random.integer(1, 4) : 10_000,
    trunk,
    pace,
    sends,
    orders,
    faults: weather === 'calm' && !random.chance(0.2) ? [] : drawFaults(random, weather, hosts, machines, first, last),
    keyed: random.chance(0.15),
    recorded: false,
    fastPath: false,
    ageing: 300,
    others: [],
    portion: random.pick([1, 3, 256]),
  }
}

function drawOrders(random: Random, weather: Weather, first: number, last: number): Order[] {
  const orders: Order[] = []
  const count = random.pick([1, 1, 1, 2, 3])
  const deadline = weather === 'failing' ? random.pick([100, 500, 3000]) : 20_000
  for (let i = 0; i < count; i++) orders.push({ kind: 'snapshot', at: random.integer(first, last), deadline })
  orders.sort((a, b) => a.at - b.at)
  if (weather === 'restoring') {
    const at = last + random.integer(-20, 60)
    orders.push({ kind: 'restore', at, deadline: 20_000, shift: random.pick([0, 0, 1, 2]) })
    if (random.chance(0.4)) orders.push({ kind: 'snapshot', at: at + random.integer(0, 60), deadline: 20_000 })
  }
  return orders
}

function drawSends(
  random: Random,
  machines: Scenario['machines'],
  outside: readonly number[],
  first: number,
  last: number,
): Send[] {
  const sends: Send[] = []
  const nic = (vm: number) => random.integer(0, (machines[vm]?.nics ?? 1) - 1)
  const bursts = random.integer(3, 30)
  for (let i = 0; i < bursts; i++) {
    const fromOutside = outside.length > 0 && random.chance(0.1)
    const vm = fromOutside ? OUTSIDE : random.integer(0, machines.length - 1)
    const from = fromOutside ? random.pick(outside) : nic(vm)
    const roll = random.next()
    let toVm = random.integer(0, machines.length - 1)
    if (roll < 0.15) toVm = BROADCAST
    else if (roll < 0.22 && outside.length > 0 && !fromOutside) toVm = OUTSIDE
    const toNic = toVm === OUTSIDE ? random.pick(outside) : toVm === BROADCAST ? 0 : nic(toVm)
    if (toVm === vm && toNic === from) continue
    const count = random.pick([1, 1, 2, 5, 12])
    const gap = random.pick([0, 0.05, 1, 4])
    const at = random.integer(first, last + 40) + random.next()
    const words = { vm, nic: from, toVm, toNic, form: 'raw' as const, floating: false }
    for (let k = 0; k < count; k++) sends.push({ ...words, at: at + k * gap })
  }
  return sends.sort((a, b) => a.at - b.at)
}

function drawFaults(
  random: Random,
  weather: Weather,
  hosts: number,
  machines: Scenario['machines'],
  first: number,
  last: number,
): Fault[] {
  const host = () => random.integer(0, hosts - 1)
  const moment = () => random.integer(first, last + 60)
  const pair = () => {
    const a = host()
    return { a, b: (a + random.integer(1, Math.max(1, hosts - 1))) % hosts }
  }
  if (weather === 'calm') {
    const late: Fault = { kind: 'delay control', ...pair(), by: random.integer(1, 40) }
    const lost: Fault = { kind: 'lose control', ...pair(), at: moment(), for: random.pick([30, 150, 600]) }
    return [random.chance(0.5) ? late : lost]
  }
  const faults: Fault[] = []
  const draws: (() => Fault)[] = [
    () => ({ kind: 'kill daemon', host: host(), step: random.integer(1, 120), down: random.pick([5, 200, 2000]) }),
    () => ({ kind: 'fail datapath', host: host(), step: random.integer(1, 120) }),
    () => ({ kind: 'kill coordinator', step: random.integer(1, 60), down: random.pick([5, 500, 8000]) }),
    () => ({ kind: 'break trunk', ...pair(), at: moment(), for: random.pick([10, 60, 400]) }),
    () => ({ kind: 'lose control', ...pair(), at: moment(), for: random.pick([30, 150, 600]) }),
    () => ({ kind: 'delay control', ...pair(), by: random.integer(1, 40) }),
    () => ({ kind: 'cut off', host: host(), at: moment(), for: random.pick([20, 300, 3000]) }),
    () => ({ kind: 'refuse pause', vm: random.integer(0, machines.length - 1), nth: random.integer(1, 2) }),
    () => ({ kind: 'slow resume', vm: random.integer(0, machines.length - 1), by: random.pick([50, 1000, 4000]) }),
    () => ({ kind: 'fail capture', vm: random.integer(0, machines.length - 1), nth: random.integer(1, 2) }),
    () => ({ kind: 'crash machine', vm: random.integer(0, machines.length - 1), at: moment() }),
    () => ({ kind: 'unplug trunk', ...pair(), at: moment(), for: random.pick([1, 10, 60, 400, 5000]) }),
  ]
  const rough = draws.slice(3, 6)
  const count = weather === 'failing' ? random.integer(1, 3) : random.integer(0, 1)
  for (let i = 0; i < count; i++) faults.push(random.pick(weather === 'rough' ? rough : draws)())
  return faults
}
