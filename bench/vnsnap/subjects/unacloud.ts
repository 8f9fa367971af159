// The UnaCloud-style snapshot on a Linux bridge: marks and drops by nftables for each guest's port. At rest it is a
// bridge; here it is armed, as while a snapshot is taken. README.md beside this folder has the assumptions.

import { release } from 'node:os'
import { hostsOf, parts, type Subject, vethAttachment } from '../../forwarding/subject.js'
import { commandAt } from '../../lab/processes.js'

/** The DSCP values of the authors' prototype. */
const PRE = 16
const POST = 32

const TABLE = 'unacloud'

/** `armed`: its frames are of before, it gets none of after. `saved`: its frames are of after, it gets all. */
export type MachineState = 'armed' | 'saved'

/**
 * Rules for `nft -f`, which replace those before in one transaction. None for a device: it neither marks nor drops.
 * Frames of IPv4 and IPv6 are marked; the prototype knew IPv4 alone.
 */
export function rules(states: ReadonlyMap<string, MachineState>): string {
  const marks: string[] = []
  const drops: string[] = []
  for (const [device, state] of states) {
    const mark = state === 'armed' ? PRE : POST
    marks.push(`iifname "${device}" ip dscp set ${mark}`, `iifname "${device}" ip6 dscp set ${mark}`)
    if (state === 'armed')
      drops.push(
        `oifname "${device}" ip dscp ${POST} counter drop`,
        `oifname "${device}" ip6 dscp ${POST} counter drop`,
      )
  }
  const chain = (name: string, hook: string, lines: readonly string[]) =>
    ` chain ${name} {\n  type filter hook ${hook} priority filter; policy accept;\n${lines.map((line) => `  ${line}\n`).join('')} }\n`
  const body = states.size === 0 ? '' : chain('outgoing', 'prerouting', marks) + chain('incoming', 'postrouting', drops)
  return `table bridge ${TABLE}\ndelete table bridge ${TABLE}\ntable bridge ${TABLE} {\n${body}}\n`
}

/** Frames that the rules have dropped, out of `nft -j list ruleset`. */
export function droppedFrames(listing: string): number {
  const { nftables } = JSON.parse(listing) as { nftables: { rule?: { expr: { counter?: { packets: number } }[] } }[] }
  const counters = nftables.flatMap(({ rule }) => rule?.expr.flatMap(({ counter }) => counter?.packets ?? []) ?? [])
  return counters.reduce((sum, packets) => sum + packets, 0)
}

export const unacloud: Subject = {
  id: 'unacloud',
  title: 'UnaCloud-style, armed',
  setup:
    'a Linux bridge; nftables marks each frame (DSCP) and drops those of after, per port of a guest; as during a snapshot',
  offloads: true,
  parts,
  version: async () => `Linux ${release()}`,
  async attach(lab, topology, cores) {
    await vethAttachment(lab, topology)
    for (const { host, devices } of hostsOf(topology)) {
      await lab.ip(host, ['link add br0 type bridge', ...devices.map((device) => `link set ${device} master br0`)])
      await lab.ip(host, ['link set br0 up', ...devices.map((device) => `link set ${device} up`)])
      const guests = devices.filter((device) => device !== 'trunk')
      const input = rules(new Map(guests.map((device) => [device, 'armed'])))
      await commandAt(lab.place(host, cores.switch), ['nft', '-f', '-'], { input })
    }
    return { pids: [] }
  },
}
