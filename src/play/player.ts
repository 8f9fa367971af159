// A play from its first frame to its report: one thread reads ahead, another sends.

import { Worker } from 'node:worker_threads'
import { SnapswitchError } from '../errors/errors.js'
import { mapArena } from '../linux/arena.js'
import { errnoName } from '../linux/libc.js'
import { Feeder, type FeederOptions, type Skipped } from './feeder.js'
import { Count, Figures, type FiguresHandle, figuresHandle, MOST_TARGETS } from './figures.js'
import { RingWriter, ringHandle, Word } from './frame-ring.js'
import type { Outlet } from './outlets.js'
import type { SenderInput } from './sender.js'

const MIB = 1024 * 1024
/** The play begins when so much of what may be read ahead is there, or all has been read. */
const FIRST_FILL = 0.9
/** Nor is more waited for where nothing has come for so long: a pipe from a capture that goes on. */
const QUIET_MS = 250
const FILL_LOOK_MS = 2
/** The sending thread looks up after each batch; what it waits for at most is a socket that takes nothing. */
const STOP_MS = 1000
const STOP_FEEDER_MS = 50

export interface PlayOptions extends Omit<FeederOptions, 'outlets'> {
  readonly outlets: readonly Outlet[]
  /** Nothing is sent. */
  readonly dryRun: boolean
  /** The sending thread runs before everything ordinary. */
  readonly realtime: boolean
  /** A capture that turns out to be damaged is played as far as it goes, and that is no error. */
  readonly allowDamage: boolean
  /** So much of the capture is read ahead, and before the first frame is sent. */
  readonly readAheadMib: number
  /** Milliseconds; null: until it ends by itself. */
  readonly durationMs: number | null
}

export type PlayEnd = 'complete' | 'limit' | 'interrupted'

/** Times in microseconds: how long after it was due a frame was handed to the kernel. */
export interface Lateness {
  readonly p50: number
  readonly p99: number
  readonly max: number
}

export interface PlayReport {
  readonly end: PlayEnd
  readonly packets: number
  readonly frames: number
  readonly bytes: number
  readonly passes: number
  readonly seconds: number
  readonly framesPerSecond: number
  /** Null: frames were not waited for. */
  readonly late: Lateness | null
  readonly skipped: Skipped
  /** Frames that the kernel or the switch did not take. */
  readonly refused: Refused
  readonly pieces: number
  /** Packets that were captured out of order; nanoseconds of silence that were left out. */
  readonly backward: number
  readonly cutMs: number
  /** Times that a socket had no room; that the capture was not read in time. */
  readonly waits: number
  readonly starved: number
  readonly realtime: boolean
  /** Of ports: what the switch took, and what it refused since a port was gone. */
  readonly switch?: { readonly frames: number; readonly refused: number }
  readonly targets: readonly { readonly kind: Outlet['kind']; readonly name: string; readonly frames: number }[]
}

export interface Refused {
  readonly tooLong: number
  readonly full: number
  readonly malformed: number
  readonly failed: number
}

/** What is wrong with a play that did something all the same. */
export class PlayError extends SnapswitchError {
  readonly played: PlayReport

  constructor(error: SnapswitchError, played: PlayReport) {
    super(error.code, error.message, error.action, error.cause)
    this.played = played
  }
}

/**
 * `interrupt` ends it at once.
 * @throws SnapswitchError what is wrong with the capture, before anything was sent; PlayError after that
 */
export async function play(options: PlayOptions, interrupt: AbortSignal): Promise<PlayReport> {
  const { outlets } = options
  if (outlets.length > MOST_TARGETS) throw tooMany()
  const handle = ringHandle(mapArena(options.readAheadMib * MIB))
  const control = new Int32Array(handle.control)
  const figures = figuresHandle()
  let interrupted = false
  const stop = () => {
    for (const word of [Word.STOP, Word.GO]) Atomics.store(control, word, 1)
    for (const word of [Word.STOP, Word.GO]) Atomics.notify(control, word)
  }
  const onInterrupt = () => {
    interrupted = true
    stop()
  }
  if (interrupt.aborted) onInterrupt()
  interrupt.addEventListener('abort', onInterrupt, { once: true })
  const isStopped = () => Atomics.load(control, Word.STOP) === 1
  const ring = new RingWriter(handle)
  const feeder = new Feeder(options, ring, isStopped)
  const thread = options.dryRun ? null : new SendingThread({ ring: handle, figures, ...socketsOf(options) })
  let timer: NodeJS.Timeout | undefined
  try {
    const fed = thread === null ? drained(feeder, control) : feeder.run()
    if (thread !== null) {
      let isRead = false
      void fed.then(() => {
        isRead = true
      })
      await thread.ready
      let last = 0
      let movedAt = performance.now()
      while (!isRead && !isStopped() && ring.filled < FIRST_FILL) {
        await wait(FILL_LOOK_MS)
        if (feeder.frames !== last) movedAt = performance.now()
        else if (last > 0 && performance.now() - movedAt > QUIET_MS) break
        last = feeder.frames
      }
      refuseDamage(feeder, options)
      if (options.durationMs !== null) timer = setTimeout(stop, options.durationMs)
      Atomics.store(control, Word.GO, 1)
      Atomics.notify(control, Word.GO)
      await thread.ended(() => isStopped())
      // It may have ended by itself: nothing takes frames out any more.
      stop()
    }
    // A pipe that says nothing holds it up.
    await (isStopped() ? Promise.race([fed, wait(STOP_FEEDER_MS)]) : fed)
  } finally {
    clearTimeout(timer)
    interrupt.removeEventListener('abort', onInterrupt)
    stop()
    await thread?.end()
  }
  const report = reportOf(options, feeder, figures, thread, interrupted)
  const { damage } = feeder
  const { counts } = new Figures(figures)
  if (counts[Count.ERRNO] !== 0) throw new PlayError(gone(counts[Count.ERRNO]), report)
  if (damage !== null && !(options.allowDamage && damage.code === 'TRACE_INVALID')) throw new PlayError(damage, report)
  return report
}

function socketsOf({ outlets, pace, realtime }: PlayOptions): Omit<ThreadInput, 'ring' | 'figures'> {
  const sockets = outlets.map(({ fd, ring, kind }) => ({
    fd,
    ring,
    kind: kind === 'port' ? ('switch' as const) : kind,
  }))
  return { sockets, top: pace.kind === 'top', realtime }
}

type ThreadInput = SenderInput & { readonly realtime: boolean }

class SendingThread {
  readonly ready: Promise<void>
  realtime = false
  readonly #worker: Worker
  readonly #exit: Promise<void>
  #failure: Error | null = null

  constructor(input: ThreadInput) {
    const worker = new Worker(new URL('./sender-worker.js', import.meta.url), { workerData: input, name: 'play' })
    this.#worker = worker
    worker.on('error', (error) => {
      this.#failure = error instanceof Error ? error : new Error(String(error))
    })
    this.#exit = new Promise((resolve) => worker.once('exit', () => resolve()))
    const said = new Promise<void>((resolve) =>
      worker.once('message', (message: { realtime: boolean }) => {
        this.realtime = message.realtime
        resolve()
      }),
    )
    this.ready = Promise.race([said, this.#exit])
  }

  /** @throws Error what it has failed by */
  async ended(isStopped: () => boolean): Promise<void> {
    let deadline = Number.POSITIVE_INFINITY
    let over = false
    void this.#exit.then(() => {
      over = true
    })
    while (!over && performance.now() < deadline) {
      await Promise.race([this.#exit, wait(50)])
      if (deadline === Number.POSITIVE_INFINITY && isStopped()) deadline = performance.now() + STOP_MS
    }
    if (this.#failure !== null) throw this.#failure
  }

  async end(): Promise<void> {
    await this.#worker.terminate()
  }
}

const wait = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

/** Takes the frames out of the ring as a sender would, that takes no time. */
async function drained(feeder: Feeder, control: Int32Array): Promise<void> {
  const timer = setInterval(() => Atomics.store(control, Word.TAIL, Atomics.load(control, Word.HEAD)), 1)
  try {
    await feeder.run()
  } finally {
    clearInterval(timer)
  }
}

/** Of a capture that was found to be damaged before anything was sent, nothing is sent. */
function refuseDamage({ damage }: Feeder, { allowDamage }: PlayOptions): void {
  if (damage === null || (allowDamage && damage.code === 'TRACE_INVALID')) return
  const action =
    damage.code === 'TRACE_INVALID' ? `${damage.action} \`--allow-truncated\` plays what is whole.` : damage.action
  throw new SnapswitchError(damage.code, damage.message, action, damage)
}

function reportOf(
  options: PlayOptions,
  feeder: Feeder,
  handle: FiguresHandle,
  thread: SendingThread | null,
  interrupted: boolean,
): PlayReport {
  const figures = new Figures(handle)
  const { counts } = figures
  const frames = thread === null ? feeder.frames : counts[Count.FRAMES]
  const seconds =
    frames === 0 || thread === null ? 0 : Math.max(0, counts[Count.LAST_MS] - counts[Count.BEGAN_MS]) / 1000
  const us = (share: number) => Math.round((figures.lateAt(share) ?? 0) / 100) / 10
  const isLimited = feeder.frames >= options.limit || (feeder.passes < options.passes && feeder.damage === null)
  return {
    end: interrupted ? 'interrupted' : isLimited ? 'limit' : 'complete',
    packets: feeder.packets,
    frames,
    bytes: counts[Count.BYTES],
    passes: feeder.passes,
    seconds,
    framesPerSecond: seconds === 0 ? 0 : Math.round(frames / seconds),
    late: figures.lateAt(1) === null ? null : { p50: us(0.5), p99: us(0.99), max: us(1) },
    skipped: feeder.skipped,
    refused: {
      tooLong: counts[Count.TOO_LONG],
      full: counts[Count.FULL],
      malformed: counts[Count.MALFORMED],
      failed: counts[Count.FAILED],
    },
    pieces: feeder.pieces,
    backward: feeder.schedule.backward,
    cutMs: feeder.schedule.cutNs / 1e6,
    waits: counts[Count.WAITS],
    starved: counts[Count.STARVED],
    realtime: thread?.realtime ?? false,
    targets: options.outlets.map(({ kind, name }, i) => ({ kind, name, frames: counts[Count.TARGETS + i] })),
  }
}

function gone(error: number): SnapswitchError {
  return new SnapswitchError(
    'DEVICE_DOWN',
    `a device that was played to went away: ${errnoName(error)}`,
    'Look whether it is there and up (`ip link`); of a switch, whether it runs. Then play again.',
  )
}

function tooMany(): SnapswitchError {
  return new SnapswitchError('REQUEST_INVALID', `at most ${MOST_TARGETS} places can be played to`, 'Map to fewer.')
}
