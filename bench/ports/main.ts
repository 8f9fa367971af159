// `scripts/bench ports`: what a switch with many ports costs, of which two have traffic. Processor time of the daemon
// and not rates: a busy machine changes it little.

import { execFileSync, spawn } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { compileGear, type Gear, type RoundTrips, type Sent } from '../forwarding/gear.js'
import { processSeconds } from '../lab/cpu.js'
import { Lab } from '../lab/lab.js'
import { projectRoot } from '../lab/project.js'
import { residentMb, withPorts } from '../startup/with-ports.js'

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

const at = (namespace: string, ...argv: string[]) =>
  execFileSync('ip', ['netns', 'exec', namespace, ...argv], { encoding: 'utf8', timeout: 60_000 })

function measure(checkout: string, ports: number, { gear, size, idleSeconds, datapath }: Plan): Promise<number[]> {
  return withPorts({ ports, datapath, checkout }, async ({ daemon, one, two }) => {
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
  })
}

/** MB. Rings are memory of packet sockets; the kernel has it whether it is used or not. */
function memoryOf(pid: number): { resident: number; rings: number } {
  let rings = 0
  for (const line of readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n')) {
    if (!line.includes('socket:')) continue
    const [from, to] = line.split(' ')[0]!.split('-') as [string, string]
    rings += Number.parseInt(to, 16) - Number.parseInt(from, 16)
  }
  return { resident: residentMb(pid), rings: rings / 2 ** 20 }
}
