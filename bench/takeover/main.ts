// `scripts/bench takeover`: what running traffic notices when a bridge changes hands: taken, given, its daemon started
// again or killed, something plugged in. Beside it, what the machine does to the same traffic by itself.

import { setTimeout as pause } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { median } from '../forwarding/statistics.js'
import { percentile } from '../snapshot/figures.js'
import { monotonicMs, type Seen, TakeoverHost } from './host.js'
import { overNics } from './nics.js'

const USAGE = `Usage: scripts/bench takeover [options]

  --rounds N      of each event (default 10)
  --nics          round trips instead: between containers on two hosts, each with a NIC in its bridge, before and after \`take\`

Four streams of numbered datagrams, one every 2 ms each, between two containers and the host, and a TCP transfer at 50 Mbit/s beside
them. A line for each event: datagrams lost and doubled in all rounds together, and the longest gap between two datagrams of a stream
(milliseconds): median, 99th percentile and most over streams and rounds. For what is plugged in: from the start of \`ip\` to the first
datagram.
`

/** How long the streams are watched around an event, milliseconds; the event comes after a quarter of it. */
const WATCHED_MS = 1200

interface Event {
  readonly name: string
  readonly happens: (host: TakeoverHost) => Promise<unknown>
}

const nothing = () => Promise.resolve()
const take = ({ daemon }: TakeoverHost) => daemon.command('take', 'br0')
const give = ({ daemon }: TakeoverHost) => daemon.command('give', 'br0')

/** In this order, each begins in the state in which the one before it has ended. */
const EVENTS: readonly Event[] = [
  { name: 'nothing, kernel bridge', happens: nothing },
  { name: 'take', happens: take },
  { name: 'nothing, switch', happens: nothing },
  {
    name: 'restart',
    happens: async ({ daemon }) => {
      await daemon.end('SIGTERM')
      await daemon.start()
    },
  },
  { name: 'kill -9', happens: ({ daemon }) => daemon.end('SIGKILL') },
  { name: 'start after it', happens: ({ daemon }) => daemon.start() },
  { name: 'give', happens: give },
]

export async function takeover(argv: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...argv],
    options: {
      rounds: { type: 'string', default: '10' },
      nics: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  })
  const rounds = Number(values.rounds)
  if (values.help || !Number.isInteger(rounds) || rounds < 1) {
    process.stdout.write(USAGE)
    return values.help ? 0 : 2
  }
  if (values.nics) {
    await overNics(rounds)
    return 0
  }
  const host = await TakeoverHost.build()
  try {
    await host.transfer()
    await host.daemon.start()
    const seen = new Map<string, Seen[]>()
    const plugged: Record<'kernel bridge' | 'switch', number[]> = { 'kernel bridge': [], switch: [] }
    for (let round = 0; round < rounds; round++) {
      plugged['kernel bridge'].push(await plugIn(host))
      for (const event of EVENTS) {
        const found = await watch(host, event)
        seen.set(event.name, [...(seen.get(event.name) ?? []), ...found])
        if (event.name === 'take') plugged.switch.push(await plugIn(host))
      }
      process.stderr.write(`round ${round + 1} of ${rounds}\n`)
    }
    print(seen, plugged)
  } finally {
    await host.destroy()
  }
  return 0
}

async function watch(host: TakeoverHost, event: Event): Promise<Seen[]> {
  await host.look()
  await pause(WATCHED_MS / 4)
  await event.happens(host)
  await pause((WATCHED_MS * 3) / 4)
  await host.transferGoesOn()
  return host.look()
}

/** Milliseconds. */
async function plugIn(host: TakeoverHost): Promise<number> {
  await host.plug(true)
  await pause(WATCHED_MS / 4)
  await host.plug(false)
  await pause(WATCHED_MS / 4)
  await host.lookAtLate()
  const from = monotonicMs()
  await host.plug(true)
  await pause(WATCHED_MS)
  const { gapEnd } = await host.lookAtLate()
  await host.plug(false)
  // A bridge that a port leaves loses a datagram of others at times, before a takeover as well.
  await pause(WATCHED_MS / 4)
  return gapEnd - from
}

function print(seen: ReadonlyMap<string, readonly Seen[]>, plugged: Readonly<Record<string, readonly number[]>>): void {
  row(['', 'lost', 'doubled', 'gap p50', 'gap p99', 'gap most'])
  for (const [name, all] of seen) {
    const sum = (key: 'lost' | 'doubled') => String(all.reduce((total, one) => total + one[key], 0))
    row([name, sum('lost'), sum('doubled'), ...spread(all.map(({ longestGap }) => longestGap))])
  }
  for (const [name, all] of Object.entries(plugged)) row([`plugged into ${name}`, '', '', ...spread(all)])
}

function spread(values: readonly number[]): string[] {
  return [median(values), percentile(values, 0.99), Math.max(...values)].map((value) => value.toFixed(1))
}

const row = (cells: readonly string[]) =>
  process.stdout.write(`${cells.map((cell, at) => (at === 0 ? cell.padEnd(28) : cell.padStart(10))).join('')}\n`)
