// Schedules in which kernels forward: a network has been quiet for a while before anything happens to it, and who
// speaks in it has spoken before. Some have an address that moves between machines while frames for it are fast.

import type { Random } from './chance.js'
import { networkOf } from './networks.js'
import { type Fault, FLOATING, type Order, OUTSIDE, type Scenario, type Send } from './scenario.js'

/** A network is quiet half a second after its last change, and its verdicts come with the next frames. */
const QUIET_MS = 900
/** Of a machine's memory: a network is fast again before such a one is saved. */
const LONG_SAVE_MS = 1500
/** The shortest with which there is a fast path. */
const AGEING = 15
/** Pairs that speak before. */
const MOST_PAIRS = 10

/** The same, later, with the fast path. */
export function onFastPath(scenario: Scenario, random: Random): Scenario {
  // Where hosts have to find each other on a LAN, all is late enough.
  const by = scenario.lan === null ? QUIET_MS + 150 : 0
  const later = <T extends { readonly at: number }>(one: T): T => ({ ...one, at: one.at + by })
  const sends = scenario.sends.map(later)
  const isOnLan = scenario.lan !== null
  const moves = !isOnLan && random.chance(0.3) ? moving(scenario, random) : []
  const ages = !isOnLan && random.chance(0.1)
  const asks = ages ? askingTheSilent(scenario, sends, random) : []
  // Before the first order has made anything slow: what is in the kernel forwards without a daemon for a while.
  const host = random.integer(0, scenario.hosts - 1)
  const kill: Fault = { kind: 'kill daemon', host, step: random.integer(1, 4), down: random.pick([20, 100, 400]) }
  const kills = !isOnLan && random.chance(0.08) ? [kill] : []
  const orders = scenario.orders.map(later)
  const isLong = !isOnLan && random.chance(0.2)
  const meanwhile = isLong ? whileSaved(orders, sends, random) : []
  return {
    ...scenario,
    fastPath: true,
    announced: true,
    ageing: ages ? AGEING : scenario.ageing,
    pace: { ...scenario.pace, seal: isLong ? LONG_SAVE_MS : scenario.pace.seal },
    sends: [...before(sends, random), ...sends, ...moves, ...asks, ...meanwhile].sort((a, b) => a.at - b.at),
    orders,
    faults: [...scenario.faults.map((fault) => ('at' in fault ? { ...fault, at: fault.at + by } : fault)), ...kills],
  }
}

/** Two frames of each pair: its verdict is noted at the second. */
function before(sends: readonly Send[], random: Random): Send[] {
  return pairs(sends).flatMap((send) => {
    const at = QUIET_MS - 100 + 50 * random.next()
    return [0, 1, 2].map((nth): Send => ({ ...send, at: at + 25 * nth }))
  })
}

/** Machines go on speaking while a snapshot's memory is saved: its cut is over by then, and they are fast again. */
function whileSaved(orders: readonly Order[], sends: readonly Send[], random: Random): Send[] {
  const cuts = orders.filter(({ kind }) => kind === 'snapshot')
  return cuts.flatMap(({ at }) =>
    pairs(sends).flatMap((send) => {
      const from = at + QUIET_MS - 200 + 100 * random.next()
      return Array.from({ length: 8 }, (_, nth): Send => ({ ...send, at: from + 60 * nth }))
    }),
  )
}

function pairs(sends: readonly Send[]): Send[] {
  const known = new Map<string, Send>()
  for (const send of sends) {
    const { vm, nic, toVm, toNic } = send
    if ((toVm >= 0 || toVm === OUTSIDE) && known.size < MOST_PAIRS && !send.floating)
      known.set(`${vm} ${nic} ${toVm} ${toNic}`, { ...send, form: 'raw' })
  }
  return [...known.values()]
}

/** A machine that says nothing is sent to until it has been forgotten, and a while longer. */
function askingTheSilent(scenario: Scenario, sends: readonly Send[], random: Random): Send[] {
  const silent = scenario.machines.findIndex((_, vm) => !sends.some((send) => send.vm === vm))
  const asker = scenario.machines.findIndex((_, vm) => vm !== silent)
  if (silent < 0 || asker < 0) return []
  const [one] = nicsOf(scenario, asker)
  const [other] = nicsOf(scenario, silent)
  if (one === undefined || other === undefined) return []
  const words = { ...one, toVm: silent, toNic: other.nic, form: 'raw' as const, floating: false }
  const times = [QUIET_MS - 80, QUIET_MS - 40, ...Array.from({ length: 24 }, (_, nth) => AGEING * 1000 + nth * 100)]
  return times.map((at): Send => ({ ...words, at: at + 40 * random.next() }))
}

/** A machine's in the first network. */
function nicsOf({ machines }: Scenario, vm: number): { vm: number; nic: number }[] {
  return Array.from({ length: machines[vm].nics }, (_, nic) => ({ vm, nic })).filter(
    ({ nic }) => networkOf(machines[vm], nic) === 0,
  )
}

/** Machines take an address over from one another while others send to it. */
function moving(scenario: Scenario, random: Random): Send[] {
  const nics = scenario.machines.flatMap((_, vm) => nicsOf(scenario, vm))
  if (nics.length < 3) return []
  const turn = random.integer(0, nics.length - 1)
  const [first, second, sender] = [0, 1, 2].map((nth) => nics[(nth + turn) % nics.length])
  const from = QUIET_MS - 100
  const until = from + 300
  const takes = (one: { vm: number; nic: number }, at: number): Send => ({
    ...{ ...one, toVm: sender.vm, toNic: sender.nic, form: 'raw', floating: true, at },
  })
  const asks = Array.from({ length: 24 }, (_, nth): Send => {
    const at = from + ((until - from) * (nth + random.next())) / 24
    return { ...sender, toVm: FLOATING, toNic: 0, form: 'raw', floating: false, at }
  })
  const holders = [first, second, first, second]
  return [...asks, ...holders.map((one, nth) => takes(one, from - 20 + nth * random.integer(60, 90)))]
}
