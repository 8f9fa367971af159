// What the demos of one story have in common: their option, the figures' table, the verdict, and that nothing is left
// behind, however they end.

import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { mustBeWritable } from '../lab/output-file.js'
import { sweep } from '../lab/record.js'
import type { Check } from './checks.js'
import { checksTable } from './figures.js'
import { Progress } from './progress.js'

export interface Story<Place> {
  /** What is built first, in words. */
  readonly building: string
  build(): Promise<Place>
  demonstrate(place: Place, progress: Progress): Promise<Check[]>
  /** Of its machines and daemons, for when it fails. */
  lastWords(place: Place, lines: number): readonly string[]
  destroy(place: Place): Promise<void>
}

/** Ends the process: 0 all checks held, 1 one did not or the demo failed, 2 wrong usage. */
export function tell<Place>(story: Story<Place>): void {
  run(story).then(
    (code) => process.exit(code),
    (error: unknown) => {
      process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`)
      process.exit(2)
    },
  )
}

async function run<Place>(story: Story<Place>): Promise<number> {
  const progress = new Progress(process.stdout)
  const { values } = parseArgs({ options: { json: { type: 'string' } } as const })
  if (values.json !== undefined) mustBeWritable('--json', values.json)
  const began = performance.now()
  await sweep()
  let place: Place | undefined
  const destroy = async () => {
    if (place !== undefined) await story.destroy(place)
  }
  const stop = (code: number) => {
    destroy().finally(() => process.exit(code))
  }
  process.on('SIGINT', () => stop(130))
  process.on('SIGTERM', () => stop(143))
  try {
    progress.step(story.building)
    place = await story.build()
    const checks = await story.demonstrate(place, progress)
    const seconds = (performance.now() - began) / 1000
    progress.print(`\n${checksTable(checks, progress.color)}`)
    const all = checks.filter(({ kind }) => kind === 'must')
    const failed = all.filter(({ ok }) => !ok)
    const verdict =
      failed.length === 0 ? `All ${all.length} checks held` : `${failed.length} of ${all.length} checks FAILED`
    progress.print(`${verdict}; ${seconds.toFixed(0)} s in all.`)
    if (values.json !== undefined)
      writeFileSync(values.json, `${JSON.stringify({ ok: failed.length === 0, seconds, checks }, null, 2)}\n`)
    return failed.length === 0 ? 0 : 1
  } catch (error) {
    progress.print(`\nThe demo failed: ${error instanceof Error ? error.message : String(error)}`)
    if (place !== undefined) for (const line of story.lastWords(place, 15)) progress.print(`  ${line}`)
    return 1
  } finally {
    await destroy()
  }
}
