// `scripts/bench takeover --nics`: round trips between containers on two hosts, by the NICs in the hosts' bridges,
// before the bridges are taken over and after, by turns. The NICs are the ends of a veth.

import { compileGear, type RoundTrips } from '../forwarding/gear.js'
import { median } from '../forwarding/statistics.js'
import { allCores, Lab } from '../lab/lab.js'
import { commandAt } from '../lab/processes.js'
import { HostDaemon } from './daemon.js'

const HOSTS = ['h1', 'h2'] as const
const PORT = '7000'
/** Round trips and microseconds between them, and a limit in milliseconds. */
const TRIPS = ['4000', '500', '6000']

export async function overNics(rounds: number): Promise<void> {
  const lab = new Lab()
  try {
    const gear = await compileGear(lab.scratch)
    for (const name of [...HOSTS, 'c1', 'c2']) await lab.addNamespace(name)
    await lab.veth('h1', 'nic', 'h2', 'nic')
    for (const [at, host] of HOSTS.entries()) {
      const container = `c${at + 1}`
      await lab.veth(host, container, container, 'eth0')
      await lab.ip(container, [`address add 192.0.2.1${at + 1}/24 dev eth0`])
      await lab.ip(host, ['link add br0 type bridge', 'link set br0 up'])
      await lab.ip(
        host,
        ['nic', container].map((device) => `link set ${device} master br0`),
      )
    }
    const echo = await lab.start('c2', allCores(), [gear.pingpong, 'echo', PORT])
    await echo.until('echo', (said) => said.includes('ready'))
    const daemons = HOSTS.map((host) => new HostDaemon(lab, host))
    for (const daemon of daemons) await daemon.start()
    const seen: Record<'kernel bridges' | 'taken over', RoundTrips[]> = { 'kernel bridges': [], 'taken over': [] }
    const measure = async (): Promise<RoundTrips> => {
      const said = await commandAt(lab.place('c1', allCores()), [gear.pingpong, 'ping', '192.0.2.12', PORT, ...TRIPS])
      return JSON.parse(said) as RoundTrips
    }
    for (let round = 0; round < rounds; round++) {
      seen['kernel bridges'].push(await measure())
      for (const daemon of daemons) await daemon.command('take', 'br0')
      seen['taken over'].push(await measure())
      for (const daemon of daemons) await daemon.command('give', 'br0')
    }
    process.stdout.write(`${''.padEnd(18)}${['p50 us', 'p99 us', 'lost'].map((text) => text.padStart(9)).join('')}\n`)
    for (const [name, all] of Object.entries(seen)) {
      const cells = (['p50', 'p99', 'lost'] as const).map((key) => median(all.map((one) => one[key])).toFixed(1))
      process.stdout.write(`${name.padEnd(18)}${cells.map((cell) => cell.padStart(9)).join('')}\n`)
    }
  } finally {
    await lab.destroy()
  }
}
