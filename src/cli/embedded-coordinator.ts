// The coordinator inside `snapswitch switch`: a process of its own, started again when it ends, and out of the way of
// one that somebody runs by itself.

import { type ChildProcess, spawn } from 'node:child_process'
import { connect } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Logger } from 'pino'
import type { EmbeddedCoordinator } from '../../coordinator/main.js'
import type { SwitchConfig } from '../../switch/config.js'
import { coordinatorOf, SUPERSEDED } from '../api/embedded.js'
import { ENGINE_FLAGS } from '../runtime/engine.js'
import { environmentForNode } from '../runtime/environment.js'

/** From one start to the next, when it ends by itself: doubled up to the last, and begun anew after a while. */
const RESTART_MS = { first: 200, last: 10_000, forgotten: 60_000 } as const
/** How often it is looked whether the other one is still there; and how long it may be away, as for a restart. */
const STAND_BY_MS = 1_000
const AWAY_MS = 10_000
/** What is under way is called off and undone. */
export const COORDINATOR_STOP_MS = 70_000

/** What the switch runs beside it, as its configuration says. */
export function startCoordinator(config: SwitchConfig, log: Logger): EmbeddedProcess | null {
  const where = coordinatorOf(config)
  if (where?.embedded !== true) return null
  const { host, api, hosts, state } = config
  const others = Object.entries(hosts).map(([name, { socket }]) => [name, socket])
  const sockets = { [host]: api.socket, ...Object.fromEntries(others) }
  return new EmbeddedProcess(
    { socket: where.socket, store: join(state, 'manifests'), log: config.log, host, sockets },
    log,
  )
}

export class EmbeddedProcess {
  readonly #options: EmbeddedCoordinator
  readonly #log: Logger
  #child: ChildProcess | null = null
  #timer: NodeJS.Timeout | undefined
  #restartMs: number = RESTART_MS.first
  #stopping = false

  constructor(options: EmbeddedCoordinator, log: Logger) {
    this.#options = options
    this.#log = log
    this.#start()
  }

  /** Ends it in order: what is under way is called off. Bounded. */
  async stop(): Promise<void> {
    this.#stopping = true
    clearTimeout(this.#timer)
    const child = this.#child
    if (child === null) return
    const ended = new Promise((resolve) => child.once('exit', resolve))
    child.stdin?.write('stop\n')
    const late = setTimeout(() => child.kill('SIGKILL'), COORDINATOR_STOP_MS)
    await ended
    clearTimeout(late)
  }

  #start(): void {
    const program = fileURLToPath(new URL('./coordinator-process.js', import.meta.url))
    const began = performance.now()
    const child = spawn(process.execPath, [...ENGINE_FLAGS, program, JSON.stringify(this.#options)], {
      env: environmentForNode(),
      stdio: ['pipe', 'inherit', 'inherit'],
    })
    this.#child = child
    let over = false
    const end = (what: string, code: number | null) => {
      if (over) return
      over = true
      this.#child = null
      if (this.#stopping) return
      if (code === SUPERSEDED) return this.#standBy()
      if (performance.now() - began > RESTART_MS.forgotten) this.#restartMs = RESTART_MS.first
      this.#log.error({ pid: child.pid, restartMs: this.#restartMs }, `the coordinator ${what}; it is started again`)
      this.#later(this.#restartMs, () => this.#start())
      this.#restartMs = Math.min(this.#restartMs * 2, RESTART_MS.last)
    }
    child.on('error', (error) => end(`could not be started: ${error.message}`, null))
    child.on('exit', (code, signal) => end(`ended with ${signal ?? `exit code ${code}`}`, code))
    child.stdin?.on('error', () => undefined)
  }

  #later(ms: number, act: () => void): void {
    this.#timer = setTimeout(act, ms)
    this.#timer.unref()
  }

  #standBy(): void {
    const { socket } = this.#options
    this.#log.info({ socket }, 'another coordinator serves this host; the one inside stands by')
    let seen = performance.now()
    const look = async () => {
      if (await answers(socket)) seen = performance.now()
      if (this.#stopping) return
      if (performance.now() - seen < AWAY_MS) this.#later(STAND_BY_MS, () => void look())
      else this.#start()
    }
    void look()
  }
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ path })
    socket.unref()
    socket.setTimeout(STAND_BY_MS, () => socket.destroy())
    socket.on('connect', () => {
      resolve(true)
      socket.destroy()
    })
    socket.on('error', () => resolve(false))
    socket.on('close', () => resolve(false))
  })
}
