// The embedded programs are what their source says.

import { readFileSync } from 'node:fs'
import t from 'tap'
import { embedded, OBJECT_FILE } from '../../scripts/bpf.js'
import { fileLimit } from '../patience.js'

t.setTimeout(fileLimit(60_000))

t.test('compiled again, they are the same', async (t) => {
  t.equal(embedded(), readFileSync(OBJECT_FILE, 'utf8'), '`npm run bpf` writes them')
})
