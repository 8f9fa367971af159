// The figures of `scripts/bench forwarding`: their names, tables, and the ratios that the project is held to.

import type { RatioRule, RatioRules } from '../run/ratios.js'
import type { Bench } from '../run/report.js'
import { type Figure, figure, type Table } from '../run/rows.js'

const saturated = (name: string, what: string) => figure(name, `${what}, saturated`, 'thousand/s', 'more', 1e3, 0)
const lossless = (size: number) =>
  figure(`pps${size}Lossless`, `${size} B, highest rate without a loss`, 'thousand/s', 'more', 1e3, 0)
const roundTrip = (name: string, load: string): Figure[] => [
  figure(`${name}P50`, `round trip, ${load}, p50`, 'us', 'less'),
  figure(`${name}P99`, `round trip, ${load}, p99`, 'us', 'less'),
]
const cpu = (name: string, what: string) => figure(name, `CPU of ${what}`, 's per million', 'less', 1, 2)

/** Frame sizes are without the FCS, as a packet socket sees them: 60 here is 64 on a wire. */
const tables: readonly Table[] = [
  {
    title: 'Frames',
    figures: [
      saturated('pps60', '60 B'),
      saturated('pps512', '512 B'),
      saturated('pps1514', '1514 B'),
      lossless(60),
      lossless(512),
      lossless(1514),
      figure('offered60', '60 B, offered in saturation', 'thousand/s', 'more', 1e3, 0),
      saturated('pps60TwoHosts', '60 B, two hosts'),
      figure('orderLost', 'lost in the order check', '', 'less', 1, 0),
      figure('orderLate', 'doubled or overtaken in the order check', '', 'less', 1, 0),
    ],
  },
  {
    title: 'Bulk TCP, one flow',
    figures: [
      figure('tcp', 'TCP, one host', 'Gbit/s', 'more', 1e9, 2),
      figure('tcpRetransmits', 'segments sent again, one host', '', 'less', 1, 0),
      figure('tcpTwoHosts', 'TCP, two hosts', 'Gbit/s', 'more', 1e9, 2),
      figure('tcpTwoHostsRetransmits', 'segments sent again, two hosts', '', 'less', 1, 0),
    ],
  },
  {
    title: 'UDP round trip of 8 bytes',
    figures: [
      ...roundTrip('rttIdle', 'back to back, idle'),
      ...roundTrip('rttPaced', 'one a ms'),
      ...roundTrip('rttLoaded', 'beside 50 k frames/s of 512 B'),
      ...roundTrip('rttTcp', 'beside bulk TCP'),
      figure('rttTwoHostsP50', 'round trip over two hosts, idle, p50', 'us', 'less'),
    ],
  },
  {
    title: 'Processor time',
    figures: [
      cpu('cpuProcess', 'the switch, 60 B, saturated'),
      cpu('cpuMachine', 'the machine, 60 B, saturated'),
      cpu('cpuProcessLight', 'the switch, 60 B, 50 k/s'),
      cpu('cpuMachineLight', 'the machine, 60 B, 50 k/s'),
      figure('cpuPerGbit', 'CPU of the machine, TCP on one host', 's per Gbit', 'less', 1, 3),
      figure('cpuPerGbitTwoHosts', 'CPU of the machine, TCP over two hosts', 's per Gbit', 'less', 1, 3),
      figure('cpuIdle', 'CPU of the switch without traffic', '% of a core', 'less', 0.01, 1),
    ],
  },
  {
    title: 'From guest to guest (TAPs of small virtual machines)',
    figures: [
      figure('guestHop', 'a hop of the token ring, TCP', 'us', 'less', 1, 0),
      figure('guestTcp', 'TCP between two guests, beside the ring', 'Mbit/s', 'more', 1e6, 0),
    ],
  },
]

const FAST = 'snapswitch-fast'
const USERSPACE = 'snapswitch-userspace'
const BUSY = 'snapswitch-busy'
const bridge = ['bridge'] as const
/** With TSO it has TCP and two hosts alone: for the rest its plain setting is the best there is. */
const ovs = ['ovs-userspace', 'ovs-userspace-tso'] as const
const vde = ['vde', 'vde-plug'] as const

const figures = new Map(tables.flatMap((table) => table.figures.map((one) => [one.name, one.better])))

const versus = (of: string, name: string, peers: readonly string[], reach?: RatioRule['reach']): RatioRule => ({
  of,
  figure: name,
  peers,
  better: figures.get(name)!,
  ...(reach === undefined ? {} : { reach }),
})

const ratios: RatioRules = {
  'rttIdleP50.vsBridge': versus(FAST, 'rttIdleP50', bridge, { most: 0.95 }),
  'pps60.vsBridge': versus(FAST, 'pps60', bridge, { least: 1.08 }),
  'pps60TwoHosts.vsBridge': versus(FAST, 'pps60TwoHosts', bridge, { least: 1.05 }),
  'cpuPerFrame.vsBridge': versus(FAST, 'cpuMachineLight', bridge, { most: 1 }),
  'cpuPerGbit.vsBridge': versus(FAST, 'cpuPerGbit', bridge, { most: 1.05 }),
  'tcp.vsBridge': versus(FAST, 'tcp', bridge, { least: 1 }),
  'tcpTwoHosts.vsBridge': versus(FAST, 'tcpTwoHosts', bridge, { least: 1 }),
  // The userspace path, which carries what the fast path does not.
  'pps60Userspace.vsBridge': versus(USERSPACE, 'pps60', bridge, { least: 1 }),
  'pps60TwoHostsUserspace.vsBridge': versus(USERSPACE, 'pps60TwoHosts', bridge),
  'tcpUserspace.vsBridge': versus(USERSPACE, 'tcp', bridge, { least: 0.95 }),
  'tcpTwoHostsUserspace.vsBridge': versus(USERSPACE, 'tcpTwoHosts', bridge, { least: 0.8 }),
  'rttIdleP50Busy.vsBridge': versus(BUSY, 'rttIdleP50', bridge, { most: 3 }),
  'rttIdleP50Userspace.vsBridge': versus(USERSPACE, 'rttIdleP50', bridge),
  'cpuPerFrameUserspace.vsBridge': versus(USERSPACE, 'cpuMachineLight', bridge),
  'cpuPerGbitUserspace.vsBridge': versus(USERSPACE, 'cpuPerGbit', bridge),
  colorOverhead: versus(USERSPACE, 'tcpTwoHosts', ['snapswitch-uncolored'], { least: 0.97 }),
  // Each peer in its best setting; then in the setting that an aim was taken from.
  'pps60.vsOvsUserspace': versus(FAST, 'pps60', ovs, { least: 2 }),
  'tcp.vsOvsUserspace': versus(FAST, 'tcp', ovs),
  'tcpTwoHosts.vsOvsUserspace': versus(FAST, 'tcpTwoHosts', ovs),
  'rttIdleP50.vsOvsUserspace': versus(FAST, 'rttIdleP50', ovs),
  'rttIdleP50.vsVde': versus(FAST, 'rttIdleP50', vde),
  'tcp.vsOvsUserspaceAsItComes': versus(FAST, 'tcp', ['ovs-userspace'], { least: 6 }),
  'tcpTwoHosts.vsOvsUserspaceAsItComes': versus(FAST, 'tcpTwoHosts', ['ovs-userspace']),
  'pps60.vsVde': versus(FAST, 'pps60', vde),
  'tcp.vsVde': versus(FAST, 'tcp', vde),
  'tcpTwoHosts.vsVde': versus(FAST, 'tcpTwoHosts', vde),
  'pps60.vsVdePlug': versus(FAST, 'pps60', ['vde-plug'], { least: 4 }),
  'tcp.vsVdePlug': versus(FAST, 'tcp', ['vde-plug'], { least: 8 }),
  // Context that keeps the figures above honest.
  'cpuPerFrameSaturated.vsBridge': versus(FAST, 'cpuMachine', bridge),
  'cpuPerGbitTwoHosts.vsBridge': versus(FAST, 'cpuPerGbitTwoHosts', bridge),
  'rttLoadedP99.vsBridge': versus(FAST, 'rttLoadedP99', bridge),
  'pps1514.vsBridge': versus(FAST, 'pps1514', bridge),
  'pps60Lossless.vsBridge': versus(FAST, 'pps60Lossless', bridge),
  'pps60.vsBridgeOwnCore': versus(FAST, 'pps60', ['bridge-own-core']),
  'guestHop.vsBridge': versus(FAST, 'guestHop', bridge),
  'guestTcp.vsBridge': versus(FAST, 'guestTcp', bridge),
}

export const forwardingBench: Bench = {
  kind: 'forwarding',
  title: 'Forwarding',
  tables,
  ratios,
  plots: [
    'rttIdleP50',
    'rttIdleP99',
    'pps60',
    'pps60TwoHosts',
    'pps1514',
    'tcp',
    'tcpTwoHosts',
    'cpuMachineLight',
    'cpuPerGbit',
    'guestHop',
    'guestTcp',
  ],
  note: 'One host: endpoints on one core, the switch on another. Two hosts: all on two cores, placed by the scheduler.',
}
