// Captures as a user runs them, and tshark's reading of what they wrote.

import { type ChildProcess, spawn } from 'node:child_process'
import { join } from 'node:path'
import { run, until } from '../lab/command.js'
import { repositoryRoot } from '../lab/repository.js'

const snapswitch = join(repositoryRoot(), 'bin', 'snapswitch')

/** `snapswitch capture …`, under way. */
export class Capturing {
  readonly child: ChildProcess
  readonly ended: Promise<number | null>
  readonly #out: Buffer[] = []
  stderr = ''

  private constructor(socket: string, args: readonly string[]) {
    this.child = spawn(snapswitch, ['capture', '--socket', socket, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
    this.child.stdout!.on('data', (data: Buffer) => this.#out.push(data))
    this.child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text
    })
    this.ended = new Promise((resolve) => this.child.once('close', resolve))
  }

  /** Returns when the switch shows it frames. Ended with the test. */
  static async begin(
    t: { teardown(act: () => Promise<unknown>): void },
    socket: string,
    ...args: string[]
  ): Promise<Capturing> {
    const capturing = new Capturing(socket, args)
    t.teardown(() => {
      if (capturing.isRunning) capturing.child.kill('SIGKILL')
      return capturing.ended
    })
    await until('the capture', 20_000, () => {
      if (!capturing.isRunning) throw new Error(`it ended: ${capturing.stderr}`)
      return capturing.stderr.includes('capturing on') ? true : undefined
    })
    return capturing
  }

  get isRunning(): boolean {
    return this.child.exitCode === null && this.child.signalCode === null
  }

  get output(): Buffer {
    return Buffer.concat(this.#out)
  }

  /** Ctrl-C; its exit code. */
  async stop(): Promise<number | null> {
    if (this.isRunning) this.child.kill('SIGINT')
    return this.ended
  }
}

export interface Packet {
  readonly port: string
  /** `in`, `out`. */
  readonly direction: string
  readonly comment: string
  readonly id: string
  readonly length: string
  readonly captured: string
  readonly protocols: string
}

/** In the order of `Packet`. */
const FIELDS = [
  'frame.interface_name',
  'frame.packet_flags_direction',
  'frame.comment',
  'frame.packet_id',
  'frame.len',
  'frame.cap_len',
  'frame.protocols',
]

/** What tshark reads in a file; `display`: its filter. */
export async function tshark(file: string, display = ''): Promise<Packet[]> {
  const fields = FIELDS.flatMap((field) => ['-e', field])
  const filter = display === '' ? [] : ['-Y', display]
  const text = await run('tshark', ['-r', file, ...filter, '-T', 'fields', '-E', 'separator=/t', ...fields], 60_000)
  return text
    .split('\n')
    .filter(Boolean)
    .map((line) => {
      const [port = '', direction = '', comment = '', id = '', length = '', captured = '', protocols = ''] =
        line.split('\t')
      const way = ['?', 'in', 'out'][Number(direction)] ?? '?'
      return { port, direction: way, comment, id, length, captured, protocols }
    })
}
