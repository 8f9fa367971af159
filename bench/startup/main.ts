// `scripts/bench startup`: how long a daemon takes to be up and to be gone, how long nothing is forwarded when it is
// started again under traffic, and what memory it takes, by number of ports.

import { spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'
import { paired } from './paired.js'
import { residentMb, withPorts } from './with-ports.js'

const USAGE = `Usage: scripts/bench startup [PORTS…]     numbers of ports, 2 20 200 unless given
       scripts/bench startup bundle [ROUNDS]     a start from the bundle and from its modules, by turns, 5 unless given

Prints a line each: start and stop (milliseconds from exec and signal to "switch is up" and exit), the longest gap between two
replies of a ping each 2 ms while the daemon is stopped and started again, the daemon's memory (VmRSS) and the system's.
`

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

const measure = (ports: number): Promise<Figures> =>
  withPorts({ ports }, async ({ daemon, one }) => {
    const free = available()
    const upMs = await daemon.start()
    await pause(1000)
    const rssMb = residentMb(daemon.pid)
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
  })

const available = () => Number(readFileSync('/proc/meminfo', 'utf8').match(/MemAvailable:\s+(\d+)/)![1])

function longestGap(said: string): number {
  const times = [...said.matchAll(/^\[([\d.]+)\] .*icmp_seq/gm)].map((line) => Number(line[1]) * 1000)
  return times.reduce((longest, time, i) => (i === 0 ? 0 : Math.max(longest, time - times[i - 1]!)), 0)
}
