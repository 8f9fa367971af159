// What a daemon under attack is asked: memory, whether it comes to rest, and whether each frame has a counter.

import { readFileSync } from 'node:fs'
import type { PortInfo } from '../../src/api/schemas.js'
import { sleep, until } from '../lab/command.js'
import type { Switch, World } from '../switch/world.js'

/** Resident memory, MiB. */
export function residentMiB(daemon: Switch): number {
  const status = readFileSync(`/proc/${daemon.pid}/status`, 'utf8')
  return Math.round(Number(status.match(/VmRSS:\s+(\d+)/)![1]) / 1024)
}

/** Returns when the daemon has used less than a tenth of a CPU for a second: it waits for frames, and spins no more. */
export async function atRest(daemon: Switch): Promise<void> {
  await until('the daemon to rest', 15_000, async () => {
    const before = daemon.cpuSeconds()
    await sleep(1000)
    return daemon.cpuSeconds() - before < 0.1 ? true : undefined
  })
}

/** Frames that the kernel has dropped before the receiving stack, on any CPU: the second column. */
export async function backlogDrops(world: World): Promise<number> {
  const text = await world.in('host', 'cat', '/proc/net/softnet_stat')
  return text.split('\n').reduce((sum, line) => sum + Number.parseInt(line.split(' ')[1] ?? '0', 16), 0)
}

export type Counters = PortInfo['counters']

/** Frames dropped before the device took them: what it dropped after that is among those sent. */
export function dropsOf({ drops }: Pick<Counters, 'drops'>): number {
  const { 'device-dropped': _, ...others } = drops
  return Object.values(others).reduce((sum, n) => sum + n, 0)
}

/**
 * Counters of a port when they are as they should be in the end, and stand still. A daemon that gets no processor has
 * counters that stand still, too, and it reads kernel drops once a second: so whoever knows the sum says it with
 * `isWhole`. When they never come to that, they are returned as they are.
 */
export async function settled(
  daemon: Switch,
  port: string,
  isWhole: (counters: Counters) => boolean = () => true,
): Promise<Counters> {
  let last = ''
  let found: Counters | undefined
  await until(`the counters of ${port}`, 10_000, async () => {
    found = (await daemon.port(port)).counters
    const now = JSON.stringify(found)
    if (now === last && isWhole(found)) return true
    last = now
    await sleep(150)
    return undefined
  }).catch(() => undefined)
  return found!
}
