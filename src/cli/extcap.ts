// `snapswitch extcap`: Wireshark's external capture interface (doc/extcap.adoc in its source). Wireshark calls it to
// list interfaces, to ask what each can do, and to capture into a pipe: networks are interfaces, and so is each port.
// The script that Wireshark finds is packaging/wireshark/snapswitch.

import type { Command } from 'commander'
import { isName } from '../api/names.js'
import { SwitchClient } from '../api/switch-client.js'
import { fileOutput } from '../capture/files.js'
import { parseFilter } from '../capture/filter.js'
import { SnapswitchError } from '../errors/errors.js'
import { version } from '../runtime/package.js'
import { runCapture } from './capture-run.js'
import { withSwitchSocket } from './options.js'
import type { Terminal } from './output.js'

/** Wireshark asks at its start, and shows nothing before all have answered. */
const LIST_MS = 3_000
const PREFIX = 'snapswitch'
const LINKTYPE_ETHERNET = 1

interface ExtcapOptions {
  readonly socket: string
  readonly extcapInterfaces?: boolean
  readonly extcapDlts?: boolean
  readonly extcapConfig?: boolean
  readonly extcapInterface?: string
  readonly extcapCaptureFilter?: string
  readonly capture?: boolean
  readonly fifo?: string
  readonly filter?: string
  readonly snaplen?: string
}

export function addExtcapCommand(program: Command, terminal: Terminal): void {
  withSwitchSocket(program.command('extcap'))
    .description('answer Wireshark, so that networks and ports are in its list of interfaces')
    .allowUnknownOption()
    .option('--extcap-interfaces', 'list the networks and ports')
    .option('--extcap-interface <name>', 'of this one')
    .option('--extcap-dlts', 'which link types it has')
    .option('--extcap-config', 'what may be set')
    .option('--extcap-version <version>', 'the version of Wireshark that asks')
    .option('--extcap-capture-filter <filter>', 'Wireshark’s capture filter, in the words of `snapswitch capture`')
    .option('--extcap-cleanup-postkill', 'taken, and of no use here')
    .option('--extcap-reload-option <option>', 'taken, and of no use here')
    .option('--capture', 'capture')
    .option('--fifo <pipe>', 'into this pipe')
    .option('--filter <filter>', 'which frames, in the words of `snapswitch capture`')
    .option('--snaplen <bytes>', 'bytes kept of each frame')
    .addHelpText(
      'after',
      `
Wireshark runs a script in one of its extcap folders (Help, About, Folders), and that script runs this command:

  printf '#!/bin/sh\\nexec snapswitch extcap "$@"\\n' >FOLDER/snapswitch && chmod +x FOLDER/snapswitch`,
    )
    .action((options: ExtcapOptions) => extcap(terminal, options))
}

async function extcap(terminal: Terminal, options: ExtcapOptions): Promise<void> {
  if (options.extcapInterfaces === true) return interfaces(terminal, options.socket)
  const name = options.extcapInterface ?? ''
  if (options.extcapDlts === true)
    return terminal.out(`dlt {number=${LINKTYPE_ETHERNET}}{name=EN10MB}{display=Ethernet}\n`)
  if (options.extcapConfig === true) return terminal.out(settings())
  // Whether a capture filter can be used: what is said is what is wrong with it (extcap_verify_capture_filter in
  // Wireshark's extcap.c).
  if (options.capture !== true && options.extcapCaptureFilter !== undefined)
    return terminal.out(faultOf(options.extcapCaptureFilter))
  if (options.capture !== true || options.fifo === undefined) {
    throw new SnapswitchError(
      'REQUEST_INVALID',
      'nothing that an extcap is asked for',
      'Wireshark calls this command; to capture by hand, use `snapswitch capture`.',
    )
  }
  await capture(name, options.fifo, options)
}

function faultOf(filter: string): string {
  try {
    parseFilter(filter)
    return ''
  } catch (error) {
    return `${(error as Error).message}\n`
  }
}

/** Without a switch there are none, and that is no error: Wireshark asks on every host. */
async function interfaces(terminal: Terminal, socket: string): Promise<void> {
  terminal.out(`extcap {version=${version}}{help=https://www.wireshark.org/docs/man-pages/extcap.html}\n`)
  const client = new SwitchClient(socket)
  try {
    const [status, ports] = await Promise.all([
      client.status({ deadlineMs: LIST_MS }),
      client.ports({ deadlineMs: LIST_MS }),
    ])
    for (const { name: network } of status.networks) {
      terminal.out(line(`${PREFIX}:${network}`, `network ${network} of the switch ${status.host}`))
      for (const port of ports.filter((one) => one.network === network)) {
        const words = [`port ${port.name} of network ${network}`, ...(port.vm === null ? [] : [`machine ${port.vm}`])]
        terminal.out(line(`${PREFIX}:${network}:${port.name}`, words.join(', ')))
      }
    }
  } catch (error) {
    if (!(error instanceof SnapswitchError)) throw error
    terminal.err(`${error.message}\n`)
  } finally {
    await client.close()
  }
}

const line = (value: string, display: string) => `interface {value=${value}}{display=${display}}\n`

function settings(): string {
  return [
    'arg {number=0}{call=--filter}{display=Filter}{type=string}{tooltip=port NAME, vm NAME, mac M, vlan N, ethertype N, arp, ip, ip6, in, out, delivered, held, dropped, reason R, with and, or, not}',
    'arg {number=1}{call=--snaplen}{display=Bytes of each frame}{type=integer}{range=14,262144}{default=262144}',
    '',
  ].join('\n')
}

async function capture(name: string, fifo: string, options: ExtcapOptions): Promise<void> {
  const [prefix, network, port, ...more] = name.split(':')
  if (prefix !== PREFIX || !isName(network) || (port !== undefined && !isName(port)) || more.length > 0) {
    throw new SnapswitchError(
      'REQUEST_INVALID',
      `${JSON.stringify(name)} is no interface of the switch`,
      '`snapswitch extcap --extcap-interfaces` lists them.',
    )
  }
  const filters = [options.filter, options.extcapCaptureFilter].flatMap((one) => (one?.trim() ? [`(${one})`] : []))
  const filter = [...(port === undefined ? [] : [`port ${port}`]), ...filters].join(' and ')
  const snaplen = Number(options.snaplen ?? 262_144)
  const { reason } = await runCapture({
    socket: options.socket,
    network,
    request: { snaplen, ...(filter === '' ? {} : { filter }) },
    output: (_, signal) => fileOutput(fifo, signal),
    begun: () => undefined,
  })
  if (reason !== null) throw new SnapswitchError('NETWORK_UNKNOWN', reason, 'See the switch’s log.')
}
