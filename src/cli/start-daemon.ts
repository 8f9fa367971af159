// Starts a switch daemon for a command that needs one: the systemd unit when it is installed, else a process of its
// own.

import { execFile, spawn } from 'node:child_process'
import { existsSync, mkdirSync, openSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { SwitchClient } from '../api/switch-client.js'
import { SnapswitchError } from '../errors/errors.js'
import { ENGINE_FLAGS } from '../runtime/engine.js'
import { defaultSwitchSocket } from './options.js'

const run = promisify(execFile)
const UNIT = 'snapswitch-switch.service'
const START_MS = 20_000
const LOOK_MS = 50

/** Returns what it did, in words. Throws SOCKET_UNREACHABLE when the daemon does not come up. */
export async function startDaemon(socket = defaultSwitchSocket): Promise<string> {
  const byUnit = socket === defaultSwitchSocket && (await hasUnit())
  const log = byUnit ? `journalctl -u ${UNIT}` : await detached(socket)
  if (byUnit) await run('systemctl', ['start', UNIT])
  const end = performance.now() + START_MS
  while (!(await answers(socket))) {
    if (performance.now() > end) {
      throw new SnapswitchError('SOCKET_UNREACHABLE', 'the daemon that was started does not answer', `See: ${log}`)
    }
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS))
  }
  return byUnit
    ? `${UNIT} was started`
    : `a switch daemon was started; it runs until the host restarts, and logs to ${log}`
}

async function hasUnit(): Promise<boolean> {
  if (!existsSync('/run/systemd/system')) return false
  return run('systemctl', ['cat', UNIT]).then(
    () => true,
    () => false,
  )
}

/** Returns where it logs. */
async function detached(socket: string): Promise<string> {
  const directory = dirname(socket)
  mkdirSync(directory, { recursive: true, mode: 0o755 })
  const log = join(directory, 'switch.log')
  const program = process.argv[1]!
  const output = openSync(log, 'a', 0o600)
  const child = spawn(process.execPath, [...ENGINE_FLAGS, program, ...wordsFor(socket)], {
    detached: true,
    stdio: ['ignore', output, output],
  })
  child.unref()
  return log
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
