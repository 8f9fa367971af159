// Commands that ask a host's switch daemon: status, port list, fdb show.

import type { Command } from 'commander'
import { Connection } from '../api/connection.js'
import { parseEndpoint } from '../api/endpoint.js'
import { checkedName, knownNetwork } from '../api/names.js'
import { pathOf } from '../api/paths.js'
import { CoordinatorStatus, type PortInfo, SwitchStatus } from '../api/schemas.js'
import { SwitchClient } from '../api/switch-client.js'
import { validator } from '../api/validate.js'
import { SnapswitchError } from '../errors/errors.js'
import { reachedBy } from '../hypervisor/drivers.js'
import { describeBridges } from './bridge-report.js'
import {
  type CommonOptions,
  coordinatorSocket,
  defaultCoordinatorSocket,
  defaultSwitchSocket,
  parseSocket,
  withJson,
  withSwitchSocket,
} from './options.js'
import { formatBytes, formatDuration, formatTable, printJson, type Terminal } from './output.js'

const callMs = 10_000
/** A snapshot under way is waited for. */
const reloadMs = 60_000

export function addSwitchCommands(program: Command, terminal: Terminal): void {
  withJson(program.command('status'))
    .description('show the daemons that run here: their networks, machines, peers and hosts')
    .option('--socket <path>', 'ask only the daemon on this socket, switch or coordinator', parseSocket)
    .addHelpText(
      'after',
      `
Without --socket both daemons are asked, at SNAPSWITCH_SOCKET (${defaultSwitchSocket})
and SNAPSWITCH_COORDINATOR (${defaultCoordinatorSocket}).`,
    )
    .action((options: CommonOptions) => status(terminal, options))

  withSwitchSocket(withJson(program.command('reload')))
    .option('-c, --config <file>', 'ask the daemon at the socket that this configuration names')
    .description('have the switch daemon read its configuration again; what did not change loses no frame')
    .addHelpText(
      'after',
      `
SIGHUP does the same. An error leaves the configuration in force as it was. A changed host name, socket, state
directory, datapath or hypervisor setting needs a restart.`,
    )
    .action((options: CommonOptions & { config?: string }) => reload(terminal, options))

  const port = program.command('port').description('the switch’s ports')
  withSwitchSocket(withJson(port.command('list')))
    .description('list the ports with their counters')
    .option('--network <name>', 'only those of one network')
    .action((options: CommonOptions & { network?: string }) => portList(terminal, options))

  const fdb = program.command('fdb').description('the forwarding database')
  withSwitchSocket(withJson(fdb.command('show')))
    .description('show which address is behind which port; -j prints the shape of `bridge -j fdb show`')
    .argument('[network]', 'only this network')
    .option('--verdicts', 'which pairs of addresses the kernel forwards by itself')
    .action((network: string | undefined, options: CommonOptions & { verdicts?: boolean }) =>
      options.verdicts === true ? verdictsShow(terminal, network, options) : fdbShow(terminal, network, options),
    )
}

export async function withSwitch<T>(options: CommonOptions, act: (client: SwitchClient) => Promise<T>): Promise<T> {
  const client = new SwitchClient(options.socket ?? defaultSwitchSocket)
  try {
    return await act(client)
  } finally {
    await client.close()
  }
}

const isSwitchStatus = validator(SwitchStatus)
const isCoordinatorStatus = validator(CoordinatorStatus)
const isEitherStatus = Object.assign(
  (value: unknown): value is SwitchStatus | CoordinatorStatus => isSwitchStatus(value) || isCoordinatorStatus(value),
  { findings: () => isSwitchStatus.findings() },
)

async function askStatus(address: string, who: string): Promise<SwitchStatus | CoordinatorStatus> {
  const whenUnreachable = 'Start the daemon (`snapswitch switch` or `snapswitch coordinator`), or give its --socket.'
  const connection = new Connection({ endpoint: parseEndpoint(address), who, whenUnreachable })
  try {
    return await connection.json('GET', pathOf('status', {}), isEitherStatus, { deadlineMs: callMs })
  } finally {
    await connection.close()
  }
}

async function status(terminal: Terminal, options: CommonOptions): Promise<void> {
  if (options.socket !== undefined) {
    const found = await askStatus(options.socket, 'the daemon')
    if (options.json === true) return printJson(terminal, found)
    return terminal.out(describeStatus(found))
  }
  const answers = await Promise.allSettled([
    askStatus(process.env.SNAPSWITCH_SOCKET || defaultSwitchSocket, 'the switch daemon'),
    coordinatorSocket(process.env.SNAPSWITCH_COORDINATOR ? { socket: process.env.SNAPSWITCH_COORDINATOR } : {}).then(
      (socket) => askStatus(socket, 'the coordinator'),
    ),
  ])
  const found = answers.flatMap((a) => (a.status === 'fulfilled' ? [a.value] : []))
  const failures = answers.flatMap((a) => (a.status === 'rejected' ? [a.reason as SnapswitchError] : []))
  // A daemon that is simply not there is no failure of the other; one that is there and fails is.
  const broken = failures.find((error) => error.code !== 'SOCKET_UNREACHABLE')
  if (broken !== undefined) throw broken
  if (found.length === 0) {
    throw new SnapswitchError(
      'SOCKET_UNREACHABLE',
      failures.map((error) => error.message).join('; '),
      'Start a daemon (`snapswitch switch` or `snapswitch coordinator`), or give its --socket.',
    )
  }
  if (options.json === true) {
    // Without networks a switch's answer would fit a coordinator's, too.
    const own = found.find((v) => isSwitchStatus(v)) ?? null
    return printJson(terminal, { switch: own, coordinator: found.find((v) => v !== own) ?? null })
  }
  terminal.out(found.map(describeStatus).join('\n'))
}

function describeStatus(found: SwitchStatus | CoordinatorStatus): string {
  return isSwitchStatus(found) ? describeSwitch(found) : describeCoordinator(found as CoordinatorStatus)
}

function describeSwitch(found: SwitchStatus): string {
  const restarts = found.datapathRestarts === 0 ? '' : `, datapath restarted ${found.datapathRestarts} times`
  const lines = [
    `switch ${found.host}: version ${found.version}, pid ${found.pid}, up ${formatDuration(found.uptimeSeconds)}${restarts}\n`,
  ]
  const withFast = found.networks.some(({ fast }) => fast !== undefined)
  const networks = found.networks.map((n) => {
    const fast = withFast ? [n.fast ?? null] : []
    return [n.name, n.epoch, n.ports, ...fast, n.waiting?.join(',') ?? null, n.fdbEntries, n.busy ?? 'no']
  })
  const fastHead = withFast ? ['FAST'] : []
  lines.push(formatTable(['NETWORK', 'EPOCH', 'PORTS', ...fastHead, 'WAITING', 'FDB', 'BUSY'], networks))
  if (found.networks.some((n) => (n.waiting ?? []).length > 0)) {
    lines.push('ports wait for devices that do not exist: `snapswitch port list` says for which\n')
  }
  for (const { port, problem } of found.networks.flatMap((n) => n.undriven ?? []))
    lines.push(`port ${port}: ${problem.message}. ${problem.action}\n`)
  const peers = found.networks.flatMap((n) =>
    n.peers.map((p) => [
      n.name,
      p.port,
      p.host,
      p.alive ? 'yes' : 'NO',
      p.lastHeardMs === null ? null : `${Math.round(p.lastHeardMs)} ms ago`,
    ]),
  )
  if (peers.length > 0) lines.push('\n', formatTable(['NETWORK', 'TRUNK', 'PEER', 'ALIVE', 'HEARD'], peers))
  const machines = found.machines.map((m) => [m.name, m.ports.join(','), reachedBy(m)])
  if (machines.length > 0) lines.push('\n', formatTable(['MACHINE', 'PORTS', 'REACHED BY'], machines))
  const disks = found.machines.flatMap((m) => (m.disks ?? []).map(({ name, file }) => [m.name, name, file]))
  if (disks.length > 0) lines.push('\n', formatTable(['MACHINE', 'DISK', 'WRITES TO'], disks))
  for (const { message, action } of found.machines.flatMap((m) => m.problems ?? []))
    lines.push(`\nWARNING: ${message}\n${action}\n`)
  lines.push(describeBridges(found.bridges ?? []))
  return lines.join('')
}

function describeCoordinator(found: CoordinatorStatus): string {
  const hosts = found.networks.flatMap((n) =>
    n.hosts.map((h) => [n.name, h.host, h.reachable ? 'yes' : 'NO', h.members.join(','), h.socket, n.busy ?? 'no']),
  )
  const errors = found.networks.flatMap((n) =>
    n.hosts.flatMap((h) => (h.error === null ? [] : [`${h.error.message}\n`])),
  )
  return [
    `coordinator${found.embedded === true ? ', inside the switch' : ''}: version ${found.version}, pid ${found.pid}\n`,
    formatTable(['NETWORK', 'HOST', 'REACHABLE', 'MEMBERS', 'SOCKET', 'BUSY'], hosts),
    ...(errors.length === 0 ? [] : ['\n', ...errors]),
  ].join('')
}

async function reload(terminal: Terminal, options: CommonOptions & { config?: string }): Promise<void> {
  const socket = options.config === undefined ? options.socket : await socketIn(options.config)
  const found = await withSwitch({ ...options, ...(socket === undefined ? {} : { socket }) }, (client) =>
    client.reload({ deadlineMs: reloadMs }),
  )
  if (options.json === true) return printJson(terminal, found)
  terminal.out(found.changes.length === 0 ? 'nothing has changed\n' : found.changes.map((one) => `${one}\n`).join(''))
}

/** Throws what is wrong with the configuration: the daemon would say the same. */
async function socketIn(config: string): Promise<string> {
  const { loadSwitchConfig } = await import('../../switch/config.js')
  return loadSwitchConfig(config).api.socket
}

async function portList(terminal: Terminal, options: CommonOptions & { network?: string }): Promise<void> {
  const { network } = options
  if (network !== undefined) checkedName('network', network)
  const ports = await withSwitch(options, async (client) => {
    const found = (await client.ports({ deadlineMs: callMs })).filter(
      (p) => network === undefined || p.network === network,
    )
    if (network !== undefined && found.length === 0) await checkNetwork(client, network)
    return found
  })
  if (options.json === true) return printJson(terminal, ports)
  const withRules = ports.some(({ rules }) => rules !== undefined)
  const withPaths = ports.some(({ fastPath }) => fastPath !== undefined)
  const head = [
    'PORT',
    'NETWORK',
    'DEVICE',
    'KIND',
    'VM',
    'UP',
    'MTU',
    'EPOCH',
    'GATE',
    'RX',
    'RX BYTES',
    'TX',
    'TX BYTES',
    'DROPS',
    ...(withPaths ? ['PATH'] : []),
    ...(withRules ? ['RULES'] : []),
  ]
  const problems = ports.flatMap(({ name, problem, warnings = [], holder }) =>
    [problem, ...warnings, holder?.problem]
      .flatMap((one) => one ?? [])
      .map(({ message, action }) => `port ${name}: ${message}. ${action}\n`),
  )
  terminal.out(
    [
      formatTable(
        head,
        ports.map((port) => [
          ...portRow(port),
          ...(withPaths ? [describePath(port.fastPath)] : []),
          ...(withRules ? [describeRules(port.rules)] : []),
        ]),
      ),
      ...(problems.length === 0 ? [] : ['\n', ...problems]),
    ].join(''),
  )
}

/** Of all reasons, the kernel's included. */
export function allDrops(counters: PortInfo['counters']): number {
  return Object.values(counters.drops).reduce((sum, count) => sum + count, counters.kernelDrops)
}

/** Throws NETWORK_UNKNOWN. */
async function checkNetwork(client: SwitchClient, network: string): Promise<void> {
  const { host, networks } = await client.status({ deadlineMs: callMs })
  const known = networks.map(({ name }) => name)
  knownNetwork(`host ${host}`, network, known)
}

/** Behind a port that belongs to no machine. */
function holderInWords(holder: PortInfo['holder']): string | null {
  if (holder === null || holder === undefined) return null
  return holder.kind === 'undrivable' ? `(${holder.name ?? '?'}: not driven)` : `(${holder.name ?? '?'})`
}

/** `fast`, or `slow: why`. */
const describePath = (path: PortInfo['fastPath']) => (path?.fast === true ? 'fast' : `slow: ${path?.why ?? 'off'}`)

function portRow(p: PortInfo): (string | number | null)[] {
  const { counters: c } = p
  const traffic = [c.rxFrames, formatBytes(c.rxBytes), c.txFrames, formatBytes(c.txBytes), allDrops(c)]
  return [
    p.name,
    p.network,
    // Renamed since, or named by one of its other names.
    p.ifname === undefined || p.ifname === null || p.ifname === p.device ? p.device : `${p.device} (${p.ifname})`,
    p.kind,
    p.vm ?? holderInWords(p.holder),
    p.waiting === true ? 'waiting' : p.up ? 'yes' : 'NO',
    p.mtu === 0 ? null : p.mtu,
    p.epoch,
    p.gate,
    ...traffic,
  ]
}

/** `VLAN 10* 20t-29t isolated`: `*` marks the pvid, `t` VLANs whose frames leave with their tags. */
export function describeRules(rules: PortInfo['rules'] = {}): string {
  const { vlan, fdb = [], mirror } = rules
  const words: string[] = []
  if (vlan !== undefined) {
    const { pvid, untagged = [], tagged = [] } = vlan
    const isListed = [...untagged, ...tagged].some((one) => covers(one, pvid))
    const ofAll = [...(pvid === undefined || isListed ? [] : [pvid]), ...untagged]
    const mark = (one: number | string) => (covers(one, pvid) ? (one === pvid ? '*' : ` (pvid ${pvid})`) : '')
    const list = [...ofAll.map((one) => `${one}${mark(one)}`), ...tagged.map((one) => `${one}t${mark(one)}`)]
    words.push(list.length === 0 ? 'no VLAN' : `VLAN ${list.join(' ')}`)
  }
  for (const flag of ['isolated', 'hairpin', 'locked'] as const) if (rules[flag] === true) words.push(flag)
  for (const flag of ['learning', 'flood', 'mcastFlood', 'bcastFlood'] as const)
    if (rules[flag] === false) words.push(`no ${flag}`)
  if (fdb.length > 0) words.push(`${fdb.length} static`)
  if (mirror !== undefined) words.push(mirrorInWords(mirror))
  return words.join(', ')
}

function mirrorInWords({ of, direction = 'both' }: NonNullable<NonNullable<PortInfo['rules']>['mirror']>): string {
  return `mirror of ${of.join(' ')}${direction === 'both' ? '' : ` (${direction})`}`
}

function covers(one: number | string, vlan: number | undefined): boolean {
  if (vlan === undefined) return false
  const [first, last = first] = String(one).split('-').map(Number)
  return vlan >= first! && vlan <= last!
}

/** What `ask` answers of a network, or of all. */
function ofNetworks<T>(
  network: string | undefined,
  options: CommonOptions,
  ask: (client: SwitchClient, name: string) => Promise<readonly T[]>,
): Promise<T[]> {
  if (network !== undefined) checkedName('network', network)
  return withSwitch(options, async (client) => {
    const networks =
      network === undefined ? (await client.status({ deadlineMs: callMs })).networks.map((n) => n.name) : [network]
    const found: T[] = []
    for (const name of networks) found.push(...(await ask(client, name)))
    return found
  })
}

async function verdictsShow(terminal: Terminal, network: string | undefined, options: CommonOptions): Promise<void> {
  const found = await ofNetworks(network, options, async (client, name) => {
    const verdicts = await client.verdicts(name, { deadlineMs: callMs })
    return verdicts.map((verdict) => ({ network: name, ...verdict }))
  })
  if (options.json === true) return printJson(terminal, found)
  const rows = found.map((v) => [v.network, v.from, v.source, v.to, v.destination, v.vlan ?? null, Math.round(v.idle)])
  terminal.out(formatTable(['NETWORK', 'FROM', 'SOURCE', 'TO', 'DESTINATION', 'VLAN', 'IDLE s'], rows))
}

async function fdbShow(terminal: Terminal, network: string | undefined, options: CommonOptions): Promise<void> {
  const entries = await ofNetworks(network, options, (client, name) => client.fdb(name, { deadlineMs: callMs }))
  if (options.json === true) return printJson(terminal, entries)
  const rows = entries.map((e) => [e.mac, e.port, e.ifname, e.vlan ?? null, e.master, e.state, Math.round(e.used)])
  terminal.out(formatTable(['MAC', 'PORT', 'DEVICE', 'VLAN', 'NETWORK', 'STATE', 'AGE s'], rows))
}
