// `snapswitch top`: what goes through the ports now. Reads the counters that the datapath keeps in shared memory,
// through the daemon's API; the datapath itself is not asked and loses nothing by being watched.

import { setTimeout as pause } from 'node:timers/promises'
import { type Command, InvalidArgumentError } from 'commander'
import type { PortInfo } from '../api/schemas.js'
import { type CommonOptions, withJson, withSwitchSocket } from './options.js'
import { formatTable, type Terminal } from './output.js'
import { allDrops } from './port-report.js'
import { withSwitch } from './switch-commands.js'

const CALL_MS = 10_000
const CLEAR_SCREEN = '\u001b[H\u001b[2J'

interface TopOptions extends CommonOptions {
  readonly interval: number
  readonly count?: number
}

/** Per second, over the interval; `drops` are frames of all reasons, the kernel's included. */
export interface PortRates {
  readonly port: string
  readonly network: string
  readonly up: boolean
  readonly rxFrames: number
  readonly rxBits: number
  readonly txFrames: number
  readonly txBits: number
  readonly gsoFrames: number
  readonly held: number
  readonly drops: number
  /** Drops since the port came, by reason. */
  readonly dropsTotal: Readonly<Record<string, number>>
}

export function addTopCommand(program: Command, terminal: Terminal): void {
  withSwitchSocket(withJson(program.command('top')))
    .description('show live rates of all ports: frames, bits, GSO frames, drops')
    .option('-i, --interval <seconds>', 'seconds between looks', seconds, 1)
    .option('-c, --count <n>', 'end after this many looks (default: go on)', looks)
    .addHelpText('after', '\nWith -j every look is one line of JSON.')
    .action((options: TopOptions) => top(terminal, options))
}

async function top(terminal: Terminal, options: TopOptions): Promise<void> {
  const rewrite = terminal.live && process.stdout.isTTY === true
  await withSwitch(options, async (client) => {
    let before = await client.ports({ deadlineMs: CALL_MS })
    let beforeAt = performance.now()
    for (let look = 0; options.count === undefined || look < options.count; look++) {
      await pause(options.interval * 1000)
      const ports = await client.ports({ deadlineMs: CALL_MS })
      const now = performance.now()
      const rates = ratesOf(before, ports, (now - beforeAt) / 1000)
      if (options.json === true) terminal.out(`${JSON.stringify(rates)}\n`)
      else terminal.out(rewrite ? `${CLEAR_SCREEN}${describeRates(rates)}` : `${describeRates(rates)}\n`)
      before = ports
      beforeAt = now
    }
  })
}

/** A port that has come in between starts from zero. */
export function ratesOf(before: readonly PortInfo[], now: readonly PortInfo[], elapsedSeconds: number): PortRates[] {
  const past = new Map(before.map((port) => [port.name, port.counters]))
  return now.map(({ name, network, up, counters }) => {
    const old = past.get(name)
    const rate = (value: (c: PortInfo['counters']) => number) =>
      Math.max(0, Math.round((value(counters) - (old === undefined ? 0 : value(old))) / elapsedSeconds))
    return {
      port: name,
      network,
      up,
      rxFrames: rate((c) => c.rxFrames),
      rxBits: rate((c) => c.rxBytes * 8),
      txFrames: rate((c) => c.txFrames),
      txBits: rate((c) => c.txBytes * 8),
      gsoFrames: rate((c) => c.rxGso + c.txGso),
      held: rate((c) => c.held),
      drops: rate(allDrops),
      dropsTotal: counters.kernelDrops > 0 ? { ...counters.drops, kernel: counters.kernelDrops } : counters.drops,
    }
  })
}

function describeRates(rates: readonly PortRates[]): string {
  const rows = rates.map((rate) => [
    rate.port,
    rate.network,
    rate.up ? 'up' : 'down',
    rate.rxFrames,
    formatBits(rate.rxBits),
    rate.txFrames,
    formatBits(rate.txBits),
    rate.gsoFrames,
    rate.drops,
    Object.entries(rate.dropsTotal)
      .map(([reason, count]) => `${reason} ${count}`)
      .join(', '),
  ])
  const head = ['PORT', 'NETWORK', 'LINK', 'IN/S', 'IN', 'OUT/S', 'OUT', 'GSO/S', 'DROPS/S', 'DROPPED SINCE IT CAME']
  return formatTable(head, rows)
}

/** 8,000,000 -> `8.0 Mbit/s`. */
function formatBits(bits: number): string {
  const units = ['bit/s', 'kbit/s', 'Mbit/s', 'Gbit/s']
  let value = bits
  let unit = 0
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000
    unit++
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`
}

function seconds(text: string): number {
  const value = Number(text)
  if (!(value >= 0.1 && value <= 3600)) throw new InvalidArgumentError('a number of seconds from 0.1 to 3600')
  return value
}

function looks(text: string): number {
  const value = Number(text)
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError('a whole number above 0')
  return value
}
