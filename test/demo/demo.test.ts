// The demo as the end-to-end test: its own checks on real parts, and that it leaves nothing behind, also when
// interrupted.

import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { listNamespaces } from '../lab/namespaces.js'
import { labsBase } from '../lab/record.js'
import { fileLimit } from '../patience.js'
import type { Check } from './checks.js'
import type { DemoFigures } from './figures.js'

const options = { skip: process.getuid?.() === 0 ? false : 'needs root' }
t.setTimeout(fileLimit(400_000))

interface Run {
  readonly code: number | null
  readonly output: string
  readonly pid: number
}

function runDemo(t: Test, args: readonly string[], interruptAt?: RegExp): Promise<Run> {
  const demo = join(import.meta.dirname, 'demo.js')
  const child = spawn(process.execPath, [demo, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  t.teardown(() => child.kill('SIGTERM'))
  let output = ''
  let interrupted = false
  const take = (bytes: Buffer) => {
    output += bytes.toString()
    if (interrupted || interruptAt === undefined || !interruptAt.test(output)) return
    interrupted = true
    child.kill('SIGINT')
  }
  child.stdout.on('data', take)
  child.stderr.on('data', take)
  return new Promise((resolve) => child.once('close', (code) => resolve({ code, output, pid: child.pid! })))
}

/** A lab's name is its owner's process id and three characters of chance: test/lab/record.ts. */
async function leftBy(pid: number): Promise<string[]> {
  const isItsLab = (id: string) => new RegExp(`^${pid}[0-9a-z]{3}$`).test(id)
  const namespaces = (await listNamespaces()).filter((name) => isItsLab(/^snaplab-(\w+)/.exec(name)?.[1] ?? ''))
  const directories = existsSync(labsBase) ? readdirSync(labsBase).filter(isItsLab) : []
  const processes = readdirSync('/proc').filter((entry) => {
    if (!/^\d+$/.test(entry) || Number(entry) === pid) return false
    try {
      const words = readFileSync(`/proc/${entry}/cmdline`, 'latin1')
      return new RegExp(`${labsBase}/${pid}[0-9a-z]{3}/`).test(words)
    } catch {
      return false
    }
  })
  return [...namespaces, ...directories, ...processes]
}

t.test('snapshot under load, everything killed, restored with the hosts swapped', options, async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'snapswitch-demo-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  const file = join(directory, 'demo.json')
  const run = await runDemo(t, ['--json', file])
  t.equal(run.code, 0, 'exit code')
  if (!existsSync(file)) throw new Error(run.output)
  const result = JSON.parse(readFileSync(file, 'utf8')) as { ok: boolean; checks: Check[]; figures: DemoFigures }
  t.equal(result.ok, true)
  t.equal(result.checks.filter((check) => check.kind === 'must').length, 20, 'no check was left out')
  for (const { kind, phase, what, ok, seen } of result.checks) {
    if (kind === 'must') t.ok(ok, `${phase}: ${what} (${seen})`)
    else t.comment(`${what}: ${seen}`)
  }
  t.equal(result.figures.lost, 0)
  t.equal(result.figures.channelFrames, result.figures.recorded, 'what was recorded in transit was delivered')
  t.equal(result.figures.machines.length, 3)
  t.same(await leftBy(run.pid), [], 'nothing is left')
})

t.test('interrupted while guests run: nothing is left', options, async (t) => {
  const run = await runDemo(t, [], /The ring runs/)
  t.equal(run.code, 130)
  t.same(await leftBy(run.pid), [])
})

t.test('interrupted while guests boot: nothing is left', options, async (t) => {
  const run = await runDemo(t, [], /Booting three machines/)
  t.equal(run.code, 130)
  t.same(await leftBy(run.pid), [])
})

t.test('a wrong option is wrong usage, and builds nothing', options, async (t) => {
  const run = await runDemo(t, ['--jsn', 'x'])
  t.equal(run.code, 2)
  t.match(run.output, /--jsn/)
  t.match(run.output, /Usage: scripts\/demo/)
})
