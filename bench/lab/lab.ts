// A throw-away lab: network namespaces, veth pairs, a scratch directory and the services inside, taken down together.
// Namespace names start with `ssw` and carry the owner's pid, so that a later run can tell a dead run's remains from a
// living neighbour's lab.

import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { guard } from '../../test/lab/guardian.js'
import { command, commandAt, type Place, Service } from './processes.js'

const NAMESPACE = /^sswb(\d+)-/
const SCRATCH = /^sswb(\d+)-/
const living = new Set<Lab>()
/** Set on the way out: whoever still runs must not build what nobody would take down. */
let closing = false

export interface Counters {
  readonly rxFrames: number
  readonly rxDropped: number
  readonly txFrames: number
  readonly txBytes: number
}

export class Lab {
  readonly scratch: string
  readonly #prefix: string
  readonly #letGuardianGo: () => void
  readonly #namespaces = new Map<string, Service>()
  readonly #services: Service[] = []

  constructor() {
    if (closing) throw new Error('the bench is being taken down')
    // The first beside one that only has files, which is the usual case, needs no number.
    this.#prefix = `sswb${process.pid}-${living.size < 2 ? '' : living.size}`
    this.scratch = mkdtempSync(join(tmpdir(), this.#prefix))
    this.#letGuardianGo = guard(this.#prefix, this.scratch)
    living.add(this)
  }

  /** The system-wide name of a namespace of this lab. */
  namespace(name: string): string {
    return this.#prefix + name
  }

  async addNamespace(name: string): Promise<void> {
    if (closing) throw new Error('the bench is being taken down')
    const full = this.namespace(name)
    await command(['ip', 'netns', 'add', full])
    // No router solicitations, no duplicate address detection: frames that no subject was asked to carry would be
    // counted.
    const quiet = 'for i in all default; do echo 1 > /proc/sys/net/ipv6/conf/$i/disable_ipv6 2>/dev/null || :; done'
    const place = { namespace: full, cores: allCores() }
    await commandAt(place, ['sh', '-c', `${quiet}; ip link set lo up`])
    // The anchor's /proc/PID/net is how counters are read from outside without starting a program for each look.
    this.#namespaces.set(name, await Service.start(place, ['sleep', 'infinity']))
  }

  async start(
    name: string,
    cores: string,
    argv: readonly string[],
    env: Record<string, string> = {},
  ): Promise<Service> {
    return this.startAt({ namespace: this.namespace(name), cores }, argv, env)
  }

  /** `start`, in a namespace that may be another's; ends with this lab all the same. */
  async startAt(place: Place, argv: readonly string[], env: Record<string, string> = {}): Promise<Service> {
    const service = await Service.start(place, argv, env)
    this.#services.push(service)
    return service
  }

  place(name: string, cores: string): Place {
    return { namespace: this.namespace(name), cores }
  }

  /** Runs `ip` commands (without the leading `ip`) in a namespace, as one batch. */
  async ip(name: string, lines: readonly string[]): Promise<void> {
    await command(['ip', '-n', this.namespace(name), '-batch', '-'], { input: `${lines.join('\n')}\n` })
  }

  /** A veth pair with one end in each of two namespaces, both up. */
  async veth(a: string, deviceA: string, b: string, deviceB: string, mtu = 1500): Promise<void> {
    await this.ip(a, [
      `link add ${deviceA} mtu ${mtu} type veth peer name ${deviceB} mtu ${mtu} netns ${this.namespace(b)}`,
      `link set ${deviceA} up`,
    ])
    await this.ip(b, [`link set ${deviceB} up`])
  }

  /** Counters of a device, as /proc/net/dev has them. */
  counters(name: string, device: string): Counters {
    const anchor = this.#namespaces.get(name)
    if (anchor === undefined) throw new Error(`no namespace ${name} in this lab`)
    const text = readFileSync(`/proc/${anchor.pid}/net/dev`, 'latin1')
    const line = text.split('\n').find((candidate) => candidate.trimStart().startsWith(`${device}:`))
    if (line === undefined) throw new Error(`no device ${device} in namespace ${name}`)
    const columns = line
      .slice(line.indexOf(':') + 1)
      .trim()
      .split(/\s+/)
      .map(Number)
    return { rxFrames: columns[1]!, rxDropped: columns[3]!, txBytes: columns[8]!, txFrames: columns[9]! }
  }

  /** Takes all down. Safe to call twice and on a lab that is half built. */
  async destroy(): Promise<void> {
    await Promise.all(this.#services.splice(0).map((service) => service.stop()))
    for (const [name, anchor] of this.#namespaces) {
      await anchor.stop('SIGKILL')
      await command(['ip', 'netns', 'del', this.namespace(name)]).catch(() => undefined)
    }
    this.#namespaces.clear()
    rmSync(this.scratch, { recursive: true, force: true })
    this.#letGuardianGo()
    living.delete(this)
  }
}

/** Takes down every lab of this process: the way out after a signal or an error. */
export async function destroyAll(): Promise<void> {
  closing = true
  for (const lab of [...living]) await lab.destroy().catch(() => undefined)
}

/** Removes what runs that are dead left behind (a kill -9 leaves namespaces and scratch directories). */
export async function sweep(): Promise<void> {
  const dead = (name: string, pattern: RegExp) => {
    const owner = pattern.exec(name)?.[1]
    return owner !== undefined && !alive(Number(owner))
  }
  const listed = await command(['ip', 'netns', 'list'])
  for (const line of listed.split('\n')) {
    const name = line.split(' ')[0]!
    if (!dead(name, NAMESPACE)) continue
    const pids = (await command(['ip', 'netns', 'pids', name])).split('\n').filter(Boolean).map(Number)
    for (const pid of pids) if (alive(pid)) process.kill(pid, 'SIGKILL')
    await command(['ip', 'netns', 'del', name])
  }
  for (const name of readdirSync(tmpdir()))
    if (dead(name, SCRATCH)) rmSync(join(tmpdir(), name), { recursive: true, force: true })
}

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

/** Every core this process may use, as a taskset list. */
export function allCores(): string {
  return /^Cpus_allowed_list:\s*(\S+)/m.exec(readFileSync('/proc/self/status', 'latin1'))?.[1] ?? '0'
}
