// A daemon ends, and another one answers on its socket: connections that a client has kept are of no use, and it asks
// by new ones. A POST as well, when the old daemon has not got it.

import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Type } from '@sinclair/typebox'
import t from 'tap'
import { Connection } from '../../src/api/connection.js'
import { validator } from '../../src/api/validate.js'
import { fileLimit, patience } from '../patience.js'

t.setTimeout(fileLimit(30_000))
const CALL = { deadlineMs: patience(10_000) }
const fits = validator(Type.Object({ served: Type.Integer() }))
/** Answers after a moment, so that several connections are open; says how many requests it has had. */
const SERVER = `
const [path] = process.argv.slice(1)
let served = 0
require('node:fs').rmSync(path, { force: true })
require('node:http').createServer((request, response) => {
  request.resume().on('end', () => setTimeout(() => response.end(JSON.stringify({ served: ++served })), 100))
}).listen(path, () => console.log('listening'))
`

async function serve(path: string) {
  const child = spawn(process.execPath, ['-e', SERVER, path], { stdio: ['ignore', 'pipe', 'inherit'] })
  await once(child.stdout, 'data')
  return child
}

for (const method of ['GET', 'POST'] as const) {
  t.test(method, async (t) => {
    const directory = mkdtempSync(join(tmpdir(), 'ssw-kept-'))
    t.teardown(() => rmSync(directory, { recursive: true, force: true }))
    const path = join(directory, 'socket')
    const endpoint = { kind: 'unix', path } as const
    const connection = new Connection({ endpoint, who: 'the daemon', whenUnreachable: 'Start it.' })
    t.teardown(() => connection.close())
    const ask = () => connection.json(method, '/', fits, CALL)
    const first = await serve(path)
    t.teardown(() => first.kill('SIGKILL'))
    t.equal(Math.max(...(await Promise.all([ask(), ask(), ask()])).map(({ served }) => served)), 3)
    const second = await serve(join(directory, 'next'))
    t.teardown(() => second.kill('SIGKILL'))
    // While it dies this process sees nothing of it: what is written next fails, or (a thread of it still has the
    // socket open) is never read.
    const end =
      'kill -9 $0; while kill -0 $0 && ! grep -q "State:.Z" /proc/$0/status; do sleep 0.01; done; mv $1/next $1/socket'
    execFileSync('sh', ['-c', end, String(first.pid), directory], { stdio: 'ignore' })
    t.same(await ask(), { served: 1 }, 'the other one answers, and was asked once')
  })
}
