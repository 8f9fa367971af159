// The models against all of their schedules: spin finds nothing in them, and finds each planted fault. snapshot.pml is
// the protocol, fast-path.pml the turns between frames that the kernel forwards and frames that the daemon forwards.

import { execFile } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { repositoryRoot } from '../lab/repository.js'
import { fileLimit, patience } from '../patience.js'

t.setTimeout(fileLimit(300_000))

const run = promisify(execFile)
type Model = 'snapshot' | 'fast-path'
/** Hash table of 2^22 slots, megabytes of states, steps of a run: bounds, and spin says when one is reached. */
const LIMITS = { slots: '-w22', megabytes: 1000, depth: '-m100000' }

interface Verdict {
  readonly errors: number
  readonly states: number
  /** All schedules were tried. */
  readonly exhaustive: boolean
  readonly output: string
}

/**
 * Compiles the model with `defines` and tries its schedules: all, or until the first error. Where an error is soon
 * found, to optimize takes longer than to run what is not optimized.
 */
async function verify(
  model: Model,
  defines: readonly string[],
  check: 'assertions' | 'claim',
  optimize: '-O0' | '-O1' = '-O0',
): Promise<Verdict> {
  const directory = await mkdtemp(join(tmpdir(), 'ssw-model-'))
  try {
    const options = { cwd: directory, timeout: patience(120_000), maxBuffer: 16 * 1024 * 1024 }
    const source = join(repositoryRoot(), `test/model/${model}.pml`)
    await run('spin', [...defines.map((define) => `-D${define}`), '-a', source], options)
    const kind = check === 'assertions' ? ['-DSAFETY', '-DNOCLAIM'] : []
    const memory = `-DMEMLIM=${LIMITS.megabytes}`
    await run('gcc', [optimize, '-w', memory, ...kind, '-o', 'pan', 'pan.c'], options)
    const flags = [LIMITS.depth, LIMITS.slots, '-n', ...(check === 'claim' ? ['-a'] : [])]
    const { stdout: output } = await run('./pan', flags, options)
    const errors = Number(/errors: (\d+)/.exec(output)?.[1] ?? Number.NaN)
    const states = Number(/(\d+) states, stored/.exec(output)?.[1] ?? Number.NaN)
    const exhaustive = !/Search not completed|max search depth too small|reached -DMEMLIM/.test(output)
    return { errors, states, exhaustive, output }
  } finally {
    await rm(directory, { recursive: true, force: true })
  }
}

/**
 * At least so many states, or the model no longer says what it said: figures of the day it was written, rounded down.
 */
const runs: readonly { model?: Model; defines: readonly string[]; check: 'assertions' | 'claim'; atLeast: number }[] = [
  { defines: ['N=2', 'K=2'], check: 'assertions', atLeast: 100_000 },
  { defines: ['N=2', 'K=2', 'SNAPSHOTS=2'], check: 'assertions', atLeast: 400_000 },
  { defines: ['N=2', 'K=1', 'ABORT'], check: 'assertions', atLeast: 300_000 },
  { defines: ['N=3', 'K=1', 'RING'], check: 'assertions', atLeast: 1_000_000 },
  { defines: ['N=3', 'K=1', 'PAIR'], check: 'assertions', atLeast: 1_000_000 },
  { defines: ['N=2', 'K=2'], check: 'claim', atLeast: 100_000 },
  { defines: ['N=2', 'K=1', 'ABORT'], check: 'claim', atLeast: 300_000 },
  { model: 'fast-path', defines: ['K=2', 'DROPS'], check: 'assertions', atLeast: 2_000_000 },
  { model: 'fast-path', defines: ['K=2', 'MOVES=1'], check: 'assertions', atLeast: 7_000_000 },
  { model: 'fast-path', defines: ['K=2', 'FLIPS=1', 'HELLOS=1'], check: 'assertions', atLeast: 1_500_000 },
  { model: 'fast-path', defines: ['K=2', 'FLIPS=1', 'HELLOS=1', 'RUSHED'], check: 'assertions', atLeast: 1_500_000 },
  { model: 'fast-path', defines: ['K=2', 'FLIPS=1', 'MOVES=1', 'COPIES'], check: 'assertions', atLeast: 4_500_000 },
]

t.test('no schedule breaks the protocol', async (t) => {
  for (const { model = 'snapshot', defines, check, atLeast } of runs) {
    const { errors, states, exhaustive, output } = await verify(model, defines, check, '-O1')
    t.equal(errors, 0, `${defines.join(' ')}, ${check}: ${output}`)
    t.ok(exhaustive, 'all schedules were tried')
    t.ok(states >= atLeast, `${states} states`)
  }
})

const faults: readonly { define: string; found: RegExp; abort?: boolean }[] = [
  { define: 'FLIP_BEFORE_DRAIN', found: /assertion violated \(recorded/ },
  { define: 'DELIVER_EARLY', found: /assertion violated {2}!\(\(late.*before/ },
  { define: 'SKIP_RECORDING', found: /assertion violated \(recorded/ },
  { define: 'SKIP_RESIDUE', found: /assertion violated \(recorded/ },
  { define: 'CLOSE_WITHOUT_COUNT', found: /assertion violated \(recorded/ },
  { define: 'CLOSE_WHILE_GATED', found: /assertion violated \(recorded/ },
  { define: 'NO_TRIGGER', found: /invalid end state/ },
  { define: 'NO_ADVANCE', found: /assertion violated .*epoch/, abort: true },
  { define: 'KEEP_GATE', found: /assertion violated .*closed/, abort: true },
]

t.test('each planted fault is found', async (t) => {
  for (const { define, found, abort } of faults) {
    const { errors, output } = await verify(
      'snapshot',
      ['N=2', 'K=1', define, ...(abort ? ['ABORT'] : [])],
      'assertions',
    )
    t.ok(errors > 0, `${define} is found`)
    t.match(output, found, define)
  }
  const stuck = await verify('snapshot', ['N=2', 'K=1', 'NO_TRIGGER'], 'claim')
  t.ok(stuck.errors > 0, 'the claim fails, too, when a run is stuck')
})

const ORDER = /assertion violated \(out/
const STILL = /assertion violated .*(still|counted)/
const TOLD = /assertion violated \(told==gone/
const TOLD_MORE = /assertion violated \(told<=gone/
const MOVED = /assertion violated \(\(to==home/
const fastFaults: readonly { defines: readonly string[]; found: RegExp }[] = [
  { defines: ['NO_BUCKET_RULE'], found: ORDER },
  { defines: ['HANDLED_BEFORE_SENT'], found: ORDER },
  { defines: ['PUNT_AFTER_RING'], found: ORDER },
  { defines: ['NO_BARRIER'], found: STILL },
  { defines: ['NUMBERS_ALONE'], found: STILL },
  { defines: ['MOVES=1', 'STALE_VERDICT'], found: MOVED },
  { defines: ['MOVES=1', 'LATE_VOID'], found: MOVED },
  { defines: ['MOVES=1', 'COPIES', 'COPY_ALONE'], found: MOVED },
  { defines: ['HELLOS=1', 'NO_PAUSE'], found: TOLD },
  { defines: ['HELLOS=1', 'PAUSE_ALONE'], found: TOLD },
  { defines: ['HELLOS=1', 'RUSHED', 'RUSHED_ALONE'], found: TOLD_MORE },
  { defines: ['NEVER_FAST'], found: /assertion violated 0/ },
]

t.test('each planted fault of the fast path is found', async (t) => {
  for (const { defines, found } of fastFaults) {
    const { errors, output } = await verify('fast-path', ['K=2', ...defines], 'assertions')
    t.ok(errors > 0, `${defines.join(' ')} is found`)
    t.match(output, found, defines.join(' '))
  }
})
