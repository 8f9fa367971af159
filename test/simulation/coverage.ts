// What a schedule has been through: events that the rules are about. A campaign counts the schedules that had each, for
// one in which frames never come early, or nothing is ever undone, proves little.

import type { MemberState } from '../../switch/agent/snapshot/member-cut.js'
import { Counter, Drop, ROW } from '../../switch/forwarding/counters.js'
import type { World } from './world.js'

const COUNTED = {
  'early frame': Counter.early,
  'held frame': Counter.held,
  'in-transit frame recorded': Counter.recorded,
  straggler: Counter.stragglers,
  'early frame dropped': Drop['early-dropped'],
  'hold overflow': Drop['hold-overflow'],
  'channel state overflow': Drop['record-overflow'],
  'former frame fenced': Drop.fenced,
  'carrier of another boot': Drop['carrier-unexpected'],
  'carrier broken': Drop['carrier-broken'],
} as const

type Undone = Exclude<MemberState, 'recovering' | 'failed'>
const undone: Readonly<Record<Undone, true>> = {
  ready: true,
  gating: true,
  settling: true,
  pausing: true,
  flipping: true,
  capturing: true,
  capturingSealed: true,
  releasing: true,
  releasingSealed: true,
  sealing: true,
  done: true,
}

const MARKED = [
  'cut begun by a frame or marker',
  'residue',
  'residue lost',
  'several NICs cut',
  'cut with NICs in other networks',
  'frame waited in another network',
  'busy with another network',
  'restored with NICs in other networks',
  'gate opened in portions',
  'channel closed by deadline',
  'snapshot on the heels of another',
  'undone: prepared',
  'undone: writing',
  'restored elsewhere',
  'restore undone',
  'hypervisor late',
  'daemon killed',
  'datapath failed',
  'coordinator killed',
  'by the bit',
  'carried',
  'carried in pieces',
  'heard outside on the LAN',
  'audited',
  'fast',
  'fast to a peer',
  'fast while memory is saved',
  'fast frame waited for',
  'fast without a daemon',
] as const

export type Mark = (typeof MARKED)[number] | `undone: ${Undone}`

export const events: readonly string[] = [
  ...Object.keys(COUNTED),
  ...MARKED,
  ...Object.keys(undone).map((state) => `undone: ${state}`),
]

/** How many schedules had each event. */
export type Coverage = Map<string, number>

export function cover(coverage: Coverage, world: World): void {
  const had = new Set<string>(world.marks)
  for (const [event, slot] of Object.entries(COUNTED)) {
    const isIn = (table: Float64Array) => {
      for (let at: number = slot; at < table.length; at += ROW) if (table[at] > 0) return true
      return false
    }
    if (world.counters.some(isIn)) had.add(event)
  }
  for (const event of had) coverage.set(event, (coverage.get(event) ?? 0) + 1)
}

export function describeCoverage(coverage: Coverage): string {
  return `schedules with: ${events.map((event) => `${event} ${coverage.get(event) ?? 0}`).join(', ')}`
}
