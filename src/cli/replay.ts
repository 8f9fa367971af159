// `snapswitch replay`: a recorded run once more, on the time that it has in the file; no daemon is asked.

import { createInterface } from 'node:readline/promises'
import { type Command, InvalidArgumentError } from 'commander'
import type { RunDifference } from '../../switch/recording/compare.js'
import type { Replay } from '../../switch/recording/replay.js'
import { SnapswitchError } from '../errors/errors.js'
import { whole } from './capture-options.js'
import { withJson } from './options.js'
import { printJson, type Terminal } from './output.js'
import { SentFrames } from './replay-output.js'
import { printSummary, summaryOf } from './replay-summary.js'
import { printView } from './replay-view.js'

interface ReplayOptions {
  readonly until?: Until
  readonly state?: boolean
  readonly step?: boolean
  readonly from?: Until
  readonly to?: string
  readonly diff?: string
  readonly config?: string
  readonly most?: number
  readonly json?: boolean
}

/** A time from the first input on, an input or a frame. */
type Until = { readonly kind: 'ms' | 'input' | 'frame'; readonly value: number }

const MOST = 10

export function addReplayCommand(program: Command, terminal: Terminal, setCode: (code: number) => void): void {
  const command = withJson(program.command('replay'))
    .description('replay a recorded run: the same switch, the same time, the same result, which is proved')
    .argument('<file>', 'what snapswitch record has written, or a gzip of it; -: standard input')
    .option('--until <point>', 'end after this time of the run (1.5, 20ms, 2m), or at input:N or frame:N', parsePoint)
    .option('--state', 'show addresses, epochs, gates and queues at the end')
    .option('--step', 'input by input: what enters, and what becomes of it at each port')
    .option('--from <point>', 'of --step: the first one that is shown', parsePoint)
    .option('--to <file>', 'write what each port would have sent, as pcapng')
    .option('--diff <other>', 'compare with another recording: the first differences, explained')
    .option('--config <file>', 'compare with what this configuration of the switch would have done')
    .option('--most <n>', 'of --diff and --config: differences that are explained; default: 10', whole(1, 10_000))
    .addHelpText(
      'after',
      `
Exit codes: 0 the result is the same as when it was recorded; 1 it is not, or the file is damaged, or --diff has found
a difference; 2 wrong usage.

  snapswitch replay run.pcapng                                 proves it, in a summary
  snapswitch replay run.pcapng --until 3.2 --state             the switch at that time
  snapswitch replay run.pcapng --step --from frame:1700        from that frame on, one by one
  snapswitch replay run.pcapng --config changed.yaml           which frames fare differently`,
    )
  command.action(async (file: string, options: ReplayOptions) => {
    const usage = wrongCombination(options)
    if (usage !== null) return command.error(`error: ${usage}`, { exitCode: 2 })
    const recording = (await import('../../switch/recording/library.js')) as Library
    if (options.diff !== undefined || options.config !== undefined)
      return compare(recording, terminal, file, options, setCode)
    if (options.step === true) return step(recording, terminal, file, options)
    return replay(recording, terminal, file, options, setCode)
  })
}

/** Loaded when it is needed: the other commands start faster. */
type Library = typeof import('../../switch/recording/library.js')

function wrongCombination({ diff, config, step, to, from, most, state }: ReplayOptions): string | null {
  const chosen = [diff, config, to, step || undefined].filter((one) => one !== undefined).length
  if (chosen > 1) return '--step, --to, --diff and --config exclude one another'
  if (from !== undefined && step !== true) return '--from is for --step'
  if (most !== undefined && diff === undefined && config === undefined) return '--most is for --diff and --config'
  if (state === true && (diff !== undefined || config !== undefined)) return '--state is of one run'
  return null
}

function parsePoint(text: string): Until {
  const counted = /^(input|frame):(\d{1,15})$/.exec(text)
  if (counted !== null) return { kind: counted[1] as 'input' | 'frame', value: Number(counted[2]) }
  const timed = /^(\d{1,12}(?:\.\d+)?)(ms|s|m|h)?$/.exec(text)
  if (timed === null) throw new InvalidArgumentError('Give a time such as 1.5, 20ms or 2m, or input:N or frame:N.')
  const unit = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }[timed[2] ?? 's'] as number
  return { kind: 'ms', value: Number(timed[1]) * unit }
}

/** Performs inputs as long as none is past the point; `each` after each one. */
function runTo(replay: Replay, until: Until | undefined, each: () => void = () => undefined): void {
  const startMs = replay.nextMs()
  while (!isPast(replay, until, startMs) && replay.step()) each()
}

function isPast(replay: Replay, until: Until | undefined, startMs: number): boolean {
  if (until === undefined) return false
  if (until.kind === 'ms') return replay.nextMs() > startMs + until.value
  return until.kind === 'input' ? replay.input.number >= until.value : replay.frames > until.value
}

function replay(
  { Replay, piecesOf, viewOf }: Library,
  terminal: Terminal,
  file: string,
  options: ReplayOptions,
  setCode: (code: number) => void,
): void {
  const writing = options.to === undefined ? null : new SentFrames(options.to)
  try {
    const replay = new Replay(piecesOf(file), writing ?? {})
    if (writing !== null) writing.nameOf = (port) => replay.portNames.get(port) ?? `port ${port}`
    const startMs = replay.nextMs()
    const begun = performance.now()
    runTo(replay, options.until)
    const tookMs = performance.now() - begun
    writing?.close()
    const summary = summaryOf(replay, startMs, tookMs)
    const view = options.state === true ? viewOf(replay) : null
    if (!summary.same) setCode(1)
    if (options.json === true) {
      printJson(terminal, view === null ? summary : { ...summary, state: view })
      return
    }
    printSummary(terminal, summary)
    if (view !== null) printView(terminal, view)
  } finally {
    writing?.close()
  }
}

async function step(
  { Replay, piecesOf, Narrator, viewOf }: Library,
  terminal: Terminal,
  file: string,
  options: ReplayOptions,
): Promise<void> {
  const narrator = new Narrator((port) => replay.portNames.get(port) ?? `port ${port}`)
  const replay: Replay = new Replay(piecesOf(file), narrator)
  const startMs = replay.nextMs()
  const { from, until } = options
  if (from !== undefined) {
    const before = from.kind === 'ms' ? { ...from, value: from.value - 1e-6 } : { ...from, value: from.value - 1 }
    runTo(replay, before)
  }
  const next = (): boolean => {
    if (isPast(replay, until, startMs) || !replay.step()) return false
    terminal.out(`${narrator.lines.join('\n')}\n`)
    return true
  }
  const isAsked = process.stdin.isTTY === true && process.stdout.isTTY === true && options.json !== true
  if (!isAsked) {
    while (next()) {}
    if (options.state === true) printView(terminal, viewOf(replay))
    return
  }
  const lines = createInterface({ input: process.stdin, output: process.stdout })
  try {
    for (let asked = ''; ; asked = (await lines.question('next, a number of them, s: state, q: quit> ')).trim()) {
      if (asked === 'q') return
      if (asked === 's') {
        printView(terminal, viewOf(replay))
        continue
      }
      const count = asked === '' ? 1 : Number(asked)
      for (let i = 0; i < count; i++) if (!next()) return
    }
  } finally {
    lines.close()
  }
}

function compare(
  { compareRuns, piecesOf, changesOf, Replay }: Library,
  terminal: Terminal,
  file: string,
  options: ReplayOptions,
  setCode: (code: number) => void,
): void {
  const { diff = file, config, most = MOST, until } = options
  if (until !== undefined && until.kind !== 'ms')
    throw new SnapswitchError('REQUEST_INVALID', '--until needs a time here', 'Give it as 1.5 or 20ms.')
  const first = new Replay(piecesOf(file))
  const ports = first.forwarder.ports.filter(({ peer }) => peer === null).map(({ spec }) => spec)
  const changes = config === undefined ? null : changesOf(config, first.head.options.network, ports)
  const untilMs = until === undefined ? Number.POSITIVE_INFINITY : first.nextMs() + until.value
  const found = compareRuns({ one: () => piecesOf(file), other: () => piecesOf(diff), changes }, most, untilMs)
  if (config === undefined && found.differences.length > 0) setCode(1)
  const changed = changes?.told ?? []
  if (options.json === true) {
    printJson(terminal, config === undefined ? found : { ...found, changed })
    return
  }
  for (const line of changed) terminal.out(`${line}\n`)
  const names = config === undefined ? ([file, diff] as const) : (['as recorded', config] as const)
  for (const difference of found.differences) terminal.out(differenceInWords(difference, names))
  const same =
    found.different === 0 ? 'all of them with the same result' : `${found.different} of them with another result`
  terminal.out(`${found.inputs} inputs compared, ${same}\n`)
}

function differenceInWords({ input, what, one, other }: RunDifference, names: readonly [string, string]): string {
  const side = (name: string, lines: readonly string[]) =>
    `  ${name}:\n${lines.length === 0 ? '    nothing\n' : lines.map((line) => `    ${line}\n`).join('')}`
  return `input ${input}: ${what}\n${side(names[0], one)}${side(names[1], other)}`
}
