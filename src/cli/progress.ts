// Progress of a long request on stderr: on a terminal one line that changes, else a line for every step.

import type { Progress } from '../api/schemas.js'
import type { Terminal } from './output.js'

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
export function describeStep(step: StepProgress): string {
  const who = [step.host === undefined ? '' : `host ${step.host}`, step.vm ?? '']
    .filter((part) => part !== '')
    .join(' ')
  const text = step.copied === undefined ? step.text : `${step.text}: ${describeCopied(step.copied)}`
  return who === '' ? text : `${who}: ${text}`
}

function describeCopied({ bytes, ofBytes, files, ofFiles }: NonNullable<StepProgress['copied']>): string {
  return `${files} of ${ofFiles} done, ${bytes} of ${ofBytes} bytes`
}

function plainView(terminal: Terminal): ProgressView {
  let firstUs: number | null = null
  let copyingUs = Number.NEGATIVE_INFINITY
  return {
    show: (step) => {
      firstUs ??= step.atUs
      // Steps of copying come several times a second: enough for a line that changes, too many for a log.
      if (step.copied !== undefined) {
        if (step.atUs - copyingUs < 5e6 && step.copied.files < step.copied.ofFiles) return
        copyingUs = step.atUs
      }
      const seconds = ((step.atUs - firstUs) / 1e6).toFixed(3).padStart(7)
      terminal.err(`${seconds} s  ${describeStep(step)}\n`)
    },
    end: () => {},
  }
}

function liveView(terminal: Terminal): ProgressView {
  const eraseLine = '\r\u001b[K'
  const spinner = ['|', '/', '-', '\\']
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
      text = describeStep(step)
      draw()
    },
    end: () => {
      clearInterval(timer)
      terminal.err(eraseLine)
    },
  }
}
