// A daemon in a namespace of its own, with veths as ports: the first two lead to endpoints, the others to nobody.
// Whatever happens, nothing of it stays.

import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { projectRoot } from '../lab/project.js'
import { Daemon } from './daemon.js'

const prefix = `sswb${process.pid}-`
const NO_IPV6 = 'for w in all default; do echo 1 >/proc/sys/net/ipv6/conf/$w/disable_ipv6; done'

const ip = (...args: string[]) => execFileSync('ip', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })

export interface Ports {
  /** Not started yet. */
  readonly daemon: Daemon
  /** Namespaces of the endpoints: `e0`, 10.9.0.1 in the first, `e1`, 10.9.0.2 in the other. */
  readonly one: string
  readonly two: string
}

export interface Wanted {
  readonly ports: number
  readonly datapath?: Readonly<Record<string, string>>
  /** Whose compiled daemon it is. */
  readonly checkout?: string
}

export async function withPorts<T>(wanted: Wanted, use: (ports: Ports) => Promise<T>): Promise<T> {
  const directory = mkdtempSync(join(tmpdir(), prefix))
  const [host, one, two] = ['host', 'one', 'two'].map((name) => `${prefix}${name}`) as [string, string, string]
  const daemon = new Daemon(host, join(directory, 'switch.yaml'), directory, wanted.checkout ?? projectRoot)
  try {
    for (const name of [host, one, two]) {
      ip('netns', 'add', name)
      ip('netns', 'exec', name, 'sh', '-c', NO_IPV6)
    }
    makePorts(directory, wanted.ports, host, one, two)
    writeConfig(directory, wanted)
    return await use({ daemon, one, two })
  } finally {
    await daemon.stop()
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

function writeConfig(directory: string, { ports: count, datapath }: Wanted): void {
  const ports = Object.fromEntries(Array.from({ length: count }, (_, i) => [`port${i}`, { device: `p${i}` }]))
  const content = {
    host: 'a',
    coordinator: 'none',
    api: { socket: join(directory, 'sock') },
    state: join(directory, 'state'),
    ...(datapath === undefined ? {} : { datapath }),
    networks: { lab0: { ports } },
  }
  // JSON is YAML.
  writeFileSync(join(directory, 'switch.yaml'), JSON.stringify(content))
}

/** MB (proc(5), VmRSS). */
export function residentMb(pid: number): number {
  return Number(readFileSync(`/proc/${pid}/status`, 'utf8').match(/VmRSS:\s+(\d+)/)![1]) / 1024
}
