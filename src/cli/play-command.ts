// `snapswitch play`: a capture into ports of a running switch, or into devices.

import { statSync } from 'node:fs'
import type { Command } from 'commander'
import { choices } from '../api/names.js'
import { SwitchClient } from '../api/switch-client.js'
import { parseFilter } from '../capture/filter.js'
import { SnapswitchError } from '../errors/errors.js'
import { libc } from '../linux/libc.js'
import { Links } from '../linux/link.js'
import { Expectation, type Outcome, type OutcomeReport } from '../play/expectation.js'
import { Mapping, type Rule, type Target } from '../play/mapping.js'
import { closeOutlets, openOutlets } from '../play/outlets.js'
import { PlayError, type PlayOptions, type PlayReport, play } from '../play/player.js'
import type { IpChange, MacChange, VlanChange } from '../play/rewrite.js'
import type { Pace } from '../play/schedule.js'
import { openSwitchPorts, type PlayOverSwitch } from '../play/switch-ports.js'
import { type Wanted, wantedBy } from '../play/wanted.js'
import { type CommonOptions, defaultSwitchSocket, parseDuration, withJson, withSwitchSocket } from './options.js'
import { printJson, type Terminal } from './output.js'
import { knownMacs, type WantedMac } from './play-addresses.js'
import {
  countOption,
  ipOption,
  macOption,
  mibOption,
  rateOption,
  ruleOption,
  settleOption,
  speedOption,
  vlanOption,
} from './play-options.js'
import { describeExpected, describePlay, differIn, missedIn } from './play-report.js'

interface PlayCommandOptions extends CommonOptions {
  readonly map: readonly Rule[]
  readonly speed?: number
  readonly rate?: Pace
  readonly top?: boolean
  readonly loop: number
  readonly limit?: number
  readonly duration?: number
  readonly maxGap?: number
  readonly direction: PlayOptions['direction']
  readonly mac?: readonly WantedMac[]
  readonly ip?: readonly IpChange[]
  readonly vlan?: readonly VlanChange[]
  readonly checksums?: boolean
  readonly cut?: boolean
  readonly allowTruncated?: boolean
  readonly pad?: boolean
  readonly readAhead: number
  readonly realtime?: boolean
  readonly dryRun?: boolean
  readonly expect?: string
  readonly at?: readonly Rule[]
  readonly late?: number
  readonly settle: number
}

const CALL_MS = 10_000
const READ_AHEAD_MIB = 16
/** As a program that SIGINT ended. */
const INTERRUPTED = 130

export function addPlayCommand(program: Command, terminal: Terminal, setCode: (code: number) => void): void {
  withSwitchSocket(withJson(program.command('play')))
    .description('play a capture into ports of the running switch, or into devices, at the times of the capture')
    .argument('<file>', 'pcap or pcapng, also packed with gzip or zstd; -: standard input')
    .argument('[filter...]', 'which packets, in the words of `snapswitch capture`')
    .requiredOption(
      '-m, --map <what=where>',
      'which packets go where; several times, the first that fits decides',
      ruleOption,
    )
    .option('--speed <factor>', 'so many times as fast', speedOption)
    .option('--rate <rate>', 'frames or bits a second, evenly: 5000fps, 10Mbit', rateOption)
    .option('--top', 'as fast as it goes')
    .option('--loop <n>', 'play it n times; 0: for ever', countOption(0), 1)
    .option('--limit <n>', 'end after so many frames (default: all)', countOption(1))
    .option('--duration <time>', 'end after this time', parseDuration)
    .option('--max-gap <time>', 'make longer silences of the capture so short', parseDuration)
    .option('--direction <which>', 'of packets that are marked: inbound, outbound or any', direction, 'inbound')
    .option(
      '--mac <old=new>',
      'put another MAC address in all its places, or port:NAME, the one behind it; several times',
      macOption,
    )
    .option('--ip <old=new>', 'put another address or prefix in all its places; several times', ipOption)
    .option('--vlan <old=new>', 'another VLAN in the outermost tag; none: no tag; several times', vlanOption)
    .option('--checksums', 'make all checksums anew, as captures from the sending host need it')
    .option('--cut', 'cut frames that are longer than the MTU: TCP into segments, IPv4 into fragments')
    .option('--allow-truncated', 'play what is there of a damaged capture and of packets captured in part')
    .option('--pad', 'fill packets that were captured in part up with zeros')
    .option('--read-ahead <MiB>', 'read so much of it before the first frame, and ahead', mibOption, READ_AHEAD_MIB)
    .option('--realtime', 'the sending thread goes before all others (SCHED_FIFO)')
    .option('--expect <file>', 'compare what comes out with this capture; a difference ends it with 1')
    .option('--at <what=where>', 'where which packets of it are to come out; as --map', ruleOption)
    .option('--late <time>', 'a frame that comes so much later is a difference, too', parseDuration)
    .addOption(settleOption())
    .option('--dry-run', 'read all, send nothing, say what would be sent')
    .addHelpText(
      'after',
      `
What: all, interface:NAME (as recorded), mac:ADDRESS or ip:PREFIX (of the source), interfaces (each by its name).
Where: port:NAME of the switch, device:NAME; of interfaces: ports or devices. WHERE alone is all=WHERE.

  snapswitch play attack.pcap --map ip:10.0.0.0/24=port:web --map all=port:lan
  snapswitch play run.pcapng --map interfaces=ports --speed 10
  snapswitch play big.pcap.gz --map device:veth0 --top --loop 0 --duration 30s

Ends with 1 when frames that should have been sent were not, with 130 after Ctrl-C.`,
    )
    .action(async (file: string, filter: readonly string[], options: PlayCommandOptions) => {
      const code = await playCommand(terminal, file, filter.join(' '), options)
      // A thread that waits for a pipe would be waited for.
      if (code === INTERRUPTED) libc()._exit(code)
      setCode(code)
    })
}

function direction(text: string): PlayOptions['direction'] {
  if (text === 'inbound' || text === 'outbound' || text === 'any') return text
  throw usage(`there is no direction ${text}`, 'Give inbound, outbound or any.')
}

async function playCommand(
  terminal: Terminal,
  file: string,
  filterText: string,
  options: PlayCommandOptions,
): Promise<number> {
  const pace = paceOf(options)
  const filter = parseFilter(filterText)
  const wanted = filter === null ? null : wantedBy(filter)
  if (options.loop > 1) mustBeFile(file)
  const socket = options.socket ?? defaultSwitchSocket
  const client = new SwitchClient(socket)
  const interrupt = new AbortController()
  const onSignal = () => interrupt.abort()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, onSignal)
  let ports: PlayOverSwitch | null = null
  let outlets: PlayOptions['outlets'] = []
  let expectation: Expectation | null = null
  try {
    const mapping = new Mapping(options.map, await interfaceTargets(client, options.map))
    const names = mapping.targets.flatMap(({ kind, name }) => (kind === 'port' ? [name] : []))
    expectation = await expectationOf(client, options, pace)
    if (names.length > 0) ports = await openSwitchPorts(client, socket, names)
    outlets = openOutlets(mapping.targets, ports, pace.kind === 'top')
    const macs = await knownMacs(client, options.mac ?? [])
    await expectation?.ready()
    const report = await play(planOf(file, options, pace, mapping, outlets, wanted, macs), interrupt.signal)
    const taken = await ports?.close()
    ports = null
    const isInterrupted = report.end === 'interrupted'
    const expected = (await expectation?.finish(!isInterrupted)) ?? null
    const whole = taken == null ? report : { ...report, switch: { frames: taken.frames, refused: taken.refused } }
    say(terminal, options, whole, expected)
    if (isInterrupted) return INTERRUPTED
    return missedIn(whole) > 0 || (expected ?? []).some(differIn) ? 1 : 0
  } catch (error) {
    if (error instanceof PlayError) say(terminal, options, error.played, null)
    // What the switch has to say of it tells more than that nobody takes frames.
    if (error instanceof PlayError && error.code === 'DEVICE_DOWN') await ports?.close()
    throw error
  } finally {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, onSignal)
    expectation?.close()
    closeOutlets(outlets)
    await ports?.close().catch(() => undefined)
    await client.close()
    if (file === '-') process.stdin.destroy()
  }
}

/** It looks from when it is there: before the first frame is sent. */
async function expectationOf(
  client: SwitchClient,
  { expect, at, late, settle, dryRun }: PlayCommandOptions,
  pace: Pace,
): Promise<Expectation | null> {
  if ((expect === undefined) !== (at === undefined)) {
    throw usage('--expect and --at go together', 'Say both what is to come out, and where.')
  }
  if (expect === undefined || at === undefined || dryRun === true) return null
  if (late !== undefined && pace.kind !== 'captured') {
    throw usage('without the times of the capture nothing is late', 'Leave --late out, or --rate and --top.')
  }
  const mapping = new Mapping(at, await interfaceTargets(client, at))
  return new Expectation({
    file: expect,
    mapping,
    outcomes: await outcomesOf(client, mapping.targets),
    speed: pace.kind === 'captured' ? pace.speed : 1,
    lateNs: late === undefined ? null : late * 1e6,
    settleMs: settle,
  })
}

/** Frames come out of a port into its device. */
async function outcomesOf(client: SwitchClient, targets: readonly Target[]): Promise<Outcome[]> {
  const hasPorts = targets.some(({ kind }) => kind === 'port')
  const ports = hasPorts ? await client.ports({ deadlineMs: CALL_MS }) : []
  const links = new Links()
  try {
    return targets.map(({ kind, name }) => {
      if (kind === 'device') return { kind, name, device: links.get(name) }
      const port = ports.find((one) => one.name === name)
      if (port !== undefined) return { kind, name, device: links.get(port.ifname ?? port.device) }
      const known = ports.map((one) => one.name)
      throw new SnapswitchError('PORT_UNKNOWN', `there is no port ${name}`, choices('There are', name, known))
    })
  } finally {
    links.close()
  }
}

function planOf(
  file: string,
  options: PlayCommandOptions,
  pace: Pace,
  mapping: Mapping,
  outlets: PlayOptions['outlets'],
  wanted: Wanted | null,
  macs: readonly MacChange[],
): PlayOptions {
  const { ip = [], vlan = [], allowTruncated = false } = options
  return {
    file,
    mapping,
    outlets,
    pace,
    changes: { macs, ips: ip, vlans: vlan },
    checksums: options.checksums ?? false,
    passes: options.loop,
    limit: options.limit ?? Number.POSITIVE_INFINITY,
    durationMs: options.duration ?? null,
    maxGapNs: options.maxGap === undefined ? null : options.maxGap * 1e6,
    direction: options.direction,
    short: options.pad === true ? 'pad' : allowTruncated ? 'send' : 'skip',
    cut: options.cut ?? false,
    allowDamage: allowTruncated,
    readAheadMib: options.readAhead,
    realtime: options.realtime ?? false,
    dryRun: options.dryRun ?? false,
    wanted,
  }
}

function say(
  terminal: Terminal,
  options: PlayCommandOptions,
  report: PlayReport,
  expected: readonly OutcomeReport[] | null,
): void {
  if (options.json === true) printJson(terminal, expected === null ? report : { ...report, expected })
  else {
    terminal.out(describePlay(report, options.dryRun ?? false))
    if (expected !== null) terminal.out(describeExpected(expected))
  }
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
    for (const { name, ethernet, up, lowerUp } of links.list())
      if (ethernet && up && lowerUp) targets.push({ kind: 'device', name })
    links.close()
  }
  return targets
}

function usage(message: string, action: string): SnapswitchError {
  return new SnapswitchError('REQUEST_INVALID', message, action)
}
