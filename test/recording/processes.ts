// `snapswitch record` under way, and `snapswitch replay` of what came of it, as a person runs them.

import { type ChildProcess, spawn } from 'node:child_process'
import { join } from 'node:path'
import { attempt, until } from '../lab/command.js'
import { repositoryRoot } from '../lab/repository.js'
import { patience } from '../patience.js'

export const snapswitch = join(repositoryRoot(), 'bin', 'snapswitch')
/** Where the time of day is another one, one of them without whole hours. */
export const ZONES = ['UTC', 'Asia/Kathmandu', 'America/St_Johns', 'Pacific/Kiritimati']

export class Recording {
  readonly path: string
  readonly child: ChildProcess
  readonly ended: Promise<number | null>
  said = ''

  constructor(socket: string, network: string, path: string, ...more: string[]) {
    this.path = path
    this.child = spawn(snapswitch, ['record', '--socket', socket, network, '-w', path, ...more])
    this.child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.said += text
    })
    this.ended = new Promise((resolve) => this.child.once('close', resolve))
  }

  async begun(): Promise<this> {
    await until('the recording', 20_000, () => {
      if (this.child.exitCode !== null) throw new Error(this.said)
      return this.said.includes('recording network') ? true : undefined
    })
    return this
  }

  async stop(): Promise<number | null> {
    if (this.child.exitCode === null) this.child.kill('SIGINT')
    return this.ended
  }
}

export interface Summary {
  readonly digest: string
  readonly same: boolean
  readonly truncated: boolean
  readonly frames: number
  readonly end: string
  readonly cuts: readonly { readonly epoch: number; readonly seconds: number }[]
  readonly gaps: readonly { readonly seconds: number; readonly missed: number }[]
  readonly restores: readonly { readonly epoch: number }[]
  readonly state?: { readonly epoch: number; readonly fence: number }
}

export async function replayed(path: string, zone = 'UTC', ...more: string[]): Promise<Summary> {
  const { stdout, stderr } = await attempt(
    'env',
    [`TZ=${zone}`, snapswitch, 'replay', '-j', path, ...more],
    patience(60_000),
  )
  if (stdout === '') throw new Error(stderr)
  return JSON.parse(stdout) as Summary
}
