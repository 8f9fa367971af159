// Compiles the measuring gear (bench/gear/*.c) into a scratch directory and gives what it prints its types.

import { join } from 'node:path'
import { command } from '../lab/processes.js'
import { projectRoot } from '../lab/project.js'

export interface Gear {
  readonly frames: string
  readonly pingpong: string
  readonly udp: string
}

export interface Sent {
  readonly offered: number
  /** Offered, and refused by a full queue at the sender's device. */
  readonly refused: number
  readonly seconds: number
}

export interface Received {
  readonly received: number
  /** Doubled or overtaken. */
  readonly late: number
  readonly foreign: number
  readonly highest: number
}

/** Microseconds. */
export interface RoundTrips {
  readonly count: number
  readonly lost: number
  readonly min: number
  readonly p50: number
  readonly p90: number
  readonly p99: number
  readonly max: number
  readonly mean: number
}

export async function compileGear(into: string): Promise<Gear> {
  const compile = async (name: string) => {
    const binary = join(into, name)
    await command(['gcc', '-O2', '-Wall', '-o', binary, join(projectRoot, 'bench', 'gear', `${name}.c`)])
    return binary
  }
  return { frames: await compile('frames'), pingpong: await compile('pingpong'), udp: await compile('udp') }
}
