// The VNsnap-style switch as a process on each host, twice: waiting at once, and asking again for as long as
// snapswitch does before it waits. README.md beside this folder says what is assumed, and from which source.

import { join } from 'node:path'
import { hostsOf, parts, type Subject, vethAttachment } from '../../forwarding/subject.js'
import type { Lab } from '../../lab/lab.js'
import { command } from '../../lab/processes.js'
import { projectRoot } from '../../lab/project.js'

export const TUNNEL_PORT = 7471
/** As long as snapswitch with `poll: adaptive`. */
const SPIN_US = 25

/** Compiles the switch; `linking`: further words for gcc. */
export async function compileVnsnap(into: string, ...linking: string[]): Promise<string> {
  const binary = join(into, 'vnsnap')
  const source = join(projectRoot, 'bench', 'gear', 'vnsnap.c')
  await command(['gcc', '-O2', '-Wall', ...linking, '-o', binary, source], { timeoutMs: 60_000 })
  return binary
}

export interface VnsnapHost {
  readonly spinUs: number
  readonly address: string
  readonly peers: readonly string[]
  readonly devices: readonly string[]
}

export function vnsnapArguments({ spinUs, address, peers, devices }: VnsnapHost): string[] {
  return [String(spinUs), address, String(TUNNEL_PORT), ...peers, '--', ...devices]
}

const addresses = { a: '10.98.0.1', b: '10.98.0.2' } as const

/** Addresses for the ends of the tunnel: those of the hosts' own devices, as in any overlay. */
export async function addressTrunk(lab: Lab): Promise<void> {
  for (const host of ['a', 'b'] as const)
    await lab.ip(host, [`addr add ${addresses[host]}/24 dev trunk`, 'link set trunk up'])
}

function vnsnapSubject(id: string, title: string, setup: string, spinUs: number): Subject {
  return {
    id,
    title,
    setup,
    offloads: false,
    parts,
    version: async () => 'bench/gear/vnsnap.c',
    async attach(lab, topology, cores) {
      const program = await compileVnsnap(lab.scratch)
      await vethAttachment(lab, topology)
      if (topology === 'two-hosts') await addressTrunk(lab)
      const pids: number[] = []
      for (const { host, devices } of hostsOf(topology)) {
        const own = devices.filter((device) => device !== 'trunk')
        await lab.ip(
          host,
          own.map((device) => `link set ${device} up`),
        )
        const peers = topology === 'two-hosts' ? [addresses[host === 'a' ? 'b' : 'a']] : []
        const words = vnsnapArguments({ spinUs, address: addresses[host], peers, devices: own })
        const daemon = await lab.start(host, cores.switch, [program, ...words])
        await daemon.until('ready', (said) => said.includes('ready'))
        pids.push(daemon.pid)
      }
      return { pids }
    },
  }
}

export const vnsnap = vnsnapSubject(
  'vnsnap',
  'VNsnap-style',
  'a process per host; packet rings, batches of 64, UDP tunnel over the trunk, two colors; frames of one MTU; waits at once',
  0,
)

export const vnsnapSpin = vnsnapSubject(
  'vnsnap-spin',
  'VNsnap-style, spinning',
  `the same, but asks again for ${SPIN_US} us before it waits, as snapswitch does`,
  SPIN_US,
)
