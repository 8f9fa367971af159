// The demo of recordings: its own checks.

import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { attempt } from '../lab/command.js'
import { fileLimit } from '../patience.js'
import type { Check } from './checks.js'

t.setTimeout(fileLimit(300_000))

t.test('an intermittent fault: recorded, replayed, found, played until it shows again', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'snapswitch-replay-'))
  t.teardown(() => rmSync(directory, { recursive: true, force: true }))
  const file = join(directory, 'demo.json')
  const demo = join(import.meta.dirname, 'replay.js')
  const { code, stdout } = await attempt(process.execPath, [demo, '--json', file], 280_000)
  t.equal(code, 0, 'exit code')
  if (code !== 0) throw new Error(stdout)
  const { checks } = JSON.parse(readFileSync(file, 'utf8')) as { checks: Check[] }
  t.equal(checks.filter(({ kind }) => kind === 'must').length, 6, 'no check was left out')
  for (const { kind, phase, what, ok, seen } of checks) {
    if (kind === 'must') t.ok(ok, `${phase}: ${what} (${seen})`)
    else t.comment(`${what}: ${seen}`)
  }
})
