// The figures of `scripts/bench growth`: their names, tables and what is set of them.

import type { Bench } from '../run/report.js'
import { figure, type Table } from '../run/rows.js'

const tables: readonly Table[] = [
  {
    title: 'Growth: snapshots by machines and hosts',
    figures: [
      figure('machines.downtime.p50', 'downtime p50', 'ms', 'less'),
      figure('machines.downtime.max', 'downtime max', 'ms', 'less'),
      figure('machines.skew.p50', 'skew p50', 'ms', 'less'),
      figure('machines.skew.max', 'skew max', 'ms', 'less'),
      figure('machines.globalMs', 'global time', 'ms', 'less', 1, 0),
      figure('machines.rss', 'memory of the daemons, all together', 'MB', 'less', 1, 0),
      figure('machines.cpu', 'CPU of the daemons for a snapshot', 's', 'less', 1, 2),
      figure('machines.cpuIdle', 'CPU of the daemons between snapshots, share of a core', '%', 'less', 1, 1),
    ],
  },
  {
    title: 'Growth: forwarding between two ports of many',
    figures: [
      figure('ports.pps60', '60-byte frames delivered, saturated', 'thousand/s', 'more', 1e3, 0),
      figure('ports.rtt', 'round trip, 8 B, idle, p50', 'us', 'less'),
      figure('ports.tcp', 'TCP', 'Gbit/s', 'more', 1e9, 2),
      figure('ports.flood', 'CPU a broadcast frame, machine', 'us', 'less', 1, 1),
      figure('ports.rss', 'memory of the switch', 'MB', 'less', 1, 0),
      figure('ports.cpuIdle', 'CPU of the switch without traffic, share of a core', '%', 'less', 1, 2),
    ],
  },
]

export const growthBench: Bench = {
  kind: 'growth',
  title: 'Growth',
  tables,
  ratios: {
    idleCpu200Ports: { of: 'snapswitch-200p', figure: 'ports.cpuIdle', peers: [], better: 'less', reach: { most: 1 } },
  },
  plots: [
    'machines.downtime.p50',
    'machines.skew.p50',
    'machines.globalMs',
    'machines.rss',
    'machines.cpu',
    'ports.pps60',
    'ports.rtt',
    'ports.tcp',
    'ports.flood',
    'ports.rss',
    'ports.cpuIdle',
  ],
}
