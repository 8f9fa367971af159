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
  return who === '' ? step.text : `${who}: ${step.text}`
}

function plainView(terminal: Terminal): ProgressView {
  let firstUs: number | null = null
  return {
    show: (step) => {
      firstUs ??= step.atUs
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
