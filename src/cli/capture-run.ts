// A capture from its beginning to its end, as the command and Wireshark's extcap both run it: it ends by count or time,
// by Ctrl-C, when whoever reads has gone, or when the switch ends it.

import type { Readable } from 'node:stream'
import type { CaptureRequest } from '../api/schemas.js'
import { SwitchClient } from '../api/switch-client.js'
import { type Output, OutputClosed } from '../capture/files.js'
import type { PacketWords } from '../capture/pcapng.js'
import { CaptureReceiver, type CaptureSummary } from '../capture/receiver.js'
import type { CapturedPort } from '../capture/stream.js'
import { SnapswitchError } from '../errors/errors.js'
import { Ending } from './ending.js'

const CALL_MS = 10_000
/** At the end, a reader that takes nothing for so long is not waited for, nor is a switch that says nothing. */
const STILL_MS = 3_000

export interface CaptureRun {
  readonly socket: string
  readonly network: string
  readonly request: CaptureRequest
  readonly count?: number | undefined
  readonly ms?: number | undefined
  readonly fileBytes?: number | undefined
  readonly fileMs?: number | undefined
  /** The n-th file; left out: packets are shown. */
  output?: ((number: number, signal: AbortSignal) => Promise<Output>) | undefined
  show?: ((port: CapturedPort, words: PacketWords, content: Buffer) => void) | undefined
  /** The switch has begun. */
  begun(): void
}

/** Throws what the switch refuses, OUTPUT_FAILED, SOCKET_UNREACHABLE when it broke off. */
export async function runCapture(run: CaptureRun): Promise<CaptureSummary> {
  const client = new SwitchClient(run.socket)
  const waiting = new AbortController()
  let id: number | null = null
  let stream: Readable | null = null
  const { output } = run
  const receiver = new CaptureReceiver({
    ...run,
    now: () => performance.now(),
    output: output === undefined ? undefined : (number) => output(number, waiting.signal),
  })
  const ending = new Ending({
    stillMs: STILL_MS,
    tell: () => (id === null ? null : client.endCapture(id, { deadlineMs: CALL_MS })),
    isAtDisk: () => receiver.isAtDisk,
    giveUp: () => {
      receiver.giveUp()
      stream?.destroy()
    },
  })
  receiver.onSign = () => ending.sign()
  const end = () => {
    waiting.abort()
    ending.begin()
  }
  // A second Ctrl-C ends the command as it would any other.
  process.once('SIGINT', end)
  process.once('SIGTERM', end)
  let timer: NodeJS.Timeout | undefined
  try {
    stream = await client.capture(run.network, run.request, { deadlineMs: CALL_MS })
    receiver.onHead = (head) => {
      id = head.id
      run.begun()
      if (run.ms !== undefined) timer = setTimeout(end, run.ms)
    }
    receiver.onEnough = end
    try {
      const summary = await receiver.run(stream)
      if (!ending.hasBegun && !summary.complete) throw brokenOff()
      return summary
    } catch (error) {
      if (!(error instanceof OutputClosed)) throw error
      return receiver.summary()
    }
  } finally {
    stream?.on('error', () => undefined).destroy()
    clearTimeout(timer)
    ending.over()
    process.off('SIGINT', end)
    process.off('SIGTERM', end)
    await client.close()
  }
}

function brokenOff(): SnapswitchError {
  return new SnapswitchError(
    'SOCKET_UNREACHABLE',
    'the switch has ended without a word, and the capture with it',
    'What was written so far is whole. See the daemon’s log.',
  )
}
