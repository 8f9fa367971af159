// `snapswitch replay --step`: a run input by input. On a terminal each step is asked for; Ctrl-C ends a long one.

import { once } from 'node:events'
import { createInterface } from 'node:readline'
import type { Narrator } from '../../switch/recording/narrator.js'
import type { Replay } from '../../switch/recording/replay.js'
import type { Terminal } from './output.js'
import { isPast, type Point, parsePoint, runBefore } from './replay-points.js'

const HELP = `Enter: the next input     5: the next five     frame:1700, input:20, 1.5s: that one
s: the state of the switch     q: enough
`
/** Inputs between two looks at whether Ctrl-C was pressed. */
const SLICE = 64

export interface Stepping {
  readonly terminal: Terminal
  readonly replay: Replay
  /** Attached to the replay. */
  readonly narrator: Narrator
  readonly from: Point | undefined
  readonly until: Point | undefined
  /** Steps are asked for. */
  readonly isAsked: boolean
  showState(): void
}

/** Returns at the end of the run, or when the person has enough. */
export async function stepThrough(stepping: Stepping): Promise<void> {
  const { replay, terminal, narrator, from, until, isAsked } = stepping
  const startMs = replay.nextMs()
  if (from !== undefined) runBefore(replay, from, startMs)
  const next = (): boolean => {
    if (isPast(replay, until, startMs) || !replay.step()) return false
    terminal.out(`${narrator.lines.join('\n')}\n`)
    return true
  }
  if (isAsked) return ask(stepping, startMs, next)
  while (next()) {}
}

async function ask(stepping: Stepping, startMs: number, next: () => boolean): Promise<void> {
  const { terminal, showState } = stepping
  // Not by readline's own editing: with it, Ctrl-C and Ctrl-D come as keys, and only between two steps.
  const lines = createInterface({ input: process.stdin, terminal: false })
  const prompt = () => terminal.out('step, h: help> ')
  terminal.out(HELP)
  if (!next()) return end(terminal, lines)
  prompt()
  for await (const line of lines) {
    const asked = line.trim()
    if (asked === 'q') break
    if (asked === 's') showState()
    else if (asked === 'h' || asked === '?') terminal.out(HELP)
    else if (!(await go(stepping, asked, startMs, next))) return end(terminal, lines)
    prompt()
  }
  lines.close()
}

function end(terminal: Terminal, lines: { close(): void }): void {
  terminal.out('the end\n')
  lines.close()
}

/** False: at the end. */
async function go(
  { terminal, replay }: Stepping,
  asked: string,
  startMs: number,
  next: () => boolean,
): Promise<boolean> {
  if (/^\d*$/.test(asked)) return several(asked === '' ? 1 : Number(asked), next)
  const point = pointOf(asked)
  if (point === null) {
    terminal.out(`${asked} is nothing that can be done here\n${HELP}`)
    return true
  }
  const before = replay.input.number
  const isBehind = point.kind === 'ms' ? replay.input.now > startMs + point.value : isPast(replay, point, startMs)
  if (isBehind) {
    terminal.out(`it is behind: a run goes forward only, and is at input ${before}. --from begins with it\n`)
    return true
  }
  runBefore(replay, point, startMs)
  return next()
}

function pointOf(text: string): Point | null {
  try {
    return parsePoint(text)
  } catch {
    return null
  }
}

async function several(count: number, next: () => boolean): Promise<boolean> {
  if (count === 1) return next()
  let isEnough = false
  const enough = () => {
    isEnough = true
  }
  process.on('SIGINT', enough)
  try {
    for (let i = 0; i < count && !isEnough; i++) {
      if (!next()) return false
      if (i % SLICE === SLICE - 1) await breathe()
    }
    return true
  } finally {
    process.off('SIGINT', enough)
  }
}

/** What is printed goes out, and signals come in. */
async function breathe(): Promise<void> {
  if (process.stdout.writableNeedDrain) await once(process.stdout, 'drain')
  await new Promise((resolve) => setImmediate(resolve))
}
