// The whole idea on real parts, from one command: a lab of two hosts and three machines, a snapshot while they work,
// all machines killed, restored with the hosts swapped, and the checks that nothing was lost, doubled or reordered.

import { writeFileSync } from 'node:fs'
import { cpus, release } from 'node:os'
import { parseArgs } from 'node:util'
import { run as runCommand } from '../lab/command.js'
import { guestImage } from '../lab/image.js'
import { Lab } from '../lab/lab.js'
import { mustBeWritable } from '../lab/output-file.js'
import { allRecords, sweep, takeDown } from '../lab/record.js'
import { type Check, checkAudit, checkOutcome, checkResumption, checkSnapshot, checkStrangers } from './checks.js'
import { checksTable, type DemoFigures, figuresOf, figuresTables } from './figures.js'
import {
  expectedResult,
  hopDelayUs,
  hops,
  network,
  plan,
  snapshotAt,
  snapshotName,
  streamNames,
  swapped,
} from './plan.js'
import { Progress } from './progress.js'
import {
  auditSnapshot,
  createSnapshot,
  finish,
  hopsNow,
  lookAround,
  restoreSnapshot,
  startLab,
  waitForHops,
} from './steps.js'

const usage = `Usage: scripts/demo [--json FILE] [--keep] | --down
  --json FILE   write checks and figures there
  --keep        leave the lab up at the end, and say how to look around
  --down        take down the labs that --keep has left, and nothing else`

interface Result {
  readonly checks: readonly Check[]
  readonly figures: DemoFigures
}

async function demonstrate(lab: Lab, progress: Progress): Promise<Result> {
  const names = plan.machines.map((machine) => machine.name)
  const expected = expectedResult()
  await startLab(lab, progress)

  progress.step(`The ring runs: ${hops} hops, two UDP streams beside it; snapshot at ${snapshotAt * 100} %`)
  await waitForHops(lab, progress, hops * snapshotAt)
  const before = hopsNow(lab)
  const snapshot = await createSnapshot(lab, progress)
  const after = hopsNow(lab)
  progress.step('The ring runs on, to its end')
  const first = await finish(lab, progress)
  const checks = [
    ...checkOutcome('first run', first, expected, streamNames),
    ...checkSnapshot(snapshot.manifest, names),
  ]

  progress.step('Power cut: all machines are killed')
  const killed = await lab.killMachines()
  progress.note(`killed: ${killed.join(', ')}`)
  checks.push(checkAudit(await auditSnapshot(lab, progress)))
  lab.restartConsoles(swapped)
  const restored = await restoreSnapshot(lab, progress)
  const running = await lab.runningMachines()
  progress.step('The ring goes on from the cut, on swapped hosts')
  const second = await finish(lab, progress)
  const resumptions = names.map((name) => {
    const lines = lab.machine(name).console.lines
    return { name, lines, before: before.get(name) ?? 0, after: after.get(name) ?? 0 }
  })
  checks.push(...checkResumption(restored.report, running, swapped, resumptions, 1e6 / hopDelayUs))
  checks.push(...checkOutcome('restored run', second, expected, streamNames))
  checks.push(checkStrangers(lab.touchedStrangers()))
  const commandMs = { snapshot: snapshot.commandMs, restore: restored.commandMs }
  return { checks, figures: figuresOf(snapshot.manifest, restored.report, first, commandMs) }
}

const failedOf = (checks: readonly Check[]) => checks.filter((check) => check.kind === 'must' && !check.ok)
const missedOf = (checks: readonly Check[]) => checks.filter((check) => check.kind === 'reach' && !check.ok)

async function writeJson(file: string, result: Result, seconds: number): Promise<void> {
  const { accelerator } = await guestImage()
  const qemu = (await runCommand('qemu-system-x86_64', ['--version'])).split('\n')[0]
  const machine = { kernel: release(), cpus: cpus().length, node: process.version, qemu, accelerator }
  const ok = failedOf(result.checks).length === 0
  writeFileSync(
    file,
    `${JSON.stringify({ ok, seconds, network, snapshot: snapshotName, machine, ...result }, null, 2)}\n`,
  )
}

function explain(error: unknown, lab: Lab | undefined, progress: Progress): void {
  progress.print(`\nThe demo failed: ${error instanceof Error ? error.message : String(error)}`)
  if (lab !== undefined) for (const line of lab.lastWords(15)) progress.print(`  ${line}`)
}

async function takeDownKept(progress: Progress): Promise<number> {
  const kept = allRecords().filter((record) => record.kept)
  for (const record of kept) await takeDown(record)
  await sweep()
  progress.print(kept.length === 0 ? 'No lab is up.' : `Taken down: ${kept.map((record) => record.id).join(', ')}`)
  return 0
}

async function main(): Promise<number> {
  const progress = new Progress(process.stdout)
  const options = { json: { type: 'string' }, keep: { type: 'boolean' }, down: { type: 'boolean' } } as const
  const { values } = parseArgs({ options })
  if (values.down) return takeDownKept(progress)
  if (values.json !== undefined) mustBeWritable('--json', values.json)
  const began = performance.now()
  const swept = await sweep()
  if (swept.length > 0) progress.note(`removed what an earlier, killed run has left: ${swept.join(', ')}`)

  let lab: Lab | undefined
  let building: Promise<Lab> | undefined
  let stopped = false
  // A signal takes the lab down; whatever was under way then fails, and is not worth a word.
  const stop = (signal: NodeJS.Signals) => {
    if (stopped) return
    stopped = true
    progress.print(`\n${signal}: taking the lab down`)
    const code = signal === 'SIGINT' ? 130 : 143
    // A lab that is being built is built first: what is under way cannot be taken down.
    const down = building?.then((half) => half.destroy()) ?? Promise.resolve()
    down.then(
      () => process.exit(code),
      () => process.exit(code),
    )
  }
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, stop)

  try {
    progress.step('Building two hosts (network namespaces), joined by a trunk')
    building = Lab.build(plan)
    lab = await building
    const result = await demonstrate(lab, progress)
    const seconds = (performance.now() - began) / 1000
    progress.print(`\n${figuresTables(result.figures, progress.color)}`)
    progress.print(checksTable(result.checks, progress.color))
    if (values.json !== undefined) await writeJson(values.json, result, seconds)
    const failed = failedOf(result.checks)
    const all = result.checks.filter((check) => check.kind === 'must').length
    const verdict = failed.length === 0 ? `All ${all} checks held` : `${failed.length} of ${all} checks FAILED`
    for (const { what, seen } of missedOf(result.checks)) progress.print(`Figure missed: ${what}, was ${seen}.`)
    progress.print(`${verdict}; ${seconds.toFixed(0)} s in all.`)
    if (values.keep) {
      lab.keep()
      progress.print(lookAround(lab))
    }
    return failed.length === 0 ? 0 : 1
  } catch (error) {
    if (stopped) return new Promise<number>(() => undefined)
    explain(error, lab, progress)
    return 1
  } finally {
    if (!stopped && lab?.kept !== true) await lab?.destroy()
  }
}

main().then(
  (code) => process.exit(code),
  (error: unknown) => {
    const message = error instanceof Error ? error.message : String(error)
    process.stderr.write(`${message}\n${message.includes('option') ? `${usage}\n` : ''}`)
    process.exit(2)
  },
)
