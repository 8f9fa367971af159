// A host of a lab: a network namespace for its devices and a mount namespace for its files, held by a process that does
// nothing else. Every host sees a directory of its own at one common path, and nothing else of the lab: a path that is
// there on one host is another file on the next, or none. From outside, each host's files are below its root. All
// mounts are in that namespace and go with its last process: nothing is left outside.

import { spawn } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { identify, type ProcessId } from './processes.js'

/** `lab` is hidden but for the host's own directory, which is mounted at `common`, below `lab`. */
const hold = `root=$1 lab=$2 common=$3
mount --bind "$root" /mnt
mount -t tmpfs -o mode=755,size=64k tmpfs "$lab"
mkdir "$common"
mount --move /mnt "$common"
mount -o remount,ro "$lab"
echo ready
exec >/dev/null 2>&1 sleep infinity`

export class Host {
  readonly name: string
  readonly namespace: string
  /** Where its files are, seen from outside. */
  readonly root: string
  /** Where its files are, seen from within: the same for all hosts of a lab. */
  readonly common: string
  readonly #lab: string
  #holder: ProcessId | undefined

  constructor(lab: string, name: string, namespace: string) {
    this.name = name
    this.namespace = namespace
    this.root = join(lab, 'hosts', name)
    this.common = join(lab, 'host')
    this.#lab = lab
  }

  /** Starts the process that holds its namespaces, in the network namespace, which exists. Returns that process. */
  async start(): Promise<ProcessId> {
    mkdirSync(this.root, { recursive: true, mode: 0o755 })
    // `ip netns exec` shows the namespace's own devices in /sys, and like unshare it becomes the program it runs.
    const enter = ['netns', 'exec', this.namespace, 'unshare', '--mount', '--propagation', 'private']
    const args = [...enter, 'sh', '-ec', hold, 'host', this.root, this.#lab, this.common]
    const child = spawn('ip', args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true })
    let said = ''
    await new Promise<void>((resolve, reject) => {
      const take = (chunk: Buffer) => {
        said += chunk.toString()
        if (said.includes('ready')) resolve()
      }
      child.stdout.on('data', take)
      child.stderr.on('data', take)
      child.once('error', reject)
      child.once('exit', () => reject(new Error(`host ${this.name} cannot be made: ${said.trim()}`)))
    })
    for (const stream of [child.stdout, child.stderr]) stream.destroy()
    child.unref()
    const holder = identify(child.pid!)
    if (holder === undefined) throw new Error(`host ${this.name} has ended`)
    this.#holder = holder
    return holder
  }

  /** Arguments of nsenter for what runs on the host; nsenter becomes the program it runs. */
  get entry(): string[] {
    if (this.#holder === undefined) throw new Error(`host ${this.name} is not up`)
    return [`--net=/run/netns/${this.namespace}`, `--mount=/proc/${this.#holder.pid}/ns/mnt`]
  }

  /** What to put before a command that is to run on the host. */
  get enter(): string[] {
    return ['nsenter', ...this.entry, '--']
  }

  /** A path as the host has it. */
  inside(...names: string[]): string {
    return join(this.common, ...names)
  }

  /** The same file seen from outside; a path that is no host's own is the same everywhere. */
  outside(path: string): string {
    return path === this.common || path.startsWith(`${this.common}/`)
      ? this.root + path.slice(this.common.length)
      : path
  }
}
