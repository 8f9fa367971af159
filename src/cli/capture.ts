// `snapswitch capture`: frames of a network as they pass, with what becomes of them, as pcapng or as lines to read.

import { type Command, InvalidArgumentError } from 'commander'
import { checkedName } from '../api/names.js'
import { fileOutput, type Output, removeFile, ringName, standardOutput } from '../capture/files.js'
import { lineOf } from '../capture/line.js'
import type { CaptureSummary } from '../capture/receiver.js'
import { type CaptureOptions, filterOf, withCaptureOptions } from './capture-options.js'
import { runCapture } from './capture-run.js'
import { defaultSwitchSocket, withJson, withSwitchSocket } from './options.js'
import { formatBytes, formatTable, printJson, type Terminal } from './output.js'
import { withSwitch } from './switch-commands.js'

const CALL_MS = 10_000

export function addCaptureCommand(program: Command, terminal: Terminal, setCode: (code: number) => void): void {
  const command = withSwitchSocket(withJson(withCaptureOptions(program.command('capture'))))
    .description('show the frames of a network as they pass: port, direction, color and what became of them')
    .argument('[network]', 'the network')
    .argument('[filter...]', 'which frames, in words: see below')
    .addHelpText(
      'after',
      `
The filter: port NAME, vm NAME, mac M, src M, dst M, vlan [N], ethertype N, arp, ip, ip6, broadcast, multicast, in, out,
received, delivered, held, dropped, reason R, joined by and, or, not and parentheses. Options are joined to it by and.

  snapswitch capture lab0                                a line for each frame
  snapswitch capture lab0 -w - | wireshark -k -i -       live in Wireshark
  snapswitch capture lab0 -w run.pcapng --file-size 100M --files 10
  snapswitch capture lab0 'dropped and not reason link-local'`,
    )
  command.action(async (network: string | undefined, words: string[], options: CaptureOptions) => {
    if (options.list === true) return list(terminal, options)
    if (network === undefined)
      return command.error('error: which network? `snapswitch status` lists them', { exitCode: 2 })
    checkedName('network', network)
    const usage = <T>(act: () => T): T => {
      try {
        return act()
      } catch (error) {
        if (!(error instanceof InvalidArgumentError)) throw error
        return command.error(`error: ${error.message}`, { exitCode: 2 })
      }
    }
    usage(() => checkOptions(options))
    const filter = usage(() => filterOf(options, words))
    await capture(terminal, network, filter, options, setCode)
  })
}

function checkOptions({ write, fileSize, fileTime, files }: CaptureOptions): void {
  const rotates = fileSize !== undefined || fileTime !== undefined
  if (rotates && (write === undefined || write === '-'))
    throw new InvalidArgumentError('--file-size and --file-time need a file: -w FILE.')
  if (files !== undefined && !rotates) throw new InvalidArgumentError('--files needs --file-size or --file-time.')
  if (write === '-' && process.stdout.isTTY === true)
    throw new InvalidArgumentError('pcapng is nothing for a terminal: -w FILE, or a pipe to tshark or Wireshark.')
}

async function capture(
  terminal: Terminal,
  network: string,
  filter: string,
  options: CaptureOptions,
  setCode: (code: number) => void,
): Promise<void> {
  const { write, snaplen, buffer, count, seconds, fileSize, fileTime } = options
  const summary = await runCapture({
    socket: options.socket ?? defaultSwitchSocket,
    network,
    request: {
      ...(filter === '' ? {} : { filter }),
      ...(snaplen === undefined ? {} : { snaplen }),
      ...(buffer === undefined ? {} : { buffer }),
    },
    count,
    ms: seconds,
    fileBytes: fileSize,
    fileMs: fileTime,
    ...(write === undefined
      ? { show: (port, words, content) => terminal.out(`${lineOf(port, words, content)}\n`) }
      : { output: outputs(write, options) }),
    begun: () => terminal.err(`capturing on network ${network}; Ctrl-C ends it\n`),
  })
  terminal.err(`${inWords(summary)}\n`)
  if (summary.reason !== null) setCode(1)
}

export function inWords({ packets, lost, files, reason, complete }: CaptureSummary): string {
  const told = complete ? '' : ' or more'
  return [
    `${packets} packets${files > 1 ? ` in ${files} files` : ''}`,
    `${lost}${told} lost for want of room${lost > 0 ? ': a larger --buffer, a filter or --snaplen may help' : ''}`,
    ...(reason === null ? [] : [`ended by the switch: ${reason}`]),
  ].join('; ')
}

/** One file, or the files of a ring, of which the oldest go. */
function outputs(path: string, { fileSize, fileTime, files = Number.POSITIVE_INFINITY }: CaptureOptions) {
  const kept: string[] = []
  return async (number: number, signal: AbortSignal): Promise<Output> => {
    if (path === '-') {
      // It must not end the command by itself, as it does for those that print.
      process.stdout.removeAllListeners('error').on('error', () => undefined)
      return standardOutput()
    }
    if (fileSize === undefined && fileTime === undefined) return fileOutput(path, signal)
    const name = ringName(path, number, new Date())
    if (kept.push(name) > files) await removeFile(kept.shift()!)
    return fileOutput(name, signal)
  }
}

async function list(terminal: Terminal, options: CaptureOptions): Promise<void> {
  const found = await withSwitch(options, (client) => client.captures({ deadlineMs: CALL_MS }))
  if (options.json === true) return printJson(terminal, found)
  terminal.out(
    formatTable(
      ['CAPTURE', 'NETWORK', 'SINCE', 'SENT', 'LOST', 'FILTER'],
      found.map(({ id, network, since, bytes, lost, filter }) => [
        id,
        network,
        since,
        formatBytes(bytes),
        lost,
        filter === '' ? null : filter,
      ]),
    ),
  )
}
