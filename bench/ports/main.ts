// `scripts/bench ports`: what a switch with many ports costs, of which two have traffic. Processor time of the daemon
// and not rates: a busy machine changes it little.

import { execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { compileGear, type Gear, type RoundTrips, type Sent } from '../forwarding/gear.js'
import { processSeconds } from '../lab/cpu.js'
import { Lab } from '../lab/lab.js'
import { projectRoot } from '../lab/project.js'
import { Daemon } from '../startup/daemon.js'

const USAGE = `Usage: scripts/bench ports [options]

  --ports A,B     numbers of ports (default 2,16,64,200)
  --against DIR   another checkout, compiled: both by turns
  --rounds N      rounds over all (default 1)
  --idle S        seconds of idleness (default 10)
  --size BYTES    of the frames at 20,000 a second (default 60)
  --fast          with fastPath: auto
  --poll MODE     adaptive, sleep, busy (default sleep: nothing is spun away)

A line each: milliseconds of start and stop, descriptors, memory (MB: resident, of that rings), and processor time of the daemon: idle
(percent), microseconds for a round trip, for a frame at 20,000 frames/s, and for a frame that is flooded.
`

const prefix = `sswb${process.pid}-`
const ip = (...args: string[]) => execFileSync('ip', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
const HEADINGS = [
  'up ms',
  'stop ms',
  'fds',
  'RSS',
  'rings',
  'idle %',
  'trip us',
  'trip p50',
  'frame us',
  'lost',
  'flood us',
]

export async function ports(argv: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      help: { type: 'boolean', default: false },
      ports: { type: 'string', default: '2,16,64,200' },
      against: { type: 'string' },
      rounds: { type: 'string', default: '1' },
      idle: { type: 'string', default: '10' },
      poll: { type: 'string', default: 'sleep' },
      size: { type: 'string', default: '60' },
      fast: { type: 'boolean', default: false },
    },
  })
  const numbers = values.ports.split(',').map(Number)
  if (values.help || numbers.some((n) => !Number.isInteger(n) || n < 2 || n > 1000)) {
    process.stdout.write(USAGE)
    return values.help ? 0 : 2
  }
  const checkouts = [...(values.against === undefined ? [] : [resolve(values.against)]), projectRoot]
  const workshop = new Lab()
  try {
    const gear = await compileGear(workshop.scratch)
    for (let round = 0; round < Number(values.rounds); round++) {
      for (const count of numbers) {
        process.stdout.write(
          `${String(count).padStart(3)} ports ${HEADINGS.map((text) => text.padStart(9)).join('')}\n`,
        )
        for (const checkout of checkouts) {
          const datapath = { poll: values.poll, fastPath: values.fast ? 'auto' : 'off' }
          const figures = await measure(checkout, count, {
            datapath,
            gear,
            size: values.size,
            idleSeconds: Number(values.idle),
          })
          const cells = figures.map((figure) => figure.toFixed(figure < 100 ? 2 : 0).padStart(9))
          process.stdout.write(`${checkout === projectRoot ? 'here     ' : 'against  '} ${cells.join('')}\n`)
        }
      }
    }
  } finally {
    await workshop.destroy()
  }
  return 0
}

interface Plan {
  readonly gear: Gear
  readonly size: string
  readonly idleSeconds: number
  readonly datapath: Readonly<Record<string, string>>
}

async function measure(
  checkout: string,
  count: number,
  { gear, size, idleSeconds, datapath }: Plan,
): Promise<number[]> {
  const directory = mkdtempSync(join(tmpdir(), prefix))
  const [host, one, two] = ['host', 'one', 'two'].map((name) => `${prefix}${name}`) as [string, string, string]
  const at = (namespace: string, ...argv: string[]) =>
    execFileSync('ip', ['netns', 'exec', namespace, ...argv], { encoding: 'utf8', timeout: 60_000 })
  let daemon: Daemon | undefined
  try {
    for (const name of [host, one, two]) {
      ip('netns', 'add', name)
      at(name, 'sh', '-c', 'for w in all default; do echo 1 >/proc/sys/net/ipv6/conf/$w/disable_ipv6; done')
    }
    makePorts(directory, count, host, one, two)
    daemon = new Daemon(host, writeConfig(directory, count, datapath), directory, checkout)
    const upMs = await daemon.start()
    const pids = [daemon.pid]
    await pause(2000)
    const idleFrom = processSeconds(pids)
    await pause(idleSeconds * 1000)
    const idle = ((processSeconds(pids) - idleFrom) / idleSeconds) * 100
    const used = async (what: () => Promise<unknown> | unknown) => {
      const from = processSeconds(pids)
      await what()
      return (processSeconds(pids) - from) * 1e6
    }
    at(one, 'ping', '-c', '2', '-i', '0.2', '10.9.0.2')
    let trips = 0
    let p50 = 0
    const tripUs = await used(async () => {
      const echo = spawn('ip', ['netns', 'exec', two, gear.pingpong, 'echo', '7000'], { stdio: 'ignore' })
      await pause(300)
      const said = JSON.parse(at(one, gear.pingpong, 'ping', '10.9.0.2', '7000', '3000', '500', '4000')) as RoundTrips
      trips = said.count
      p50 = said.p50
      echo.kill()
    })
    const mac = at(two, 'cat', '/sys/class/net/e1/address').trim()
    const arrived = () => Number(at(two, 'cat', '/sys/class/net/e1/statistics/rx_packets'))
    let sent = 0
    const before = arrived()
    const frameUs = await used(() => {
      const argv = ['send', 'e0', mac, size, '20000', '2000', 'sleep']
      sent = (JSON.parse(at(one, gear.frames, ...argv)) as Sent).offered
    })
    await pause(100)
    const lost = sent - (arrived() - before)
    let flooded = 0
    const floodUs = await used(() => {
      const argv = ['send', 'e0', 'ff:ff:ff:ff:ff:ff', '60', '200', '1000', 'sleep']
      flooded = (JSON.parse(at(one, gear.frames, ...argv)) as Sent).offered
    })
    const fds = readdirSync(`/proc/${daemon.pid}/fd`).length
    const memory = memoryOf(daemon.pid)
    const stopMs = await daemon.stop()
    const each = [tripUs / trips, p50, frameUs / sent, lost, floodUs / flooded]
    return [upMs, stopMs, fds, memory.resident, memory.rings, idle, ...each]
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

/** MB. Rings are memory of packet sockets; the kernel has it whether it is used or not. */
function memoryOf(pid: number): { resident: number; rings: number } {
  const resident = Number(readFileSync(`/proc/${pid}/status`, 'utf8').match(/VmRSS:\s+(\d+)/)![1]) / 1024
  let rings = 0
  for (const line of readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n')) {
    if (!line.includes('socket:')) continue
    const [from, to] = line.split(' ')[0]!.split('-') as [string, string]
    rings += Number.parseInt(to, 16) - Number.parseInt(from, 16)
  }
  return { resident, rings: rings / 2 ** 20 }
}

/** The first two ports lead to endpoints, the others to nobody. */
function makePorts(directory: string, count: number, host: string, one: string, two: string): void {
  const file = join(directory, 'batch')
  const inHost: string[] = []
  const inOne: string[] = []
  for (let i = 0; i < count; i++) {
    inHost.push(`link add p${i} type veth peer name e${i} netns ${i === 1 ? two : one}`, `link set p${i} up`)
    if (i > 1) inOne.push(`link set e${i} up`)
  }
  for (const [namespace, lines] of [[host, inHost] as const, [one, inOne] as const]) {
    writeFileSync(file, `${lines.join('\n')}\n`)
    ip('-n', namespace, '-batch', file)
  }
  for (const [name, device, address] of [[one, 'e0', '10.9.0.1/24'] as const, [two, 'e1', '10.9.0.2/24'] as const]) {
    ip('-n', name, 'address', 'add', address, 'dev', device)
    ip('-n', name, 'link', 'set', device, 'up')
  }
}

function writeConfig(directory: string, count: number, datapath: Plan['datapath']): string {
  const all = Object.fromEntries(Array.from({ length: count }, (_, i) => [`port${i}`, { device: `p${i}` }]))
  const file = join(directory, 'switch.yaml')
  const content = {
    host: 'a',
    coordinator: 'none',
    api: { socket: join(directory, 'sock') },
    state: join(directory, 'state'),
    datapath,
    networks: { lab0: { ports: all } },
  }
  // JSON is YAML.
  writeFileSync(file, JSON.stringify(content))
  return file
}
