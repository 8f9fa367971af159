// `snapswitch record`: a run of a network, all that enters the switch, in a file that `snapswitch replay` replays.

import type { Readable } from 'node:stream'
import type { Command } from 'commander'
import { type EndReason, Kind, type RecordingEnd } from '../../switch/recording/format.js'
import { WholeBlocks } from '../../switch/recording/whole-blocks.js'
import { checkedName } from '../api/names.js'
import { SwitchClient } from '../api/switch-client.js'
import { fileOutput, type Output, OutputClosed, standardOutput } from '../capture/files.js'
import { SnapswitchError } from '../errors/errors.js'
import { parseSize, whole } from './capture-options.js'
import { Ending } from './ending.js'
import { defaultSwitchSocket, parseDuration, withSwitchSocket } from './options.js'
import { formatBytes, formatDuration, type Terminal } from './output.js'

const CALL_MS = 10_000
/** At the end, a reader that takes nothing for so long is not waited for, nor is a switch that says nothing. */
const STILL_MS = 10_000

interface RecordOptions {
  readonly write: string
  readonly for?: number
  readonly size?: number
  readonly buffer?: number
  readonly withKey?: boolean
  readonly socket?: string
}

const REASONS: Readonly<Record<EndReason, string | null>> = {
  asked: null,
  time: null,
  size: null,
  'no-room': 'something found no room, and the end is missing: a larger --buffer or a faster disk may help',
  'network-removed': 'the network is not on this host any more',
  'datapath-restarted': 'the forwarding thread was started anew; see the daemon’s log',
}

export function addRecordCommand(program: Command, terminal: Terminal, setCode: (code: number) => void): void {
  const command = withSwitchSocket(program.command('record'))
    .description('record a run of a network, for snapswitch replay; the file opens in Wireshark, too')
    .argument('<network>', 'the network')
    .requiredOption('-w, --write <file>', 'the file; -: standard output')
    .option('--for <time>', 'end after this time, such as 90s or 10m', parseDuration)
    .option('--size <size>', 'end when the file has about this size, such as 500M', parseSize)
    .option('--buffer <MiB>', 'memory in which it waits to be written; default: 64', whole(1, 512))
    .option('--with-key', 'the network’s control key may be in the file, which cannot be replayed without')
  command.action(async (network: string, options: RecordOptions) => {
    checkedName('network', network)
    if (options.write === '-' && process.stdout.isTTY === true)
      return command.error('error: a recording is nothing for a terminal: -w FILE', { exitCode: 2 })
    const { bytes, ms, end } = await record(terminal, network, options)
    const reason = end === null ? 'whoever reads has gone, or takes nothing' : (REASONS[end.reason] ?? gapsInWords(end))
    const frames = end?.frames === undefined ? '' : `${end.frames} frames, `
    terminal.err(`${frames}${formatBytes(bytes)} in ${formatDuration(ms / 1000)}\n`)
    if (reason === null) return
    terminal.err(`incomplete: ${reason}\n`)
    setCode(1)
  })
}

function gapsInWords({ gaps = 0 }: RecordingEnd): string | null {
  if (gaps === 0) return null
  const count = gaps === 1 ? 'there is a gap' : `there are ${gaps} gaps`
  return `${count}, where something found no room: a larger --buffer or a faster disk may help`
}

interface Recorded {
  readonly bytes: number
  readonly ms: number
  /** Null: whoever reads has gone, or takes nothing. */
  readonly end: RecordingEnd | null
}

async function record(terminal: Terminal, network: string, options: RecordOptions): Promise<Recorded> {
  const { buffer, size, withKey } = options
  const client = new SwitchClient(options.socket ?? defaultSwitchSocket)
  let output: Output | null = null
  let stream: Readable | null = null
  const calledOff = new AbortController()
  const ending = new Ending({
    stillMs: STILL_MS,
    tell: () => client.endRecording(network, { deadlineMs: CALL_MS }),
    isAtDisk: () => output?.isAtDisk ?? false,
    giveUp: () => {
      output?.abandon()
      stream?.destroy()
    },
  })
  const stop = () => {
    // Until ours has begun, the network's recording is somebody else's.
    if (stream === null) return calledOff.abort()
    ending.begin()
  }
  // A second Ctrl-C ends the command as it would any other.
  process.once('SIGINT', stop)
  process.once('SIGTERM', stop)
  const begun = performance.now()
  const blocks = new WholeBlocks()
  let end: RecordingEnd | null = null
  blocks.onRecord = (kind, payload) => {
    if (kind === Kind.END) end = JSON.parse(new TextDecoder().decode(payload)) as RecordingEnd
  }
  let bytes = 0
  const recorded = (): Recorded => ({ bytes, ms: performance.now() - begun, end })
  try {
    const request = {
      ...(options.for === undefined ? {} : { seconds: options.for / 1000 }),
      ...(size === undefined ? {} : { bytes: size }),
      ...(buffer === undefined ? {} : { buffer }),
      ...(withKey === undefined ? {} : { withKey }),
    }
    output = options.write === '-' ? quietOutput() : await fileOutput(options.write, calledOff.signal)
    stream = await client.record(network, request, { deadlineMs: CALL_MS, signal: calledOff.signal })
    terminal.err(`recording network ${network}; Ctrl-C ends it\n`)
    for await (const chunk of stream) {
      ending.sign()
      const written = blocks.push(chunk as Buffer)
      bytes += written.length
      await output.write(written)
      ending.sign()
    }
    if (end === null) throw brokenOff()
    return recorded()
  } catch (error) {
    if (error instanceof OutputClosed) return recorded()
    if (error instanceof SnapswitchError) throw error
    throw brokenOff(error)
  } finally {
    stream?.on('error', () => undefined).destroy()
    await output?.close()
    ending.over()
    process.off('SIGINT', stop)
    process.off('SIGTERM', stop)
    await client.close()
  }
}

function quietOutput(): Output {
  // It must not end the command by itself, as it does for those that print.
  process.stdout.removeAllListeners('error').on('error', () => undefined)
  return standardOutput()
}

function brokenOff(cause?: unknown): SnapswitchError {
  return new SnapswitchError(
    'SOCKET_UNREACHABLE',
    'the switch has ended without a word, and the recording with it',
    'What was written so far is whole, and can be replayed. See the daemon’s log.',
    cause,
  )
}
