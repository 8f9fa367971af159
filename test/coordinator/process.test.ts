// The coordinator as its own process: killed in the middle of a snapshot, started again; SIGTERM; a bad configuration.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { CoordinatorClient } from '../../src/api/coordinator-client.js'
import type { Manifest } from '../../src/api/schemas.js'
import { lockDirectory } from '../../src/linux/directory-lock.js'
import { until as waitUntil } from '../lab/command.js'
import { program } from '../lab/daemon.js'
import { fileLimit, patience } from '../patience.js'
import { FakeSwitch, workDirectory } from './fake-switch.js'

t.setTimeout(fileLimit(60_000))

interface Running {
  readonly child: ChildProcess
  readonly log: () => string
}

const start = (t: Test, config: string): Running => launch(t, ['coordinator', '--config', config])

function launch(t: Test, args: readonly string[]): Running {
  const child = spawn(process.execPath, [program(), ...args], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  let log = ''
  child.stderr?.on('data', (data: Buffer) => {
    log += data.toString()
  })
  t.teardown(async () => {
    if (child.exitCode !== null || child.signalCode !== null) return
    child.kill('SIGKILL')
    await once(child, 'exit')
  })
  return { child, log: () => log }
}

function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  )
}

const until = (what: string, holds: () => Promise<boolean> | boolean): Promise<true> =>
  waitUntil(what, 20_000, async () => ((await holds()) ? true : undefined), 20)

t.test('killed in the middle, started again: failed, discarded everywhere, and ready for the next', async (t) => {
  const directory = await workDirectory(t)
  const a = new FakeSwitch(directory, 'a', ['vm1'])
  const b = new FakeSwitch(directory, 'b', ['vm2'])
  await Promise.all([a.start(), b.start()])
  t.teardown(async () => void (await Promise.all([a.stop(), b.stop()])))
  b.takeEvents = async function* () {
    yield { type: 'paused', vm: 'vm2', atUs: 1 }
    await new Promise(() => {})
  }
  const socket = join(directory, 'coordinator.sock')
  const config = join(directory, 'lab.yaml')
  const hosts = { a: { socket: 'a.sock' }, b: { socket: 'b.sock' } }
  await writeFile(config, JSON.stringify({ socket, store: 'store', networks: { lab0: { hosts } } }))
  const manifestFile = join(directory, 'store', 'lab0', 'demo', 'manifest.json')
  const manifest = async () => JSON.parse(await readFile(manifestFile, 'utf8')) as Manifest

  const first = start(t, config)
  await until('it listens', () => exists(socket))
  const client = new CoordinatorClient(socket)
  t.teardown(() => client.close())
  const creating = (async () => {
    for await (const _ of client.create({ network: 'lab0', name: 'demo' }, { deadlineMs: patience(20_000) }));
  })().catch((error: unknown) => error)
  await until('the take is under way', () => b.calls.includes('take'))
  t.equal((await manifest()).state, 'pending')
  first.child.kill('SIGKILL')
  await once(first.child, 'exit')
  t.match(await creating, { code: 'SOCKET_UNREACHABLE' })
  t.equal((await manifest()).state, 'pending')
  t.notOk(a.calls.some((call) => call.startsWith('discard')))

  b.takeEvents = null
  const second = start(t, config)
  await until('it has put things right', async () => (await manifest()).state === 'failed')
  t.ok(a.calls.includes('discard 1') && b.calls.includes('discard 1'))
  t.match((await manifest()).error, { code: 'SNAPSHOT_FAILED', message: /coordinator ended/ })
  const states: string[] = []
  for await (const p of client.create(
    { network: 'lab0', name: 'demo', wait: true },
    { deadlineMs: patience(20_000) },
  )) {
    if (p.type === 'manifest') states.push(p.manifest.state)
  }
  t.same(states, ['complete'])
  t.equal((await manifest()).epoch, 2, 'epochs never go back')

  second.child.kill('SIGTERM')
  const [code] = (await once(second.child, 'exit')) as [number | null]
  t.equal(code, 0, second.log())
  await t.rejects(stat(socket), { code: 'ENOENT' })
})

t.test('a bad configuration: one error that says where, exit code 1', async (t) => {
  const config = join(await workDirectory(t), 'lab.yaml')
  await writeFile(config, 'netwroks: {}\n')
  const { child, log } = start(t, config)
  const [code] = (await once(child, 'close')) as [number | null]
  t.equal(code, 1)
  t.match(log(), /^error CONFIG_INVALID: .*lab\.yaml:1:1: unknown key "netwroks"; did you mean "networks"\?/m)
  t.match(log(), /^what to do: /m)
})

t.test('a second coordinator on the same socket or store is refused, and the first is not disturbed', async (t) => {
  const directory = await workDirectory(t)
  const config = join(directory, 'lab.yaml')
  const socket = join(directory, 'c.sock')
  await writeFile(
    config,
    JSON.stringify({ socket, store: 'store', networks: { lab0: { hosts: { a: { socket: 'a' } } } } }),
  )
  start(t, config)
  await until('it listens', () => exists(socket))
  const second = start(t, config)
  const [code] = (await once(second.child, 'close')) as [number | null]
  t.equal(code, 1)
  t.match(second.log(), /^error DEVICE_BUSY: another daemon listens/m)
  const beside = join(directory, 'beside.yaml')
  await writeFile(beside, (await readFile(config, 'utf8')).replace('c.sock', 'd.sock'))
  const third = start(t, beside)
  t.equal(((await once(third.child, 'close')) as [number | null])[0], 1)
  t.match(third.log(), /^error DEVICE_BUSY: another daemon keeps its records in .*store/m)
  const client = new CoordinatorClient(socket)
  t.teardown(() => client.close())
  t.match(await client.status({ deadlineMs: patience(5_000) }), {
    networks: [{ hosts: [{ host: 'a', reachable: false }] }],
  })
})

t.test('the command is interrupted: it says that the coordinator goes on', async (t) => {
  const directory = await workDirectory(t)
  const a = new FakeSwitch(directory, 'a', ['vm1'])
  await a.start()
  t.teardown(() => a.stop())
  a.faults.set('take', 'silent')
  const config = join(directory, 'lab.yaml')
  const socket = join(directory, 'c.sock')
  const hosts = { a: { socket: 'a.sock' } }
  await writeFile(config, JSON.stringify({ socket, store: 'store', networks: { lab0: { hosts } } }))
  start(t, config)
  await until('it listens', () => exists(socket))
  const command = launch(t, ['snapshot', 'create', 'lab0', '--name', 'demo', '--socket', socket])
  await until('the take is under way', () => a.calls.includes('take'))
  command.child.kill('SIGINT')
  const [code] = (await once(command.child, 'close')) as [number | null]
  t.equal(code, 130)
  t.match(command.log(), /interrupted; the coordinator goes on/)
})

for (const which of ['has work under way', 'does not answer', 'leaves, but not its store'] as const) {
  t.test(`SIGTERM while the one inside the switch ${which}`, async (t) => {
    const directory = await workDirectory(t)
    const [socket, store] = [join(directory, 'c.sock'), join(directory, 'store')]
    const asked: string[] = []
    const inside = createServer((request, response) => {
      asked.push(`${request.method} ${request.url}`)
      if (which === 'does not answer') return
      response.setHeader('content-type', 'application/json')
      response.setHeader('connection', 'close')
      const asks = request.method === 'GET'
      const error = { code: 'SNAPSHOT_BUSY', message: 'work is under way', action: 'Wait.' }
      if (!asks && which === 'has work under way') response.writeHead(409).end(JSON.stringify({ error }))
      else response.end(JSON.stringify(asks ? { version: '0', pid: 1, embedded: true, networks: [] } : {}))
      if (!asks && which === 'leaves, but not its store') inside.close()
    })
    inside.listen(socket)
    await once(inside, 'listening')
    t.teardown(() => void inside.close().closeAllConnections())
    // Held until this process ends.
    await mkdir(store)
    lockDirectory(store)
    const config = join(directory, 'lab.yaml')
    const hosts = { a: { socket: 'a.sock' } }
    await writeFile(config, JSON.stringify({ socket, store: 'store', networks: { lab0: { hosts } } }))
    const { child, log } = start(t, config)
    const waits = {
      'has work under way': () => asked.filter((request) => request.startsWith('POST')).length >= 3,
      'does not answer': () => asked.length > 0,
      'leaves, but not its store': () => log().includes('still has the store'),
    }
    await until('it waits', () => waits[which]() || child.exitCode !== null)
    child.kill('SIGTERM')
    await until('it has ended', () => child.exitCode !== null || child.signalCode !== null)
    t.equal(child.exitCode, 0, log())
    t.equal(log().match(/is asked to make way/g)?.length ?? 0, which === 'does not answer' ? 0 : 1, log())
    t.equal(log().match(/work is under way/g)?.length ?? 0, which === 'has work under way' ? 1 : 0)
    t.notMatch(log(), '"stack"')
  })
}

t.test('the one inside the switch makes way, though it answers late', async (t) => {
  const directory = await workDirectory(t)
  const socket = join(directory, 'c.sock')
  const asked: string[] = []
  const inside = createServer((request, response) => {
    asked.push(`${request.method} ${request.url}`)
    // The first question stays without an answer: the machine is busy.
    if (asked.length === 1) return
    response.setHeader('content-type', 'application/json')
    response.setHeader('connection', 'close')
    const status = { version: '0', pid: 1, embedded: true, networks: [] }
    response.end(JSON.stringify(request.method === 'GET' ? status : {}))
    if (request.method === 'POST') inside.close()
  })
  inside.listen(socket)
  await once(inside, 'listening')
  t.teardown(() => void inside.closeAllConnections())
  const config = join(directory, 'lab.yaml')
  await writeFile(
    config,
    JSON.stringify({ socket, store: 'store', networks: { lab0: { hosts: { a: { socket: 'a.sock' } } } } }),
  )
  const own = start(t, config)
  const listens = () => /"msg":"listening"/.test(own.log()) || own.child.exitCode !== null
  await until('it listens', listens)
  t.equal(own.child.exitCode, null, 'it has found its place')
  t.same(asked.slice(0, 3), ['GET /v1/status', 'GET /v1/status', 'POST /v1/step-aside'])
})
