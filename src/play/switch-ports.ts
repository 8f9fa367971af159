// Ports of the running switch as places to play to: the daemon is asked for them, and gives a socket for their frames.

import { realpathSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import type { PlayEvent } from '../api/schemas.js'
import type { SwitchClient } from '../api/switch-client.js'
import { SnapswitchError } from '../errors/errors.js'
import { libc } from '../linux/libc.js'
import { connectForPackets } from '../linux/unix-packets.js'
import type { SwitchPorts } from './outlets.js'

/** A play may go on for weeks; the longest that a timer can be set to. */
const PLAY_MS = 2 ** 31 - 1
/** What may wait for the switch: some thousand small frames, or 60 of the longest. */
const WAITING_BYTES = 4 * 1024 * 1024
const OVER_MS = 2000

export interface PlayOverSwitch extends SwitchPorts {
  /** Frames that the switch has taken, and messages that it refused (a port has gone); null: it cannot be known. */
  close(): Promise<{ readonly frames: number; readonly refused: number } | null>
}

/**
 * `socket`: where the daemon answers. The play's socket lies beside it; what path that has for the daemon, which may be
 * in another mount namespace, does not matter.
 * @throws SnapswitchError PORT_UNKNOWN, REQUEST_INVALID, SOCKET_UNREACHABLE, DEVICE_BUSY, …
 */
export async function openSwitchPorts(
  client: SwitchClient,
  socket: string,
  names: readonly string[],
): Promise<PlayOverSwitch> {
  const abort = new AbortController()
  const events = client.play({ ports: [...names] }, { deadlineMs: PLAY_MS, signal: abort.signal })
  const { value: ready } = await events.next()
  if (ready?.type !== 'ready') throw failureOf(ready ?? null)
  let fd: number
  try {
    fd = connectForPackets(join(dirname(realpathSync(socket)), basename(ready.socket)), WAITING_BYTES)
  } catch (error) {
    // Else the call waits on, and the process with it.
    await events.return()
    throw error
  }
  const ports = new Map(ready.ports.map(({ name, mtu }, number) => [name, { number, mtu }]))
  const last = lastOf(events)
  let isOpen = true
  return {
    fd,
    ports,
    close: async () => {
      // All that was sent is read before the end is seen.
      if (isOpen) libc().close(fd)
      isOpen = false
      const timer = setTimeout(() => abort.abort(), OVER_MS)
      const event = await last
      clearTimeout(timer)
      if (event?.type === 'failed') throw failureOf(event)
      return event?.type === 'over' ? event : null
    },
  }
}

async function lastOf(events: AsyncGenerator<PlayEvent, void, undefined>): Promise<PlayEvent | null> {
  let last: PlayEvent | null = null
  try {
    for await (const event of events) last = event
  } catch {
    // The daemon has gone: sending says so.
  }
  return last
}

function failureOf(event: PlayEvent | null): SnapswitchError {
  if (event?.type === 'failed') return SnapswitchError.fromReport(event.error)
  return new SnapswitchError('SOCKET_UNREACHABLE', 'the switch broke off', 'See the daemon’s log; play it again.')
}
