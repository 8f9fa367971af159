// A daemon as `snapswitch switch --config FILE` starts it, timed.

import { type ChildProcess, spawn } from 'node:child_process'
import { openSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { projectRoot } from '../lab/project.js'

export class Daemon {
  #child: ChildProcess | null = null
  #starts = 0
  readonly #host: string
  readonly #file: string
  readonly #directory: string
  readonly #checkout: string

  /** `host`: the namespace. `checkout`: whose compiled daemon it is. */
  constructor(host: string, file: string, directory: string, checkout = projectRoot) {
    this.#host = host
    this.#file = file
    this.#directory = directory
    this.#checkout = checkout
  }

  get pid(): number {
    return this.#child!.pid!
  }

  /** Milliseconds until it says that it is up. */
  async start(): Promise<number> {
    const log = join(this.#directory, `log${this.#starts++}`)
    const out = openSync(log, 'w')
    const program = [join(this.#checkout, 'bin', 'snapswitch'), 'switch', '--config', this.#file]
    const began = performance.now()
    this.#child = spawn('ip', ['netns', 'exec', this.#host, ...program], { stdio: ['ignore', out, out] })
    while (!readFileSync(log, 'utf8').includes('switch is up')) {
      if (this.#child.exitCode !== null) throw new Error(`the daemon ended: ${readFileSync(log, 'utf8').slice(-500)}`)
      if (performance.now() - began > 60_000) throw new Error('the daemon is not up after a minute')
      await pause(5)
    }
    return performance.now() - began
  }

  /** Milliseconds from SIGTERM to its end. */
  async stop(): Promise<number> {
    const child = this.#child
    if (child === null || child.exitCode !== null || child.signalCode !== null) return 0
    const ended = new Promise((resolve) => child.once('exit', resolve))
    const began = performance.now()
    child.kill('SIGTERM')
    await ended
    return performance.now() - began
  }
}
