// Starts snapswitch's daemons as a user would (bin/snapswitch with a YAML file) and runs its commands.

import { spawn } from 'node:child_process'
import { closeSync, openSync, readFileSync } from 'node:fs'
import { createConnection } from 'node:net'
import { join } from 'node:path'
import { ENGINE_FLAGS } from '../../src/runtime/engine.js'
import { attempt, type CommandResult, until } from './command.js'
import { identify, type ProcessId, runs } from './processes.js'
import { repositoryRoot } from './repository.js'

export interface DaemonSpec {
  readonly role: 'switch' | 'coordinator'
  /** As the daemon sees it. */
  readonly config: string
  /** As we see it. */
  readonly socket: string
  readonly log: string
  /** What comes before the command: how to get onto its host. It becomes the command. */
  readonly through?: readonly string[]
  /** Options of node, such as a hook to load. */
  readonly nodeOptions?: readonly string[]
}

export interface Daemon {
  readonly spec: DaemonSpec
  readonly id: ProcessId
}

/** The command, as in a clone of the repository. */
export const program = (): string => join(repositoryRoot(), 'bin', 'snapswitch')

function answers(socket: string): Promise<true | undefined> {
  return new Promise((resolve) => {
    const connection = createConnection(socket)
    connection.once('connect', () => resolve(true)).once('error', () => resolve(undefined))
    connection.setTimeout(1000, () => connection.destroy())
    connection.once('close', () => resolve(undefined))
    connection.once('connect', () => connection.end())
  })
}

const said = (spec: DaemonSpec) => readFileSync(spec.log, 'utf8').slice(-2000)

/** Starts a daemon; it may take a moment until it answers. */
export async function spawnDaemon(spec: DaemonSpec): Promise<Daemon> {
  const command = [
    ...(spec.through ?? []),
    process.execPath,
    ...ENGINE_FLAGS,
    ...(spec.nodeOptions ?? []),
    program(),
    spec.role,
    '--config',
    spec.config,
  ]
  const descriptor = openSync(spec.log, 'a')
  const child = spawn(command[0]!, command.slice(1), { stdio: ['ignore', descriptor, descriptor], detached: true })
  closeSync(descriptor)
  await new Promise<void>((resolve, reject) => child.once('spawn', resolve).once('error', reject))
  child.unref()
  const id = identify(child.pid!)
  if (id === undefined) throw new Error(`snapswitch ${spec.role} ended at once: ${said(spec)}`)
  return { spec, id }
}

/** Returns when the daemon's API socket takes connections. */
export async function daemonAnswers({ spec, id }: Daemon): Promise<void> {
  await until(`the socket of snapswitch ${spec.role}`, 20_000, async () => {
    if (!runs(id)) throw new Error(`snapswitch ${spec.role} ended while it started: ${said(spec)}`)
    return answers(spec.socket)
  })
}

/** Runs a snapswitch command to its end. */
export function snapswitch(args: readonly string[], timeoutMs = 120_000): Promise<CommandResult> {
  return attempt(process.execPath, [program(), ...args], timeoutMs)
}

/** Runs a snapswitch command with -j and parses what it prints. Rejects with what it says on stderr. */
export async function snapswitchJson<T>(args: readonly string[], timeoutMs?: number): Promise<T> {
  const result = await snapswitch([...args, '-j'], timeoutMs)
  if (result.code === 0) return JSON.parse(result.stdout) as T
  const said = result.stderr.trim() || result.stdout.trim()
  throw new Error(`snapswitch ${args.join(' ')} ended with ${result.code}: ${said}`)
}
