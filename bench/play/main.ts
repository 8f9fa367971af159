// `scripts/bench play`: how exactly and how fast captures are played, beside tcpreplay in the same run.

import { execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { projectRoot } from '../lab/project.js'
import { NUMBER_AT, randomGaps, writeCapture } from './capture.js'
import { arrivals, type Exactness, exactness, median } from './figures.js'

const USAGE = `Usage: scripts/bench play [--quick] [--rounds N] [--seconds N] [--drift SECONDS] [--top FRAMES] [--json FILE]

Times: a capture of 1000 frames/s with random gaps, the first of half a second, is played over a veth, round by round by
each player (3 rounds of 20 s each unless said). Drift: one of 200 frames/s, by three players at once (600 s; 0: left out).
Speed: 60-byte frames as fast as each goes, in turn (0 frames: left out).
`

const prefix = `sswb${process.pid}-`
const ip = (...args: string[]) => execFileSync('ip', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })

interface Player {
  readonly name: string
  command(file: string, device: string, top: boolean): string[]
}

const ours = [join(projectRoot, 'bin', 'snapswitch'), 'play']
const tcpreplay = (file: string, device: string, top: boolean) => [
  'tcpreplay',
  ...['-q', '-i', device],
  ...(top ? ['-t', '-K'] : []),
  file,
]
const snapswitch = (file: string, device: string, top: boolean) => [
  ...ours,
  ...[file, '-m', `device:${device}`],
  ...(top ? ['--top', '--read-ahead', '512'] : []),
]
const FIRST = ['chrt', '-f', '3']
const PLAYERS: readonly Player[] = [
  { name: 'snapswitch play', command: snapswitch },
  { name: 'tcpreplay', command: tcpreplay },
  {
    name: 'snapswitch play --realtime',
    command: (file, device, top) => [...snapswitch(file, device, top), '--realtime'],
  },
  { name: 'chrt -f 3 tcpreplay', command: (file, device, top) => [...FIRST, ...tcpreplay(file, device, top)] },
]

/** Not all of them: one that takes a processor whole would be in the others' way. */
const AT_ONCE = [0, 1, 2]

interface Timed extends Exactness {
  readonly player: string
  /** Processor seconds per second. */
  readonly cpu: number
}

interface Speed {
  readonly player: string
  readonly framesPerSecond: number
}

interface Result {
  readonly load: number
  readonly timed: readonly Timed[]
  readonly drift: readonly Timed[]
  readonly speed: readonly Speed[]
}

export async function play(argv: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      help: { type: 'boolean', short: 'h', default: false },
      quick: { type: 'boolean', default: false },
      rounds: { type: 'string' },
      seconds: { type: 'string' },
      drift: { type: 'string' },
      top: { type: 'string' },
      json: { type: 'string' },
    },
  })
  if (values.help) {
    process.stdout.write(USAGE)
    return 0
  }
  const number = (text: string | undefined, usual: number, quick: number) =>
    text === undefined ? (values.quick ? quick : usual) : Number(text)
  const stage = new Stage()
  try {
    const load = loadavg()[0]!
    const rounds = number(values.rounds, 3, 1)
    const timed = await timings(stage, rounds, number(values.seconds, 20, 5))
    const seconds = number(values.drift, 600, 0)
    const drift = seconds === 0 ? [] : await drifting(stage, seconds)
    const frames = number(values.top, 1_000_000, 300_000)
    const speed = frames === 0 ? [] : await speeds(stage, rounds + 2, frames)
    const result: Result = { load, timed, drift, speed }
    process.stdout.write(report(result))
    if (values.json !== undefined) writeFileSync(values.json, JSON.stringify(result, null, 2))
    return 0
  } finally {
    stage.destroy()
  }
}

/** Pairs of devices, each from the players' namespace into one of its own. */
class Stage {
  readonly directory = mkdtempSync(join(tmpdir(), prefix))
  readonly sender = `${prefix}play`
  readonly #namespaces: string[] = []

  constructor() {
    for (const name of [this.sender, ...AT_ONCE.map((i) => this.receiver(i))]) {
      ip('netns', 'add', name)
      this.#namespaces.push(name)
      for (const scope of ['all', 'default'])
        ip('netns', 'exec', name, 'sh', '-c', `echo 1 >/proc/sys/net/ipv6/conf/${scope}/disable_ipv6`)
    }
    for (const i of AT_ONCE) {
      ip('-n', this.sender, 'link', 'add', `p${i}`, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', this.receiver(i))
      ip('-n', this.sender, 'link', 'set', `p${i}`, 'up')
      ip('-n', this.receiver(i), 'link', 'set', 'eth0', 'up')
    }
  }

  receiver(i: number): string {
    return `${prefix}end${i}`
  }

  /** What it prints, and its processor seconds per second. */
  async run(command: readonly string[]): Promise<{ said: string; cpu: number }> {
    const timed = ['bash', '-c', 'TIMEFORMAT="cpu %R %U %S"; time "$@"', 'bash', ...command]
    const child = spawn('ip', ['netns', 'exec', this.sender, ...timed], { stdio: ['ignore', 'pipe', 'pipe'] })
    let said = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (said += data))
    const code = await new Promise((resolve) => child.once('close', resolve))
    const [, real, user, system] = /cpu ([\d.]+) ([\d.]+) ([\d.]+)/.exec(said) ?? []
    if (code !== 0 || real === undefined)
      throw new Error(`${command.join(' ')} ended with ${code}: ${said.slice(-500)}`)
    return { said, cpu: (Number(user) + Number(system)) / Number(real) }
  }

  /** Frames that come while `act` runs, into a file. */
  async capture(i: number, act: () => Promise<unknown>): Promise<string> {
    const file = join(this.directory, `came${i}.pcap`)
    const precise = [
      '--immediate-mode',
      '--time-stamp-precision=nano',
      '-i',
      'eth0',
      '-s',
      '64',
      '-B',
      '65536',
      '-w',
      file,
    ]
    const filter = ['ether', 'proto', '0x88b6']
    const program = ['netns', 'exec', this.receiver(i), 'tcpdump', '-Z', 'root', ...precise, ...filter]
    const child = spawn('ip', program, { stdio: ['ignore', 'ignore', 'pipe'] })
    const ready = new Promise<void>((resolve) =>
      child.stderr.on('data', (data) => String(data).includes('listening on') && resolve()),
    )
    await ready
    await act()
    await pause(500)
    const ended = new Promise((resolve) => child.once('close', resolve))
    child.kill('SIGINT')
    await ended
    return file
  }

  frames(i: number): number {
    const said = ip('netns', 'exec', this.receiver(i), 'cat', '/sys/class/net/eth0/statistics/rx_packets')
    return Number(said)
  }

  destroy(): void {
    for (const name of this.#namespaces) {
      try {
        ip('netns', 'del', name)
      } catch {
        // It was not made.
      }
    }
    rmSync(this.directory, { recursive: true, force: true })
  }
}

async function timings(stage: Stage, rounds: number, seconds: number): Promise<Timed[]> {
  const file = join(stage.directory, 'timed.pcap')
  const times = writeCapture(file, seconds * 1000, randomGaps(1000))
  const found: Timed[] = []
  for (let round = 0; round < rounds; round++) {
    for (const i of PLAYERS.keys())
      found.push(await timeOne(stage, PLAYERS[(i + round) % PLAYERS.length]!, 0, file, times))
  }
  return found
}

async function timeOne(
  stage: Stage,
  player: Player,
  i: number,
  file: string,
  times: readonly number[],
): Promise<Timed> {
  let cpu = 0
  const came = await stage.capture(i, async () => {
    cpu = (await stage.run(player.command(file, `p${i}`, false))).cpu
  })
  const timed = { player: player.name, cpu, ...exactness(times, await arrivals(came, NUMBER_AT)) }
  process.stderr.write(`${player.name}: p99 ${timed.p99.toFixed(1)} us\n`)
  return timed
}

/** All at once, under the same load. */
async function drifting(stage: Stage, seconds: number): Promise<Timed[]> {
  const file = join(stage.directory, 'drift.pcap')
  const times = writeCapture(file, seconds * 200, randomGaps(5000))
  return Promise.all(AT_ONCE.map((i) => timeOne(stage, PLAYERS[i]!, i, file, times)))
}

async function speeds(stage: Stage, rounds: number, frames: number): Promise<Speed[]> {
  const file = join(stage.directory, 'top.pcap')
  writeCapture(file, frames, () => 1)
  const found: Speed[] = []
  for (let round = 0; round < rounds; round++) {
    for (const i of [0, 1]) {
      const player = PLAYERS[(i + round) % 2]!
      const before = stage.frames(0)
      const { said } = await stage.run(player.command(file, 'p0', true))
      const came = stage.frames(0) - before
      if (came < frames * 0.99) throw new Error(`${player.name}: ${came} of ${frames} frames came`)
      const rate = /(\d+) frames\/s|([\d.]+) pps/.exec(said)
      found.push({ player: player.name, framesPerSecond: Number(rate?.[1] ?? rate?.[2]) })
    }
  }
  return found
}

function report({ load, timed, drift, speed }: Result): string {
  const lines = [
    `load before: ${load.toFixed(1)}; processors: ${readFileSync('/proc/cpuinfo', 'utf8').match(/^processor/gm)?.length}\n`,
  ]
  const head = 'player                       rounds  p50 us   p99 us    max us  drift us  first gap us   CPU  lost\n'
  for (const [title, rows] of [
    ['\nTimes, medians over rounds\n', timed],
    ['\nDrift, all at once\n', drift],
  ] as const) {
    if (rows.length === 0) continue
    lines.push(title, head)
    for (const { name } of PLAYERS) {
      const own = rows.filter((one) => one.player === name)
      if (own.length === 0) continue
      const cell = (of: (one: Timed) => number, width: number, digits = 1) =>
        median(own.map(of)).toFixed(digits).padStart(width)
      lines.push(
        name.padEnd(29),
        String(own.length).padStart(6),
        cell((one) => one.p50, 8),
        cell((one) => one.p99, 9),
        cell((one) => one.max, 10),
        cell((one) => one.drift, 10),
        cell((one) => one.firstGap, 14),
        cell((one) => one.cpu, 6, 2),
        cell((one) => one.lost, 6, 0),
        '\n',
      )
    }
  }
  if (speed.length === 0) return lines.join('')
  const rates = [0, 1].map((i) =>
    speed.filter((one) => one.player === PLAYERS[i]!.name).map((one) => one.framesPerSecond),
  )
  const ratios = rates[0]!.map((rate, i) => rate / rates[1]![i]!)
  lines.push(
    '\nAs fast as it goes, 60 bytes, frames/s, median over rounds\n',
    ...[0, 1].map((i) => `${PLAYERS[i]!.name.padEnd(29)}${Math.round(median(rates[i]!))}\n`),
    `ratio, median of pairs       ${median(ratios).toFixed(2)}\n`,
  )
  return lines.join('')
}
