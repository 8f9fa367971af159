// `snapswitch replay`: a recorded run once more, on the time that it has in the file; no daemon is asked.

import { statSync } from 'node:fs'
import type { Command } from 'commander'
import type { RunDifference } from '../../switch/recording/compare.js'
import type { Replay, ReplayObserver } from '../../switch/recording/replay.js'
import { SnapswitchError } from '../errors/errors.js'
import { whole } from './capture-options.js'
import { withJson } from './options.js'
import { printJson, type Terminal } from './output.js'
import { SentFrames } from './replay-output.js'
import { type Point, parsePoint, runTo } from './replay-points.js'
import { stepThrough } from './replay-step.js'
import { printSummary, summaryOf } from './replay-summary.js'
import { printView } from './replay-view.js'

interface ReplayOptions {
  readonly until?: Point
  readonly state?: boolean
  readonly step?: boolean
  readonly from?: Point
  readonly to?: string
  readonly diff?: string
  readonly config?: string
  readonly most?: number
  readonly json?: boolean
}

const MOST = 10

export function addReplayCommand(program: Command, terminal: Terminal, setCode: (code: number) => void): void {
  const command = withJson(program.command('replay'))
    .description('replay a recorded run: the same switch, the same time, the same result, which is proved')
    .argument('<file>', 'what snapswitch record has written, also compressed with gzip or zstd; -: standard input')
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
    const usage = wrongCombination(file, options)
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

function wrongCombination(file: string, options: ReplayOptions): string | null {
  const { diff, config, step, to, from, most, state } = options
  const chosen = [diff, config, to, step || undefined].filter((one) => one !== undefined).length
  if (chosen > 1) return '--step, --to, --diff and --config exclude one another'
  if (from !== undefined && step !== true) return '--from is for --step'
  if (most !== undefined && diff === undefined && config === undefined) return '--most is for --diff and --config'
  if (to !== undefined && isSameFile(file, to)) return '--to would write over the recording itself'
  if ((diff !== undefined || config !== undefined) && [file, diff].some((path) => path !== undefined && isPipe(path)))
    return '--diff and --config read files more than once: a pipe will not do'
  if (state === true && (diff !== undefined || config !== undefined)) return '--state is of one run'
  return null
}

function isSameFile(one: string, other: string): boolean {
  const [a, b] = [one, other].map((path) => statSync(path, { throwIfNoEntry: false }))
  return a !== undefined && b !== undefined && a.ino === b.ino && a.dev === b.dev
}

function isPipe(path: string): boolean {
  return path === '-' || statSync(path, { throwIfNoEntry: false })?.isFIFO() === true
}

function replay(
  { Replay, piecesOf, viewOf }: Library,
  terminal: Terminal,
  file: string,
  options: ReplayOptions,
  setCode: (code: number) => void,
): void {
  const observer: { writing: SentFrames | null } & ReplayObserver = {
    writing: null,
    coming: (input) => observer.writing?.coming(input),
    sending: (...sent) => observer.writing?.sending(...sent),
  }
  // Before anything is written: it may be no recording.
  const replay = new Replay(piecesOf(file), options.to === undefined ? {} : observer)
  const writing = options.to === undefined ? null : new SentFrames(options.to)
  observer.writing = writing
  try {
    if (writing !== null) writing.nameOf = (port) => replay.portNames.get(port) ?? `port ${port}`
    const startMs = replay.nextMs()
    const begun = performance.now()
    runTo(replay, options.until, startMs)
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
  const showState = () => printView(terminal, viewOf(replay))
  const isAsked = process.stdin.isTTY === true && process.stdout.isTTY === true && options.json !== true
  const { from, until, state } = options
  await stepThrough({ terminal, replay, narrator, from, until, isAsked, showState })
  if (state === true) showState()
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
