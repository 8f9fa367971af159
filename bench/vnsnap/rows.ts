// What a run of `scripts/bench vnsnap` or `growth` keeps, raw, and the names of its figures.

export type Part = 'network' | 'snapshot' | 'ring' | 'machines' | 'ports'

/** One subject in one round of one part. Figures that could not be had are left out. */
export interface Row {
  readonly part: Part
  readonly round: number
  readonly subject: string
  readonly figures: Readonly<Record<string, number>>
  readonly error: string | null
}

export interface Figure {
  readonly name: string
  readonly text: string
  readonly unit: string
  readonly better: 'more' | 'less'
  /** Shown as value divided by this. */
  readonly scale: number
  readonly digits: number
}

export interface Table {
  readonly part: Part
  readonly title: string
  readonly figures: readonly Figure[]
}

const figure = (name: string, text: string, unit: string, better: Figure['better'], scale = 1, digits = 1): Figure => ({
  name,
  text,
  unit,
  better,
  scale,
  digits,
})

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

export const tables: readonly Table[] = [
  {
    part: 'network',
    title: 'UDP round trip, one host, microseconds',
    figures: [
      ...PAYLOADS.flatMap((size) => roundTrip(`rtt.${size}`, `${size} B, idle`)),
      ...roundTrip('rttPaced', '8 B, one a ms'),
      ...roundTrip('rttFrames', '8 B, beside 20 k frames/s'),
      ...roundTrip('rttTcp', '8 B, beside bulk TCP'),
    ],
  },
  {
    part: 'network',
    title: 'UDP round trip, two hosts, microseconds',
    figures: PAYLOADS.flatMap((size) => roundTrip(`rttTwoHosts.${size}`, `${size} B, idle`, ' over two hosts')),
  },
  {
    part: 'network',
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
    part: 'network',
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
    part: 'snapshot',
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
      figure('faults', 'ring or disk broken', '', 'less', 1, 0),
    ],
  },
  {
    part: 'ring',
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
    part: 'ring',
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
  {
    part: 'machines',
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
    part: 'ports',
    title: 'Growth: forwarding between two ports of many',
    figures: [
      figure('ports.pps60', '60-byte frames delivered, saturated', 'thousand/s', 'more', 1e3, 0),
      figure('ports.rtt', 'round trip, 8 B, idle, p50', 'us', 'less'),
      figure('ports.tcp', 'TCP', 'Gbit/s', 'more', 1e9, 2),
      figure('ports.flood', 'CPU a broadcast frame, machine', 'us', 'less', 1, 1),
      figure('ports.rss', 'memory of the switch', 'MB', 'less', 1, 0),
    ],
  },
]

export const figureOf = (name: string): Figure | undefined =>
  tables.flatMap(({ figures }) => figures).find((one) => one.name === name)
