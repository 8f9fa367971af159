// What a daemon under attack is asked: memory, CPU, and whether each frame has a counter.

import { readFileSync } from 'node:fs'
import type { PortInfo } from '../../src/api/schemas.js'
import { sleep } from '../lab/command.js'
import type { Switch } from '../switch/world.js'

/** Resident memory, MiB. */
export function residentMiB(daemon: Switch): number {
  const status = readFileSync(`/proc/${daemon.pid}/status`, 'utf8')
  return Math.round(Number(status.match(/VmRSS:\s+(\d+)/)![1]) / 1024)
}

/** Share of one CPU over `ms`. */
export async function cpuShare(daemon: Switch, ms: number): Promise<number> {
  const before = daemon.cpuSeconds()
  await sleep(ms)
  return (daemon.cpuSeconds() - before) / (ms / 1000)
}

export type Counters = PortInfo['counters']

/** Frames dropped before the device took them: what it dropped after that is among those sent. */
export function dropsOf({ drops }: Pick<Counters, 'drops'>): number {
  const { 'device-dropped': _, ...others } = drops
  return Object.values(others).reduce((sum, n) => sum + n, 0)
}

/** Counters of a port once they stand still. Kernel drops are read once a second. */
export async function settled(daemon: Switch, port: string): Promise<Counters> {
  let last = ''
  for (let tries = 0; tries < 40; tries++) {
    const { counters } = await daemon.port(port)
    const now = JSON.stringify(counters)
    if (now === last) return counters
    last = now
    await sleep(150)
  }
  throw new Error(`the counters of ${port} do not come to rest`)
}
