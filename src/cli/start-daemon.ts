// Starts a switch daemon for a command that needs one: the systemd unit when it is installed, else a process of its
// own.

import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { closeSync, existsSync, fstatSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { promisify } from 'node:util'
import { SwitchClient } from '../api/switch-client.js'
import { SnapswitchError } from '../errors/errors.js'
import { ENGINE_FLAGS } from '../runtime/engine.js'
import { defaultSwitchSocket } from './options.js'

const run = promisify(execFile)
const UNIT = 'snapswitch-switch.service'
const START_MS = 20_000
const END_MS = 10_000
const LOOK_MS = 50

export interface StartedDaemon {
  /** What was done. */
  readonly words: string
  /** Ends it, unless it has work by now. Returns whether it did. */
  takeBack(): Promise<boolean>
}

/**
 * Throws PERMISSION, and SOCKET_UNREACHABLE when the daemon does not come up; one that is no unit of systemd is ended
 * then.
 */
export async function startDaemon(socket = defaultSwitchSocket): Promise<StartedDaemon> {
  const byUnit = socket === defaultSwitchSocket && (await hasUnit())
  const own = byUnit ? null : begin(socket)
  const log = own?.log ?? `journalctl -u ${UNIT}`
  if (byUnit) {
    await run('systemctl', ['start', UNIT]).catch(({ stderr, message }: Error & { readonly stderr?: string }) => {
      throw notUp(`the daemon could not be started: ${stderr?.trim() || message}`, log)
    })
  }
  const end = performance.now() + START_MS
  while (!(await answers(socket))) {
    if (own !== null && hasEnded(own.child)) throw notUp(`the daemon that was started has ended${reasonIn(own)}`, log)
    if (performance.now() > end) {
      // Nobody would look for it: whoever asked for it is told that there is none.
      if (own !== null) await endOf(own.child)
      throw notUp(`the daemon that was started does not answer${own === null ? '' : ', and was ended'}`, log)
    }
    await delay(LOOK_MS)
  }
  return {
    words: byUnit
      ? `${UNIT} was started`
      : `a switch daemon was started; it runs until the host restarts, and logs to ${log}`,
    async takeBack() {
      if (await hasBridges(socket)) return false
      if (own === null) return succeeds(run('systemctl', ['stop', UNIT]))
      await endOf(own.child)
      return true
    },
  }
}

const notUp = (message: string, log: string) => new SnapswitchError('SOCKET_UNREACHABLE', message, `See: ${log}`)

const hasEnded = ({ exitCode, signalCode }: ChildProcess) => exitCode !== null || signalCode !== null

async function endOf(child: ChildProcess): Promise<void> {
  if (hasEnded(child)) return
  const ended = new Promise((resolve) => child.once('exit', resolve))
  child.kill('SIGTERM')
  const limit = new AbortController()
  await Promise.race([ended, delay(END_MS, undefined, { signal: limit.signal }).catch(() => {})])
  limit.abort()
}

/** What it said last of an error; '' when it said none. */
function reasonIn({ log, from }: Detached): string {
  const said = readFileSync(log).subarray(from).toString('utf8')
  const [reason] = [...said.matchAll(/^error ([A-Z_]+: .*)$/gm)].slice(-1)
  return reason === undefined ? '' : `: ${reason[1]}`
}

async function hasUnit(): Promise<boolean> {
  if (!existsSync('/run/systemd/system')) return false
  return succeeds(run('systemctl', ['cat', UNIT]))
}

const succeeds = (work: Promise<unknown>): Promise<boolean> =>
  work.then(
    () => true,
    () => false,
  )

interface Detached {
  readonly child: ChildProcess
  readonly log: string
  /** How long the log was. */
  readonly from: number
}

function begin(socket: string): Detached {
  try {
    return detached(socket)
  } catch (thrown) {
    const { code, message } = thrown as NodeJS.ErrnoException
    const mayNot = code === 'EACCES' || code === 'EPERM'
    throw new SnapswitchError(
      mayNot ? 'PERMISSION' : 'SOCKET_UNREACHABLE',
      `no switch daemon can be started: ${message}`,
      mayNot ? 'Run it as root.' : 'Mend that, then try again.',
      thrown,
    )
  }
}

function detached(socket: string): Detached {
  const directory = dirname(socket)
  mkdirSync(directory, { recursive: true, mode: 0o755 })
  const log = join(directory, 'switch.log')
  const program = process.argv[1]!
  const output = openSync(log, 'a', 0o600)
  try {
    const from = fstatSync(output).size
    const child = spawn(process.execPath, [...ENGINE_FLAGS, program, ...wordsFor(socket)], {
      detached: true,
      stdio: ['ignore', output, output],
    })
    child.unref()
    return { child, log, from }
  } finally {
    closeSync(output)
  }
}

/** The usual one needs no configuration, and has the one in /etc if it is there. */
function wordsFor(socket: string): string[] {
  if (socket === defaultSwitchSocket) return ['switch']
  const file = join(dirname(socket), 'switch.yaml')
  if (!existsSync(file)) {
    const state = process.env.SNAPSWITCH_STATE
    const lines = [`api: { socket: ${socket} }`, ...(state === undefined ? [] : [`state: ${state}`])]
    writeFileSync(file, `${lines.join('\n')}\n`, { mode: 0o600 })
  }
  return ['switch', '--config', file]
}

/** In doubt it has some. */
async function hasBridges(socket: string): Promise<boolean> {
  const client = new SwitchClient(socket)
  try {
    return (await client.bridges({ deadlineMs: 1000 })).length > 0
  } catch {
    return true
  } finally {
    await client.close()
  }
}

async function answers(socket: string): Promise<boolean> {
  const client = new SwitchClient(socket)
  try {
    await client.status({ deadlineMs: 1000 })
    return true
  } catch {
    return false
  } finally {
    await client.close()
  }
}
