// The figures of `scripts/bench vnsnap`: their names, tables and ratios.

import type { RatioRule, RatioRules } from '../run/ratios.js'
import type { Bench } from '../run/report.js'
import { type Figure, figure, type Table } from '../run/rows.js'

export const PAYLOADS = [8, 512, 1472] as const
export const UDP_PAYLOADS = [64, 512, 1472] as const
export const WIRE_SIZES = [60, 1514] as const

const roundTrip = (name: string, load: string, hosts = ''): Figure[] => {
  const text = `round trip${hosts}, ${load}`
  return [
    figure(`${name}.p50`, `${text}, p50`, 'us', 'less'),
    figure(`${name}.p99`, `${text}, p99`, 'us', 'less', 1, 0),
    figure(`${name}.max`, `${text}, max`, 'us', 'less', 1, 0),
  ]
}

const tables: readonly Table[] = [
  {
    title: 'UDP round trip, one host, microseconds',
    figures: [
      ...PAYLOADS.flatMap((size) => roundTrip(`rtt.${size}`, `${size} B, idle`)),
      ...roundTrip('rttPaced', '8 B, one a ms'),
      ...roundTrip('rttFrames', '8 B, beside 20 k frames/s'),
      ...roundTrip('rttTcp', '8 B, beside bulk TCP'),
    ],
  },
  {
    title: 'UDP round trip, two hosts, microseconds',
    figures: PAYLOADS.flatMap((size) => roundTrip(`rttTwoHosts.${size}`, `${size} B, idle`, ' over two hosts')),
  },
  {
    title: 'Throughput',
    figures: [
      figure('tcp', 'TCP, one host', 'Gbit/s', 'more', 1e9, 2),
      figure('tcpTwoHosts', 'TCP, two hosts', 'Gbit/s', 'more', 1e9, 2),
      ...UDP_PAYLOADS.map((size) => figure(`udp.${size}`, `UDP ${size} B`, 'Mbit/s', 'more', 1e6, 0)),
      figure('udp.gso', 'UDP 1472 B by GSO', 'Mbit/s', 'more', 1e6, 0),
      ...UDP_PAYLOADS.map((size) =>
        figure(`udpTwoHosts.${size}`, `UDP ${size} B, two hosts`, 'Mbit/s', 'more', 1e6, 0),
      ),
      figure('udpTwoHosts.gso', 'UDP by GSO, two hosts', 'Mbit/s', 'more', 1e6, 0),
    ],
  },
  {
    title: 'Overhead',
    figures: [
      figure('cpuPerFrame', 'CPU a frame, machine, 20 k/s', 'us', 'less', 1, 2),
      figure('cpuPerFrameSwitch', 'CPU a frame, of it the switch', 'us', 'less', 1, 2),
      figure('cpuPerGbit', 'CPU a Gbit of TCP, one host, machine', 's', 'less', 1, 3),
      figure('cpuPerGbitTwoHosts', 'CPU a Gbit of TCP, two hosts, machine', 's', 'less', 1, 3),
      ...WIRE_SIZES.map((size) => figure(`wire.${size}`, `bytes added to ${size} between hosts`, 'B', 'less', 1, 1)),
      figure('hops', 'processes on the way, two hosts', '', 'less', 1, 0),
    ],
  },
  {
    title: 'Cost of a snapshot',
    figures: [
      figure('globalMs', 'global time', 'ms', 'less', 1, 0),
      figure('localMs', 'local time', 'ms', 'less', 1, 0),
      figure('downtime.p50', 'downtime p50', 'ms', 'less'),
      figure('downtime.max', 'downtime max', 'ms', 'less'),
      figure('skew.p50', 'skew p50', 'ms', 'less'),
      figure('skew.max', 'skew max', 'ms', 'less'),
      figure('tcpGap', 'longest TCP gap', 'ms', 'less', 1, 0),
      figure('tcpGapControl', 'longest TCP gap without a snapshot', 'ms', 'less', 1, 0),
      figure('retransmits', 'segments sent again', '', 'less', 1, 0),
      figure('timeouts', 'RTOs', '', 'less', 1, 0),
      figure('udpLost', 'datagrams lost', '', 'less', 1, 0),
      figure('udpDoubled', 'datagrams doubled', '', 'less', 1, 0),
      figure('restoreMs', 'restored: from none to a ring that goes round', 'ms', 'less', 1, 0),
      figure('restoredStill', 'restored rings that stand still', 'of 1', 'less', 1, 2),
      figure('faults', 'ring or disk broken', '', 'less', 1, 0),
    ],
  },
  {
    title: 'Ring: how much longer a run takes with a snapshot at 40 %, per cent',
    figures: [2, 4, 8].flatMap((machines) =>
      [1, 2].map((hosts) =>
        figure(
          `slowdown.${machines}x${hosts}`,
          `ring of ${machines} VMs, ${hosts === 1 ? '1 host' : '2 hosts'}, slower by`,
          '%',
          'less',
        ),
      ),
    ),
  },
  {
    title: 'Ring: what a snapshot takes of the processors, seconds (the least that it can slow full cores down by)',
    figures: [2, 4, 8].flatMap((machines) =>
      [1, 2].flatMap((hosts) => {
        const ring = `ring of ${machines} VMs, ${hosts === 1 ? '1 host' : '2 hosts'}`
        return [
          figure(`machinesCpu.${machines}x${hosts}`, `${ring}, QEMU beyond its vCPUs`, 's', 'less', 1, 2),
          figure(`switchesCpu.${machines}x${hosts}`, `${ring}, switches, writers, commands`, 's', 'less', 1, 2),
        ]
      }),
    ),
  },
  {
    title: 'Ring: how far runs without a snapshot differ, per cent (what the machine itself does)',
    figures: [2, 4, 8].flatMap((machines) =>
      [1, 2].map((hosts) =>
        figure(
          `noise.${machines}x${hosts}`,
          `ring of ${machines} VMs, ${hosts === 1 ? '1 host' : '2 hosts'}, noise`,
          '%',
          'less',
        ),
      ),
    ),
  },
]

const FAST = 'snapswitch-fast'
const USERSPACE = 'snapswitch-userspace'
const asProcess = ['vnsnap', 'vnsnap-spin'] as const
const ovs = ['ovs-userspace', 'ovs-userspace-tso'] as const

const against = (
  of: string,
  figure: string,
  better: RatioRule['better'],
  peers: readonly string[],
  reach?: RatioRule['reach'],
): RatioRule => ({ of, figure, peers, better, ...(reach === undefined ? {} : { reach }) })

const ratios: RatioRules = {
  'rttP50.vsVnsnap': against(FAST, 'rtt.8.p50', 'less', asProcess, { most: 0.5 }),
  'tcpTwoHosts.vsVnsnap': against(FAST, 'tcpTwoHosts', 'more', asProcess, { least: 5 }),
  'cpuPerGbit.vsVnsnap': against(FAST, 'cpuPerGbitTwoHosts', 'less', asProcess, { most: 0.25 }),
  'tcpGap.vsVnsnap': {
    ...against('snapswitch', 'tcpGap', 'less', ['vnsnap'], { most: 0.1 }),
    beside: ['tcpGapOwnMs', 'tcpGapVnsnapMs', 'tcpGapSaveAloneMs', 'tcpGapWithoutMs'],
  },
  udpLost: against('snapswitch', 'udpLost', 'less', [], { most: 0 }),
  ringSlowdown: {
    ...against('snapswitch', 'slowdown.2x2', 'less', [], { most: 1 }),
    beside: ['ringSaveAlone', 'ringBusyLoops', 'ringVnsnap', 'ringNoise'],
  },
  // Context that keeps those above honest.
  ringNoise: against('snapswitch', 'noise.2x2', 'less', []),
  ringVnsnap: against('vnsnap', 'slowdown.2x2', 'less', []),
  ringSaveAlone: against('save-alone', 'slowdown.2x2', 'less', []),
  ringBusyLoops: against('burn', 'slowdown.2x2', 'less', []),
  tcpGapOwnMs: against('snapswitch', 'tcpGap', 'less', []),
  tcpGapVnsnapMs: against('vnsnap', 'tcpGap', 'less', []),
  tcpGapSaveAloneMs: against('save-alone', 'tcpGap', 'less', []),
  tcpGapWithoutMs: against('snapswitch', 'tcpGapControl', 'less', []),
  'rttTwoHostsP50.vsVnsnap': against(FAST, 'rttTwoHosts.8.p50', 'less', asProcess),
  'rttP50Userspace.vsVnsnap': against(USERSPACE, 'rtt.8.p50', 'less', asProcess),
  'tcpTwoHostsUserspace.vsVnsnap': against(USERSPACE, 'tcpTwoHosts', 'more', asProcess),
  'cpuPerGbitUserspace.vsVnsnap': against(USERSPACE, 'cpuPerGbitTwoHosts', 'less', asProcess),
  'rttP50.vsVnsnapVm': against(FAST, 'rtt.8.p50', 'less', ['vnsnap-vm']),
  'tcpTwoHosts.vsVnsnapVm': against(FAST, 'tcpTwoHosts', 'more', ['vnsnap-vm']),
  'cpuPerGbit.vsVnsnapVm': against(FAST, 'cpuPerGbitTwoHosts', 'less', ['vnsnap-vm']),
  'tcpGap.vsUnacloud': against('snapswitch', 'tcpGap', 'less', ['unacloud']),
  'rttP50.vsUnacloud': against(FAST, 'rtt.8.p50', 'less', ['unacloud']),
  'tcpTwoHosts.vsOvsUserspace': against(FAST, 'tcpTwoHosts', 'more', ovs),
  'rttP50.vsOvsUserspace': against(FAST, 'rtt.8.p50', 'less', ovs),
  'tcpTwoHosts.vsVde': against(FAST, 'tcpTwoHosts', 'more', ['vde', 'vde-plug']),
}

export const vnsnapBench: Bench = {
  kind: 'vnsnap',
  title: 'Beside VNsnap, UnaCloud and the rest',
  tables,
  ratios,
  plots: [
    'rtt.8.p50',
    'rtt.8.p99',
    'rttTcp.p50',
    'rttTwoHosts.8.p50',
    'tcp',
    'tcpTwoHosts',
    'udp.64',
    'udp.1472',
    'udp.gso',
    'cpuPerFrame',
    'cpuPerGbit',
    'cpuPerGbitTwoHosts',
    'wire.60',
    'downtime.p50',
    'skew.p50',
    'globalMs',
    'localMs',
    'tcpGap',
    'timeouts',
    'udpLost',
    'slowdown.2x2',
    'slowdown.4x2',
    'slowdown.8x2',
    'noise.2x2',
  ],
  note: 'What the baselines are, and what was assumed of them: [bench/vnsnap](../vnsnap/README.md).',
}
