// Starts the programs that a measurement needs, each bound to a deadline or to the lab's life. Long-lived ones are
// started under `setpriv --pdeathsig KILL`: the kernel ends them when the bench dies, however it dies.

import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { promisify } from 'node:util'

const run = promisify(execFile)

/** Where a program runs: a network namespace and the cores it may use. */
export interface Place {
  readonly namespace: string
  /** CPU list as taskset takes it: '0', '0,1'. */
  readonly cores: string
}

export interface CommandOptions {
  readonly timeoutMs?: number
  readonly env?: Readonly<Record<string, string>>
  readonly input?: string
}

/** Runs a command to its end and gives its stdout. A failure carries the command line and what it said on stderr. */
export async function command(argv: readonly string[], options: CommandOptions = {}): Promise<string> {
  const [file, ...rest] = argv
  try {
    const running = run(file!, rest, {
      timeout: options.timeoutMs ?? 20_000,
      killSignal: 'SIGKILL',
      maxBuffer: 16 << 20,
      env: { ...process.env, ...options.env },
    })
    // A command that ends without reading its input is not in error: its exit code says how it went.
    running.child.stdin?.on('error', () => undefined)
    running.child.stdin?.end(options.input ?? '')
    return (await running).stdout
  } catch (error) {
    const failure = error as Error & { stderr?: string; killed?: boolean }
    const why = failure.killed ? 'did not end in time' : failure.stderr?.trim() || failure.message
    throw new Error(`${argv.join(' ')}: ${why}`, { cause: error })
  }
}

/** `command`, inside a namespace and on given cores. */
export function commandAt(place: Place, argv: readonly string[], options?: CommandOptions): Promise<string> {
  return command([...prefix(place), ...argv], options)
}

/** Neither `ip netns exec` nor taskset nor setpriv forks: the child's pid is the program's own. */
function prefix(place: Place): string[] {
  return ['setpriv', '--pdeathsig', 'KILL', 'ip', 'netns', 'exec', place.namespace, 'taskset', '-c', place.cores]
}

export class Service {
  readonly pid: number
  readonly #child: ChildProcess
  readonly #title: string
  #said = ''
  #output = ''
  #ended = false
  readonly #end: Promise<void>

  private constructor(title: string, child: ChildProcess) {
    this.#title = title
    this.#child = child
    this.pid = child.pid!
    const keep = (chunk: Buffer) => {
      this.#said = (this.#said + chunk.toString()).slice(-8192)
    }
    child.stdout?.on('data', (chunk: Buffer) => {
      this.#output = (this.#output + chunk.toString()).slice(-8192)
      keep(chunk)
    })
    child.stderr?.on('data', keep)
    this.#end = new Promise((resolve) => {
      child.once('exit', () => {
        this.#ended = true
        resolve()
      })
    })
  }

  /** Starts a program that runs until `stop`. Its stdin stays open and silent: vde_switch ends at its console's EOF. */
  static async start(place: Place, argv: readonly string[], env: Record<string, string> = {}): Promise<Service> {
    const [file, ...rest] = [...prefix(place), ...argv]
    const child = spawn(file!, rest, { stdio: ['pipe', 'pipe', 'pipe'], env: { ...process.env, ...env } })
    await new Promise<void>((resolve, reject) => {
      child.once('spawn', resolve)
      child.once('error', reject)
    })
    return new Service(argv.slice(0, 3).join(' '), child)
  }

  /** The last 8 KiB that it wrote. */
  get said(): string {
    return this.#said
  }

  /** The last 8 KiB of its stdout alone. */
  get output(): string {
    return this.#output
  }

  /** Writes to its stdin. */
  tell(text: string): void {
    this.#child.stdin?.write(text)
  }

  /** Resolves once `probe` says yes; fails when the program ends first or the deadline passes. */
  async until(what: string, probe: (said: string) => boolean | Promise<boolean>, timeoutMs = 15_000): Promise<void> {
    const deadline = performance.now() + timeoutMs
    while (!(await probe(this.#said))) {
      if (this.#ended) throw new Error(`${this.#title} ended before ${what}:\n${this.#said}`)
      if (performance.now() > deadline)
        throw new Error(`${this.#title}: no ${what} within ${timeoutMs} ms:\n${this.#said}`)
      await sleep(20)
    }
  }

  /** Ends it, by force after two seconds. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    if (this.#ended) return
    this.#child.kill(signal)
    const force = setTimeout(() => this.#child.kill('SIGKILL'), 2000)
    await this.#end
    clearTimeout(force)
  }

  /** For the way out, where nothing can be awaited. */
  kill(): void {
    if (!this.#ended) this.#child.kill('SIGKILL')
  }
}

export function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
