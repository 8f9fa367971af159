// `scripts/bench startup`: how long a daemon takes to be up and to be gone, how long nothing is forwarded when it is
// started again under traffic, and what memory it takes, by number of ports.

import { execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { Daemon } from './daemon.js'
import { paired } from './paired.js'

const USAGE = `Usage: scripts/bench startup [PORTS…]     numbers of ports, 2 20 200 unless given
       scripts/bench startup bundle [ROUNDS]     a start from the bundle and from its modules, by turns, 5 unless given

Prints a line each: start and stop (milliseconds from exec and signal to "switch is up" and exit), the longest gap between two
replies of a ping each 2 ms while the daemon is stopped and started again, the daemon's memory (VmRSS) and the system's.
`

const prefix = `sswb${process.pid}-`
const ip = (...args: string[]) => execFileSync('ip', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })

interface Figures {
  readonly ports: number
  readonly upMs: number
  readonly gapMs: number
  readonly stopMs: number
  readonly rssMb: number
  readonly systemMb: number
}

export async function startup(argv: readonly string[]): Promise<number> {
  const rounds = Number(argv[1] ?? 5)
  if (argv[0] === 'bundle' && argv.length <= 2 && Number.isInteger(rounds) && rounds > 0) {
    await paired(rounds)
    return 0
  }
  const numbers = argv.map(Number)
  if (argv.includes('--help') || numbers.some((n) => !Number.isInteger(n) || n < 2 || n > 250)) {
    process.stdout.write(USAGE)
    return argv.includes('--help') ? 0 : 2
  }
  process.stdout.write('ports  up ms  restart gap ms  stop ms  RSS MB  system MB\n')
  for (const ports of numbers.length === 0 ? [2, 20, 200] : numbers) {
    const { upMs, gapMs, stopMs, rssMb, systemMb } = await measure(ports)
    const cells = [ports, upMs, gapMs, stopMs, rssMb, systemMb].map((value, i) =>
      String(Math.round(value)).padStart([5, 7, 16, 9, 8, 11][i]!),
    )
    process.stdout.write(`${cells.join('')}\n`)
  }
  return 0
}

async function measure(ports: number): Promise<Figures> {
  const directory = mkdtempSync(join(tmpdir(), prefix))
  const [host, one, two] = ['host', 'one', 'two'].map((name) => `${prefix}${name}`) as [string, string, string]
  let daemon: Daemon | undefined
  try {
    for (const name of [host, one, two]) ip('netns', 'add', name)
    makePorts(directory, ports, host, one, two)
    const free = available()
    daemon = new Daemon(host, writeConfig(directory, ports), directory)
    const upMs = await daemon.start()
    await pause(1000)
    const rssMb = Number(readFileSync(`/proc/${daemon.pid}/status`, 'utf8').match(/VmRSS:\s+(\d+)/)![1]) / 1024
    const systemMb = (free - available()) / 1024
    const ping = spawn('ip', ['netns', 'exec', one, 'ping', '-D', '-i', '0.002', '-W', '1', '10.9.0.2'])
    let said = ''
    ping.stdout.on('data', (data) => {
      said += data
    })
    await pause(1000)
    await daemon.stop()
    await daemon.start()
    await pause(1000)
    ping.kill('SIGINT')
    const stopMs = await daemon.stop()
    return { ports, upMs, gapMs: longestGap(said), stopMs, rssMb, systemMb }
  } finally {
    await daemon?.stop()
    for (const name of [host, one, two]) {
      try {
        ip('netns', 'del', name)
      } catch {
        // It was not made.
      }
    }
    rmSync(directory, { recursive: true, force: true })
  }
}

/** The first two ports lead to endpoints that ping, the others to nobody. */
function makePorts(directory: string, ports: number, host: string, one: string, two: string): void {
  const lines: string[] = []
  for (let i = 0; i < ports; i++)
    lines.push(`link add p${i} type veth peer name e${i} netns ${i === 1 ? two : one}`, `link set p${i} up`)
  const file = join(directory, 'batch')
  writeFileSync(file, `${lines.join('\n')}\n`)
  ip('-n', host, '-batch', file)
  for (const [name, device, address] of [[one, 'e0', '10.9.0.1/24'] as const, [two, 'e1', '10.9.0.2/24'] as const]) {
    ip('-n', name, 'address', 'add', address, 'dev', device)
    ip('-n', name, 'link', 'set', device, 'up')
  }
}

function writeConfig(directory: string, ports: number): string {
  const lines = Array.from({ length: ports }, (_, i) => `      port${i}: { device: p${i} }`)
  const head = [
    `host: a`,
    'coordinator: none',
    `api: { socket: ${directory}/sock }`,
    `state: ${directory}/state`,
    'networks:',
    '  lab0:',
  ]
  const file = join(directory, 'switch.yaml')
  writeFileSync(file, `${[...head, '    ports:', ...lines].join('\n')}\n`)
  return file
}

const available = () => Number(readFileSync('/proc/meminfo', 'utf8').match(/MemAvailable:\s+(\d+)/)![1])

function longestGap(said: string): number {
  const times = [...said.matchAll(/^\[([\d.]+)\] .*icmp_seq/gm)].map((line) => Number(line[1]) * 1000)
  return times.reduce((longest, time, i) => (i === 0 ? 0 : Math.max(longest, time - times[i - 1]!)), 0)
}
