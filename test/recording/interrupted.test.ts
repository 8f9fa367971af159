// `snapswitch record` that is interrupted before its recording has begun: it ends, and nobody else's recording does.

import { type ChildProcess, spawn } from 'node:child_process'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { parseEndpoint } from '../../src/api/endpoint.js'
import { routes } from '../../src/api/paths.js'
import { createApi } from '../../src/api/server.js'
import { silent, workDirectory } from '../coordinator/fake-switch.js'
import { until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { snapswitch } from './processes.js'

t.setTimeout(fileLimit(60_000))

/** A switch that begins no recording before it is told to. */
async function switchOf(t: Test) {
  const directory = await workDirectory(t)
  const socket = join(directory, 'switch.sock')
  const api = await createApi({ endpoint: parseEndpoint(socket), logger: silent, title: 'fake', version: '1' })
  const calls: string[] = []
  api.app.post(routes.networkRecording, (request, reply) => {
    calls.push('begin')
    request.raw.once('close', () => calls.push('closed'))
    reply.raw.once('close', () => calls.push('closed'))
    return new Promise(() => {})
  })
  api.app.delete(routes.networkRecording, async () => {
    calls.push('end')
    return {}
  })
  await api.listen()
  t.teardown(() => api.close())
  return { directory, socket, calls }
}

function record(t: Test, socket: string, file: string): { child: ChildProcess; ended: Promise<number | null> } {
  const child = spawn(snapswitch, ['record', '--socket', socket, 'lab0', '-w', file], { stdio: 'ignore' })
  t.teardown(() => {
    child.kill('SIGKILL')
  })
  return { child, ended: new Promise((resolve) => child.once('exit', (code) => resolve(code))) }
}

t.test('before the switch has answered', async (t) => {
  const { directory, socket, calls } = await switchOf(t)
  const { child, ended } = record(t, socket, join(directory, 'run.pcapng'))
  await until('it asks', patience(10_000), () => (calls.includes('begin') ? true : undefined), 5)
  child.kill('SIGINT')
  t.equal(await ended, 1)
  t.notOk(calls.includes('end'), 'a recording of the network is somebody else’s')
  await until('the switch is told', patience(10_000), () => (calls.includes('closed') ? true : undefined), 5)
})
