// Every promise of docs/promises.md names tests that are there.

import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'

// Compiled tests lie in dist/test: the sources are beside dist.
const repository = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..')

t.test('each promise has what holds it', async (t) => {
  const text = readFileSync(join(repository, 'docs', 'promises.md'), 'utf8')
  const rows = text.split('\n').filter((line) => /^\| [A-Z]/.test(line))
  t.ok(rows.length > 20, `${rows.length} promises`)
  for (const row of rows) {
    const [, promise, held] = row.split('|').map((cell) => cell.trim())
    const files = [...held.matchAll(/`(test\/[^`]+|scripts\/\w+)[^`]*`/g)].map(([, file]) => file)
    const same = held.startsWith('the same')
    t.ok(files.length > 0 || same, promise)
    for (const file of files) t.ok(existsSync(join(repository, file)), file)
  }
})
