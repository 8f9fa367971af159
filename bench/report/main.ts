// `scripts/bench report`: the page of the results that are there.

import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { parseArgs } from 'node:util'
import { mustBeWritable } from '../../test/lab/output-file.js'
import { projectRoot } from '../lab/project.js'
import { readJson } from '../run/report.js'
import { htmlReport, type RunNote } from './html.js'
import { readAll } from './read.js'
import { readmeFigures, withFigures } from './readme.js'

const usage = `Usage: scripts/bench report [--results DIR] [--report FILE] [--readme]

Makes one page of the results that are there.

  --results DIR    where they are (default bench/results)
  --report FILE    the page (default report.html in the results)
  --readme         write the figures of README.md, too
`

/** Writes the page of what is in the results. */
export function writeReport(results: string, file: string): void {
  const all = readAll(results)
  if (all.length === 0) throw new Error(`no results in ${results}: run a bench first`)
  const raw = new Map<string, string>()
  const directory = join(results, 'raw')
  // By their dates: the latest of each bench stays.
  for (const name of list(directory).sort()) {
    const bench = all.find((one) => name.startsWith(`${one.bench}-`))?.bench
    if (bench !== undefined) raw.set(bench, relative(dirname(file), join(directory, name)))
  }
  const note = join(results, 'all.json')
  writeFileSync(file, htmlReport(all, raw, existsSync(note) ? (readJson(note) as RunNote) : null))
  process.stderr.write(`${file}\n`)
}

function writeReadme(results: string): void {
  const file = join(projectRoot, 'README.md')
  const text = withFigures(readFileSync(file, 'utf8'), readmeFigures(readAll(results)))
  if (text === null) throw new Error(`${file} has no marks for the figures`)
  writeFileSync(file, text)
  process.stderr.write(`${file}\n`)
}

function list(directory: string): string[] {
  try {
    return readdirSync(directory)
  } catch {
    return []
  }
}

export async function report(argv: readonly string[]): Promise<number> {
  try {
    const { values } = parseArgs({
      args: [...argv],
      options: {
        help: { type: 'boolean', short: 'h', default: false },
        results: { type: 'string' },
        report: { type: 'string' },
        readme: { type: 'boolean', default: false },
      },
    })
    if (values.help) {
      process.stdout.write(usage)
      return 0
    }
    const results = values.results ?? join(projectRoot, 'bench', 'results')
    if (values.report !== undefined) mustBeWritable('--report', values.report)
    writeReport(results, values.report ?? join(results, 'report.html'))
    if (values.readme) writeReadme(results)
    return 0
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n\n${usage}`)
    return 2
  }
}
