// A call that takes as long as a host's disks do. Half a tunnel says nothing for hours: meanwhile the host is asked
// something that it answers at once.

import { asSnapswitchError, SnapswitchError } from '../src/errors/errors.js'
import type { Clock } from '../src/runtime/clock.js'
import type { Network } from './network.js'

const askEveryMs = 30_000
const askMs = 10_000
/** So often, one after the other, a host may not answer. */
const missesLimit = 3

/** The answer did not come, whatever the host has done. */
export function isSilence(thrown: unknown): boolean {
  const { code } = asSnapswitchError(thrown)
  return code === 'SOCKET_UNREACHABLE' || code === 'REQUEST_TIMEOUT'
}

export interface Attention {
  readonly clock: Clock
  /** Calls it off: its reason is thrown then. */
  readonly signal: AbortSignal
  /** A full sentence: what to do when the host that had fallen silent answers again. */
  readonly afterwards: string
}

/** Throws SOCKET_UNREACHABLE when the host has fallen silent, and whatever the call does. */
export async function attended<T>(
  { agents }: Pick<Network, 'agents'>,
  host: string,
  { clock, signal, afterwards }: Attention,
  call: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  if (signal.aborted) throw signal.reason
  const calledOff = new AbortController()
  const callOff = () => calledOff.abort()
  signal.addEventListener('abort', callOff, { once: true })
  let misses = 0
  const ask = async () => {
    const isThere = await agents.ports(host, { timeoutMs: askMs, signal: calledOff.signal }).then(
      () => true,
      (thrown) => !isSilence(thrown),
    )
    if (calledOff.signal.aborted) return
    misses = isThere ? 0 : misses + 1
    if (misses < missesLimit) stopAsking = clock.after(askEveryMs, () => void ask())
    else callOff()
  }
  let stopAsking = clock.after(askEveryMs, () => void ask())
  try {
    return await call(calledOff.signal)
  } catch (thrown) {
    if (signal.aborted) throw signal.reason
    if (misses < missesLimit) throw thrown
    const action = `Look at that host and at the way to it (an ssh tunnel may be half open). ${afterwards}`
    throw new SnapswitchError('SOCKET_UNREACHABLE', 'its switch has fallen silent', action, thrown)
  } finally {
    stopAsking()
    callOff()
    signal.removeEventListener('abort', callOff)
  }
}
