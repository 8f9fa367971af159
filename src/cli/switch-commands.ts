// Commands that ask a host's switch daemon: status, port list, fdb show.

import type { Command } from 'commander'
import { Connection } from '../api/connection.js'
import { parseEndpoint } from '../api/endpoint.js'
import { checkedName, knownNetwork } from '../api/names.js'
import { pathOf } from '../api/paths.js'
import { CoordinatorStatus, SwitchStatus } from '../api/schemas.js'
import { SwitchClient } from '../api/switch-client.js'
import { validator } from '../api/validate.js'
import { SnapswitchError } from '../errors/errors.js'
import {
  type CommonOptions,
  coordinatorSocket,
  defaultCoordinatorSocket,
  defaultSwitchSocket,
  parseSocket,
  withJson,
  withSwitchSocket,
} from './options.js'
import { formatTable, printJson, type Terminal } from './output.js'
import { describePorts } from './port-report.js'
import { describeCoordinator, describeSwitch } from './status-report.js'

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
directory, coordinator, list of hosts, datapath, metrics or hypervisor setting needs a restart.`,
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
  terminal.out(describePorts(ports))
}

/** Throws NETWORK_UNKNOWN. */
async function checkNetwork(client: SwitchClient, network: string): Promise<void> {
  const { host, networks } = await client.status({ deadlineMs: callMs })
  const known = networks.map(({ name }) => name)
  knownNetwork(`host ${host}`, network, known)
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
