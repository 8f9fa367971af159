// Progress of a long request on stderr: on a terminal one line that changes, else a line for every step.

import type { Progress } from '../api/schemas.js'
import { formatBytes, formatDuration, type Terminal } from './output.js'

type StepProgress = Extract<Progress, { type: 'step' }>

export interface ProgressView {
  show(step: StepProgress): void
  /** Clears the changing line; the result follows. */
  end(): void
}

export function progressView(terminal: Terminal, options: { readonly quiet: boolean }): ProgressView {
  if (options.quiet) return { show: () => {}, end: () => {} }
  return terminal.live ? liveView(terminal) : plainView(terminal)
}

/** `host a vm1: paused`. */
export function describeStep(step: StepProgress, copying?: CopyRate): string {
  const who = [step.host === undefined ? '' : `host ${step.host}`, step.vm ?? '']
    .filter((part) => part !== '')
    .join(' ')
  const text = step.copied === undefined ? step.text : `${step.text}: ${describeCopied(step.copied, copying)}`
  return who === '' ? text : `${who}: ${text}`
}

type Copied = NonNullable<StepProgress['copied']>

/** `1.2 GiB of 4.0 GiB, 310.0 MiB/s, 9s left`. */
function describeCopied({ bytes, ofBytes, files, ofFiles }: Copied, rate: CopyRate | undefined): string {
  const perSecond = rate?.perSecond ?? null
  const left = ofBytes - bytes
  return [
    `${formatBytes(bytes)} of ${formatBytes(ofBytes)}`,
    ...(perSecond === null ? [] : [`${formatBytes(Math.round(perSecond))}/s`]),
    ...(perSecond === null || left <= 0 ? [] : [`${formatDuration(Math.ceil(left / perSecond))} left`]),
    `${files} of ${ofFiles} ${ofFiles === 1 ? 'file' : 'files'} done`,
  ].join(', ')
}

/** The time over which a rate is taken: short enough to notice a change, long enough not to jump. */
const RATE_US = 5e6

/** Bytes per second over the last seconds. */
export class CopyRate {
  readonly #seen: { readonly atUs: number; readonly bytes: number }[] = []

  note(atUs: number, bytes: number): void {
    this.#seen.push({ atUs, bytes })
    while (this.#seen.length > 2 && this.#seen[1]!.atUs < atUs - RATE_US) this.#seen.shift()
  }

  /** null before there are two looks, and when nothing moves. */
  get perSecond(): number | null {
    const [first, last] = [this.#seen[0], this.#seen.at(-1)]
    if (first === undefined || last === undefined || last.atUs <= first.atUs) return null
    const rate = ((last.bytes - first.bytes) * 1e6) / (last.atUs - first.atUs)
    return rate > 0 ? rate : null
  }
}

/** How often a log gets a line about copying. */
const COPYING_LINE_US = 5e6

function plainView(terminal: Terminal): ProgressView {
  const rate = new CopyRate()
  let firstUs: number | null = null
  let copyingUs = Number.NEGATIVE_INFINITY
  return {
    show: (step) => {
      firstUs ??= step.atUs
      const { copied } = step
      if (copied !== undefined) {
        rate.note(step.atUs, copied.bytes)
        // Steps of copying come several times a second: enough for a line that changes, too many for a log.
        if (step.atUs - copyingUs < COPYING_LINE_US && copied.files < copied.ofFiles) return
        copyingUs = step.atUs
      }
      const seconds = ((step.atUs - firstUs) / 1e6).toFixed(3).padStart(7)
      terminal.err(`${seconds} s  ${describeStep(step, rate)}\n`)
    },
    end: () => {},
  }
}

function liveView(terminal: Terminal): ProgressView {
  const eraseLine = '\r\u001b[K'
  const spinner = ['|', '/', '-', '\\']
  const rate = new CopyRate()
  let text = ''
  let turn = 0
  const draw = () => {
    turn = (turn + 1) % spinner.length
    terminal.err(`${eraseLine}${`${spinner[turn]} ${text}`.slice(0, terminal.columns - 1)}`)
  }
  const timer = setInterval(draw, 120)
  timer.unref()
  return {
    show: (step) => {
      if (step.copied !== undefined) rate.note(step.atUs, step.copied.bytes)
      text = describeStep(step, rate)
      draw()
    },
    end: () => {
      clearInterval(timer)
      terminal.err(eraseLine)
    },
  }
}
