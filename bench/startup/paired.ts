// `scripts/bench startup bundle [ROUNDS]`: what a start costs from the bundle, and from the modules that it is made
// of, by turns.

import { execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { ENGINE_FLAGS } from '../../src/runtime/engine.js'
import { projectRoot } from '../lab/project.js'

/** Ahead of whatever else the machine does: what is measured is the work, not the queue for processors. */
const AHEAD = ['chrt', '-f', '1']
const PROGRAMS = {
  modules: [...AHEAD, process.execPath, ...ENGINE_FLAGS, join(projectRoot, 'dist', 'bench', 'startup', 'modules.js')],
  bundle: [...AHEAD, process.execPath, ...ENGINE_FLAGS, join(projectRoot, 'bin', 'snapswitch')],
} as const
type Name = keyof typeof PROGRAMS
const LIMIT_MS = 30_000
const TICKS_PER_S = 100

/** Milliseconds; `Cpu`: of processor time, until a second after the start. */
interface Figures {
  portsMs: number
  upMs: number
  switchCpuMs: number
  coordinatorCpuMs: number
  statusMs: number
  statusCpuMs: number
}

export async function paired(rounds: number): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'sswb-'))
  const namespace = `sswb${process.pid}`
  const ip = (...args: string[]) => execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'inherit'] })
  ip('netns', 'add', namespace)
  try {
    for (const device of ['p0', 'p1']) {
      ip('-n', namespace, 'link', 'add', device, 'type', 'veth', 'peer', 'name', `${device}e`)
      for (const end of [device, `${device}e`]) ip('-n', namespace, 'link', 'set', end, 'up')
    }
    const all: Record<Name, Figures[]> = { modules: [], bundle: [] }
    for (let round = 0; round < rounds; round++) {
      for (const name of ['modules', 'bundle'] as const) all[name].push(await measure(name, namespace, directory))
    }
    const keys = Object.keys(all.bundle[0]!) as (keyof Figures)[]
    process.stdout.write(`${['', ...keys].map((cell) => cell.padStart(17)).join('')}\n`)
    for (const [name, figures] of Object.entries(all)) {
      const cells = keys.map((key) => spread(figures.map((one) => one[key])))
      process.stdout.write(`${[name, ...cells].map((cell) => cell.padStart(17)).join('')}\n`)
    }
  } finally {
    ip('netns', 'del', namespace)
    rmSync(directory, { recursive: true, force: true })
  }
}

/** Median, least and most. */
function spread(values: readonly number[]): string {
  const sorted = values.toSorted((a, b) => a - b).map(Math.round)
  return `${sorted[sorted.length >> 1]} (${sorted[0]}–${sorted.at(-1)})`
}

async function measure(name: Name, namespace: string, directory: string): Promise<Figures> {
  const file = join(directory, 'switch.yaml')
  const socket = join(directory, 'sock')
  const state = join(directory, 'state')
  rmSync(state, { recursive: true, force: true })
  const network = '{ ports: { p0: { device: p0 }, p1: { device: p1 } } }'
  const config = { host: 'a', state, api: `{ socket: ${socket} }`, networks: `{ lab0: ${network} }` }
  writeFileSync(
    file,
    Object.entries(config)
      .map(([key, value]) => `${key}: ${value}\n`)
      .join(''),
  )
  const log = join(directory, 'log')
  const output = openSync(log, 'w')
  const began = Date.now()
  const args = ['netns', 'exec', namespace, ...PROGRAMS[name], 'switch', '--config', file]
  const child = spawn('ip', args, { stdio: ['ignore', output, output] })
  const ended = new Promise((resolve) => child.once('exit', resolve))
  try {
    const said = () => readFileSync(log, 'utf8')
    while (!said().includes('"msg":"listening"')) {
      if (child.exitCode !== null || Date.now() - began > LIMIT_MS) throw new Error(`no start: ${said().slice(-500)}`)
      await pause(20)
    }
    const lines = said()
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as { msg: string; time: number; pid: number })
    const told = (msg: string) => lines.filter((line) => line.msg === msg).at(-1)!
    await pause(1000)
    const [switchCpuMs, coordinatorCpuMs] = [cpuMs(child.pid!), cpuMs(told('listening').pid)]
    const { ms: statusMs, cpuMs: statusCpuMs } = timed([...PROGRAMS[name], 'status', '--socket', socket])
    const [portsMs, upMs] = [told('port added').time - began, told('switch is up').time - began]
    return { portsMs, upMs, switchCpuMs, coordinatorCpuMs, statusMs, statusCpuMs }
  } finally {
    child.kill('SIGTERM')
    await ended
  }
}

function cpuMs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ')
  return ((Number(fields[11]) + Number(fields[12])) * 1000) / TICKS_PER_S
}

function timed(command: readonly string[]): { readonly ms: number; readonly cpuMs: number } {
  const script = 'TIMEFORMAT="%R %U %S"; { time "$@" >/dev/null; } 2>&1'
  const said = execFileSync('bash', ['-c', script, 'bash', ...command], { encoding: 'utf8' })
  const [real, user, system] = said.trim().split(' ').map(Number) as [number, number, number]
  return { ms: real * 1000, cpuMs: (user + system) * 1000 }
}
