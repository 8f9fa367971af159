// A daemon on a host of the lab, as a user starts it, and the commands that a user gives it.

import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { allCores, type Lab } from '../lab/lab.js'
import { commandAt, type Service } from '../lab/processes.js'
import { projectRoot } from '../lab/project.js'

const program = join(projectRoot, 'bin', 'snapswitch')

export class HostDaemon {
  readonly #lab: Lab
  readonly #host: string
  readonly #socket: string
  #service: Service | null = null

  /** `host`: the namespace. */
  constructor(lab: Lab, host: string) {
    this.#lab = lab
    this.#host = host
    this.#socket = join(lab.scratch, `${host}.sock`)
  }

  async start(): Promise<void> {
    const config = join(this.#lab.scratch, `${this.#host}.yaml`)
    // JSON is YAML.
    const content = {
      host: this.#host,
      coordinator: 'none',
      api: { socket: this.#socket },
      state: join(this.#lab.scratch, `${this.#host}.state`),
      networks: {},
    }
    writeFileSync(config, JSON.stringify(content))
    this.#service = await this.#lab.start(this.#host, allCores(), [program, 'switch', '--config', config])
    await this.#service.until('daemon', (said) => said.includes('switch is up'), 60_000)
  }

  /** Returns when it is gone. */
  async end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    await this.#service!.stop(signal)
    if (signal === 'SIGKILL') rmSync(this.#socket, { force: true })
  }

  async command(...words: string[]): Promise<string> {
    const place = this.#lab.place(this.#host, allCores())
    return commandAt(place, [program, ...words, '--socket', this.#socket], { timeoutMs: 60_000 })
  }
}
