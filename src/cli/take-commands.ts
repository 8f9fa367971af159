// Commands that take a bridge of the kernel over, and give it back.

import { type Command, Option } from 'commander'
import type { GivenBack } from '../api/schemas.js'
import type { SwitchClient } from '../api/switch-client.js'
import { asSnapswitchError } from '../errors/errors.js'
import { giveWithoutDaemon } from './give-back.js'
import { type CommonOptions, parseSocket, withJson, withSwitchSocket } from './options.js'
import { formatTable, printJson, type Terminal } from './output.js'
import { startDaemon } from './start-daemon.js'
import { withSwitch } from './switch-commands.js'

/** Opening rings, and waiting for a snapshot that is under way, take their time. */
const CALL_MS = 30_000

interface TakeOptions extends CommonOptions {
  readonly network?: string
  readonly uplink?: string
  readonly ignoreFilters?: boolean
}

export function addTakeCommands(program: Command, terminal: Terminal): void {
  withSwitchSocket(withJson(program.command('take')))
    .description('take a bridge over: the switch forwards in its place, and nothing else changes')
    .argument('<bridge>', 'a bridge of the kernel, such as br0')
    .option('--network <name>', 'what it is called as a network; default: as the bridge is')
    .option('--uplink <device>', 'the port that leads to a LAN with peer switches')
    .option('--ignore-filters', 'go on though packet filters between its ports are passed by')
    .addHelpText(
      'after',
      `
Ports stay in the bridge, and the host keeps its addresses there. What joins the bridge later is on the
switch, and machines are found by their TAPs. A daemon is started when none runs.`,
    )
    .action((bridge: string, options: TakeOptions) => take(terminal, bridge, options))

  withSwitchSocket(program.command('give'))
    .description('give a bridge back to the kernel, as it was found')
    .argument('<bridge>', 'a bridge that was taken over')
    .addOption(
      new Option('--state <directory>', 'the daemon’s state directory: where to look when no daemon answers')
        .default('/var/lib/snapswitch')
        .argParser(parseSocket),
    )
    .action((bridge: string, options: CommonOptions & { state: string }) => give(terminal, bridge, options))
}

async function take(terminal: Terminal, bridge: string, options: TakeOptions): Promise<void> {
  const { network, uplink, ignoreFilters } = options
  const request = {
    bridge,
    ...(network === undefined ? {} : { network }),
    ...(uplink === undefined ? {} : { uplink }),
    ...(ignoreFilters === undefined ? {} : { ignoreFilters }),
  }
  const ask = () => withSwitch(options, (client) => taken(client, request))
  let found: Awaited<ReturnType<typeof taken>>
  try {
    found = await ask()
  } catch (thrown) {
    if (asSnapswitchError(thrown).code !== 'SOCKET_UNREACHABLE') throw thrown
    const started = await startDaemon(options.socket)
    try {
      found = await ask()
    } catch (refused) {
      if (!(await started.takeBack())) terminal.err(`${started.words}\n`)
      throw refused
    }
    terminal.err(`${started.words}\n`)
  }
  if (options.json === true) return printJson(terminal, found.bridge)
  terminal.out(describe(found))
}

async function taken(client: SwitchClient, request: Parameters<SwitchClient['takeBridge']>[0]) {
  const bridge = await client.takeBridge(request, { deadlineMs: CALL_MS })
  const ports = (await client.ports({ deadlineMs: CALL_MS })).filter(({ network }) => network === bridge.network)
  return { bridge, ports }
}

function describe({ bridge, ports }: Awaited<ReturnType<typeof taken>>): string {
  const rows = ports.map(({ name, kind, vm }) => [name, kind, vm])
  const warnings = bridge.warnings.map((warning) => `note: ${warning}\n`)
  const head = `bridge ${bridge.bridge} is taken over: network ${bridge.network}, ${ports.length} ports\n`
  return [head, formatTable(['PORT', 'KIND', 'MACHINE'], rows), ...warnings].join('')
}

async function give(terminal: Terminal, bridge: string, options: CommonOptions & { state: string }): Promise<void> {
  let found: GivenBack
  let until = '`snapswitch reload`, `snapswitch take` or a restart of the daemon'
  try {
    found = await withSwitch(options, (client) => client.giveBridge(bridge, { deadlineMs: CALL_MS }))
  } catch (thrown) {
    if (asSnapswitchError(thrown).code !== 'SOCKET_UNREACHABLE') throw thrown
    found = await giveWithoutDaemon(options.state, bridge)
    until = 'a daemon starts'
    terminal.err('no daemon runs: the kernel has the bridge again since it ended\n')
  }
  terminal.out(`bridge ${bridge} is the kernel’s again\n`)
  if (found.configured === true)
    terminal.out(
      `the configuration names it, so that holds until ${until}; for longer, take \`bridge:\` out of the file\n`,
    )
}
