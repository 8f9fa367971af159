// `snapswitch play`: a capture into ports of a running switch, or into devices.

import { statSync } from 'node:fs'
import type { Command } from 'commander'
import { SwitchClient } from '../api/client.js'
import { SnapswitchError } from '../errors/errors.js'
import { libc } from '../linux/libc.js'
import { Links } from '../linux/link.js'
import { Mapping, type Rule, type Target } from '../play/mapping.js'
import { closeOutlets, openOutlets } from '../play/outlets.js'
import { PlayError, type PlayOptions, type PlayReport, play } from '../play/player.js'
import type { IpChange, MacChange, VlanChange } from '../play/rewrite.js'
import type { Pace } from '../play/schedule.js'
import { openSwitchPorts, type PlayOverSwitch } from '../play/switch-ports.js'
import { type CommonOptions, defaultSwitchSocket, parseDuration, withJson, withSwitchSocket } from './options.js'
import { printJson, type Terminal } from './output.js'
import { countOption, ipOption, macOption, rateOption, ruleOption, speedOption, vlanOption } from './play-options.js'
import { describePlay, missedIn } from './play-report.js'

interface PlayCommandOptions extends CommonOptions {
  readonly map: readonly Rule[]
  readonly speed?: number
  readonly rate?: Pace
  readonly top?: boolean
  readonly loop: number
  readonly limit: number
  readonly duration?: number
  readonly maxGap?: number
  readonly direction: PlayOptions['direction']
  readonly mac?: readonly MacChange[]
  readonly ip?: readonly IpChange[]
  readonly vlan?: readonly VlanChange[]
  readonly checksums?: boolean
  readonly cut?: boolean
  readonly allowTruncated?: boolean
  readonly pad?: boolean
  readonly realtime?: boolean
  readonly dryRun?: boolean
}

const CALL_MS = 10_000
/** As a program that SIGINT ended. */
const INTERRUPTED = 130

export function addPlayCommand(program: Command, terminal: Terminal, setCode: (code: number) => void): void {
  withSwitchSocket(withJson(program.command('play')))
    .description('play a capture into ports of the running switch, or into devices, at the times of the capture')
    .argument('<file>', 'pcap or pcapng, also packed with gzip or zstd; -: standard input')
    .requiredOption(
      '-m, --map <what=where>',
      'which packets go where; several times, the first that fits decides',
      ruleOption,
    )
    .option('--speed <factor>', 'so many times as fast', speedOption)
    .option('--rate <rate>', 'frames or bits a second, evenly: 5000fps, 10Mbit', rateOption)
    .option('--top', 'as fast as it goes')
    .option('--loop <n>', 'play it n times; 0: for ever', countOption(0), 1)
    .option('--limit <n>', 'end after so many frames', countOption(1), Number.POSITIVE_INFINITY)
    .option('--duration <time>', 'end after this time', parseDuration)
    .option('--max-gap <time>', 'make longer silences of the capture so short', parseDuration)
    .option('--direction <which>', 'of packets that are marked: inbound, outbound or any', direction, 'inbound')
    .option('--mac <old=new>', 'put another MAC address in all its places; several times', macOption)
    .option('--ip <old=new>', 'put another address or prefix in all its places; several times', ipOption)
    .option('--vlan <old=new>', 'another VLAN in the outermost tag; none: no tag; several times', vlanOption)
    .option('--checksums', 'make all checksums anew, as captures from the sending host need it')
    .option('--cut', 'cut frames that are longer than the MTU: TCP into segments, IPv4 into fragments')
    .option('--allow-truncated', 'play what is there of a damaged capture and of packets captured in part')
    .option('--pad', 'fill packets that were captured in part up with zeros')
    .option('--realtime', 'the sending thread goes before all others (SCHED_FIFO)')
    .option('--dry-run', 'read all, send nothing, say what would be sent')
    .addHelpText(
      'after',
      `
What: all, interface:NAME (as recorded), mac:ADDRESS or ip:PREFIX (of the source), interfaces (each by its name).
Where: port:NAME of the switch, device:NAME; of interfaces: ports or devices. WHERE alone is all=WHERE.

  snapswitch play attack.pcap --map ip:10.0.0.0/24=port:web --map all=port:uplink0
  snapswitch play run.pcapng --map interfaces=ports --speed 10
  snapswitch play big.pcap.gz --map device:veth0 --top --loop 0 --duration 30s

Ends with 1 when frames that should have been sent were not, with 130 after Ctrl-C.`,
    )
    .action(async (file: string, options: PlayCommandOptions) => {
      const code = await playCommand(terminal, file, options)
      // A thread that waits for a pipe would be waited for.
      if (code === INTERRUPTED) libc()._exit(code)
      setCode(code)
    })
}

function direction(text: string): PlayOptions['direction'] {
  if (text === 'inbound' || text === 'outbound' || text === 'any') return text
  throw usage(`there is no direction ${text}`, 'Give inbound, outbound or any.')
}

async function playCommand(terminal: Terminal, file: string, options: PlayCommandOptions): Promise<number> {
  const pace = paceOf(options)
  if (options.loop > 1) mustBeFile(file)
  const client = new SwitchClient(options.socket ?? defaultSwitchSocket)
  const interrupt = new AbortController()
  const onSignal = () => interrupt.abort()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, onSignal)
  let ports: PlayOverSwitch | null = null
  let outlets: PlayOptions['outlets'] = []
  try {
    const mapping = new Mapping(options.map, await interfaceTargets(client, options.map))
    const names = mapping.targets.flatMap(({ kind, name }) => (kind === 'port' ? [name] : []))
    if (names.length > 0) ports = await openSwitchPorts(client, names)
    outlets = openOutlets(mapping.targets, ports)
    const report = await play(planOf(file, options, pace, mapping, outlets), interrupt.signal)
    const taken = await ports?.close()
    ports = null
    const whole = taken == null ? report : { ...report, switch: { frames: taken.frames, refused: taken.refused } }
    say(terminal, options, whole)
    if (report.end === 'interrupted') return INTERRUPTED
    return missedIn(whole) > 0 ? 1 : 0
  } catch (error) {
    if (error instanceof PlayError) say(terminal, options, error.played)
    throw error
  } finally {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, onSignal)
    closeOutlets(outlets)
    await ports?.close().catch(() => undefined)
    await client.close()
    if (file === '-') process.stdin.destroy()
  }
}

function planOf(
  file: string,
  options: PlayCommandOptions,
  pace: Pace,
  mapping: Mapping,
  outlets: PlayOptions['outlets'],
): PlayOptions {
  const { mac = [], ip = [], vlan = [], allowTruncated = false } = options
  return {
    file,
    mapping,
    outlets,
    pace,
    changes: { macs: mac, ips: ip, vlans: vlan },
    checksums: options.checksums ?? false,
    passes: options.loop,
    limit: options.limit,
    durationMs: options.duration ?? null,
    maxGapNs: options.maxGap === undefined ? null : options.maxGap * 1e6,
    direction: options.direction,
    short: options.pad === true ? 'pad' : allowTruncated ? 'send' : 'skip',
    cut: options.cut ?? false,
    allowDamage: allowTruncated,
    realtime: options.realtime ?? false,
    dryRun: options.dryRun ?? false,
    wanted: null,
  }
}

function say(terminal: Terminal, options: PlayCommandOptions, report: PlayReport): void {
  if (options.json === true) printJson(terminal, report)
  else terminal.out(describePlay(report, options.dryRun ?? false))
}

function paceOf({ speed, rate, top }: PlayCommandOptions): Pace {
  if ([speed, rate, top].filter((one) => one !== undefined).length > 1) {
    throw usage('--speed, --rate and --top each say how fast', 'Give one of them.')
  }
  if (top === true) return { kind: 'top' }
  return rate ?? { kind: 'captured', speed: speed ?? 1 }
}

function mustBeFile(file: string): void {
  if (file !== '-' && statSync(file, { throwIfNoEntry: false })?.isFile() !== false) return
  throw usage('a pipe can be read once only, and --loop reads it again', 'Write it to a file first.')
}

/** What `interfaces=…` may mean: ports that frames can be played into, devices that are up. */
async function interfaceTargets(client: SwitchClient, rules: readonly Rule[]): Promise<Target[]> {
  const kinds = new Set(rules.flatMap(({ match, to }) => (match.kind === 'interfaces' ? [to.kind] : [])))
  const targets: Target[] = []
  if (kinds.has('port')) {
    for (const { name, kind, waiting } of await client.ports({ deadlineMs: CALL_MS })) {
      if (kind !== 'trunk' && kind !== 'uplink' && waiting !== true) targets.push({ kind: 'port', name })
    }
  }
  if (kinds.has('device')) {
    const links = new Links()
    for (const { name, ethernet, up } of links.list()) if (ethernet && up) targets.push({ kind: 'device', name })
    links.close()
  }
  return targets
}

function usage(message: string, action: string): SnapswitchError {
  return new SnapswitchError('REQUEST_INVALID', message, action)
}
