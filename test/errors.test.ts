// The table of error codes against the code that uses it and the reference that lists it: no code without a use, none
// that readers cannot look up.

import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { asSnapswitchError, type ErrorCode, errorCodes, SnapswitchError } from '../src/errors/errors.js'

const repository = join(dirname(fileURLToPath(import.meta.url)), '..', '..')
const codes = Object.keys(errorCodes) as ErrorCode[]

/** For what is being built: commands that name a port. */
const reserved: readonly ErrorCode[] = ['PORT_UNKNOWN']

/** The sources without their table of codes and without comments, which may name any code. */
function sources(): string {
  return ['src', 'switch', 'coordinator']
    .flatMap((folder) =>
      readdirSync(join(repository, folder), { recursive: true, encoding: 'utf8' })
        .filter((name) => name.endsWith('.ts') && !(folder === 'src' && name === join('errors', 'errors.ts')))
        .map((name) => readFileSync(join(repository, folder, name), 'utf8')),
    )
    .join('\n')
    .replace(/^\s*(\/\/|\*|\/\*).*$/gm, '')
}

t.test('every code is used', async (t) => {
  const text = sources()
  const used = (code: string) => text.includes(`'${code}'`)
  t.same(
    codes.filter((code) => !used(code) && !reserved.includes(code)),
    [],
  )
  for (const code of reserved.filter(used)) t.comment(`${code} is in use now: it can leave the list of reserved codes`)
  t.notOk(used('NO_SUCH_CODE'))
})

t.test('every code says what happened, in a sentence', async (t) => {
  for (const code of codes) {
    t.match(code, /^[A-Z]+(_[A-Z]+)*$/)
    t.match(errorCodes[code], /^\S.{10,}[^.]$/, code)
  }
})

t.test('the reference lists every code once, and no other', async (t) => {
  const page = readFileSync(join(repository, 'docs', 'reference', 'errors.md'), 'utf8')
  const rows = [...page.matchAll(/^\| `([A-Z][A-Z_]+)` +\|/gm)].map(([, code]) => code)
  t.same(rows.sort(), [...codes].sort(), 'if not, npm run reference writes it')
})

t.test('an error travels as a report and keeps its cause', async (t) => {
  const cause = new Error('why')
  const error = new SnapswitchError('DEVICE_BUSY', 'what', 'Do this.', cause)
  t.equal(error.cause, cause)
  const report = JSON.parse(JSON.stringify(error.report()))
  t.same(report, { code: 'DEVICE_BUSY', message: 'what', action: 'Do this.' })
  t.match(SnapswitchError.fromReport(report), { code: 'DEVICE_BUSY', message: 'what', action: 'Do this.' })
  t.equal(asSnapswitchError(error), error)
  t.match(asSnapswitchError(cause), { code: 'INTERNAL', message: 'why', cause })
  t.match(asSnapswitchError('thrown text'), { code: 'INTERNAL', message: 'thrown text' })
})
