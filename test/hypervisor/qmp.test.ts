// The QMP client against a server that lies, dawdles and dies.

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import net from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import t from 'tap'
import type { SnapswitchError } from '../../src/errors/errors.js'
import { takeInventory } from '../../src/hypervisor/qemu/inventory.js'
import { askBlockGraph } from '../../src/hypervisor/shared/block-graph.js'
import { QmpClient } from '../../src/hypervisor/shared/qmp.js'
import { LineSplitter, longestLine, parseMessage } from '../../src/hypervisor/shared/qmp-messages.js'
import fc from '../property.js'
import { soon, tooSoon } from './boot-guest.js'

const greeting =
  '{"QMP":{"version":{"qemu":{"micro":22,"minor":2,"major":7},"package":"x"},"capabilities":["oob"]}}\r\n'
const directory = mkdtempSync(path.join(tmpdir(), 'snapswitch-qmp-'))
t.teardown(() => rmSync(directory, { recursive: true, force: true }))
let sockets = 0

type Answer = (command: string, id: number, socket: net.Socket) => void

/** A server that greets with `hello` and answers each command as told; the handshake it answers by itself. */
async function serve(
  test: { teardown(end: () => void): unknown },
  hello: string | null,
  answer: Answer = () => {},
): Promise<string> {
  const file = path.join(directory, `${sockets++}.sock`)
  const open = new Set<net.Socket>()
  const server = net.createServer((socket) => {
    open.add(socket)
    if (hello !== null) socket.write(hello)
    let text = ''
    socket.on('error', () => {})
    socket.on('data', (chunk) => {
      text += String(chunk)
      for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
        const message = JSON.parse(text.slice(0, end))
        text = text.slice(end + 1)
        if (message.execute === 'qmp_capabilities') socket.write(`{"return":{},"id":${message.id}}\n`)
        else answer(message.execute, message.id, socket)
      }
    })
  })
  await new Promise<void>((resolve) => server.listen(file, resolve))
  test.teardown(() => {
    for (const socket of open) socket.destroy()
    server.close()
  })
  return file
}

const code = (promise: Promise<unknown>) =>
  promise.then(
    () => 'none',
    (error: SnapswitchError) => error.code,
  )

t.test('connecting', async (t) => {
  t.equal(await code(QmpClient.connect(path.join(directory, 'absent'), soon(500))), 'HYPERVISOR_UNREACHABLE')
  t.equal(await code(QmpClient.connect('/'.padEnd(200, 'x'), soon(500))), 'HYPERVISOR_UNREACHABLE', 'path too long')
  const client = await QmpClient.connect(await serve(t, greeting), soon(500))
  t.same(client.greeting, { version: '7.2.22', major: 7, minor: 2 })
  t.equal(client.peer.pid, process.pid, 'knows who listens')
  client.close()
})

t.test('an occupied socket says so at the deadline', async (t) => {
  const error = await QmpClient.connect(await serve(t, null), tooSoon(150)).catch((e) => e)
  t.equal(error.code, 'HYPERVISOR_UNREACHABLE')
  t.match(error.action, /one client per QMP socket/)
})

t.test('a process that is stopped is told from an occupied socket', async (t) => {
  const file = path.join(directory, 'stopped.sock')
  const script = `require('net').createServer((s) => s.write(process.argv[2])).listen(process.argv[1], 1, () => console.log('up'))`
  const child = spawn(process.execPath, ['-e', script, file, greeting], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  await once(child.stdout, 'data')
  const busy = await QmpClient.connect(file, tooSoon(100)).catch((e) => e)
  t.notMatch(busy.action, /CONT/, 'it runs')
  child.kill('SIGSTOP')
  // Those that wait in line fill the backlog at last.
  const errors = []
  for (let nth = 0; nth < 4; nth++) errors.push(await QmpClient.connect(file, tooSoon(100)).catch((e) => e))
  for (const error of errors) t.match(error, { action: new RegExp(`kill -CONT ${child.pid}`) }, error.message)
  t.match(errors.at(-1).message, /occupied/)
})

t.test('what is no QMP is refused', async (t) => {
  const bad = [
    'HTTP/1.1 200 OK\r\n',
    '[]\n',
    '{"return":{}}\n',
    '{"QMP":{}}\n',
    '"x"\n',
    '{"QMP":{"version":{"qemu":{}}}}\n',
  ]
  for (const hello of bad) {
    t.equal(
      await code(QmpClient.connect(await serve(t, hello), soon(500))),
      'HYPERVISOR_PROTOCOL',
      JSON.stringify(hello),
    )
  }
  t.equal(
    await code(QmpClient.connect(await serve(t, 'x'.repeat(longestLine + 1)), soon(2000))),
    'HYPERVISOR_PROTOCOL',
    'a line without end',
  )
})

t.test('answers are matched by id, with events between', async (t) => {
  const held: (() => void)[] = []
  const file = await serve(t, greeting, (command, id, socket) => {
    held.push(() => {
      socket.write(
        `{"event":"STOP","timestamp":{"seconds":5,"microseconds":7}}\r\n{"return":{"is":"${command}"},"id":${id}}\r\n`,
      )
    })
    if (held.length === 3) for (const send of held.reverse()) send()
  })
  const client = await QmpClient.connect(file, soon(500))
  const events: number[] = []
  client.onEvent((event) => events.push(event.atUs))
  const stop = client.event(({ name }) => name === 'STOP', 'stop', soon(1000))
  const answers = client.executeAll(
    [
      ['a', {}],
      ['b', {}],
      ['c', {}],
    ],
    soon(1000),
  )
  t.same(await Promise.all(answers), [{ is: 'a' }, { is: 'b' }, { is: 'c' }])
  t.same(events, [5_000_007, 5_000_007, 5_000_007])
  t.equal((await stop).atUs, 5_000_007)
  client.close()
})

t.test('a refusal, a silence, a death', async (t) => {
  const file = await serve(t, greeting, (command, id, socket) => {
    if (command === 'refused') socket.write(`{"error":{"class":"GenericError","desc":"no such thing"},"id":${id}}\n`)
    if (command === 'late') setTimeout(() => socket.write(`{"return":{},"id":${id}}\n`), 100)
    if (command === 'good') socket.write(`{"return":1,"id":${id}}\n`)
    if (command === 'fatal') socket.end('{"ret')
  })
  const client = await QmpClient.connect(file, soon(500))
  const refusal = (await client.execute('refused', {}, soon(500)).catch((e) => e)) as SnapswitchError
  t.equal(refusal.code, 'HYPERVISOR_REFUSED')
  t.match(refusal.message, /no such thing/)
  t.equal(await code(client.execute('silent', {}, tooSoon(50))), 'HYPERVISOR_UNREACHABLE')
  t.equal(await code(client.execute('late', {}, tooSoon(50))), 'HYPERVISOR_UNREACHABLE')
  await new Promise((resolve) => setTimeout(resolve, 120))
  t.equal(await client.execute('good', {}, soon(500)), 1, 'a late answer does no harm')
  const event = client.event(() => true, 'anything', soon(5000))
  t.equal(await code(client.execute('fatal', {}, soon(5000))), 'HYPERVISOR_UNREACHABLE')
  t.equal(await code(event), 'HYPERVISOR_UNREACHABLE', 'who waits for an event hears of it too')
  t.equal(await code(client.execute('good', {}, soon(500))), 'HYPERVISOR_UNREACHABLE', 'and everyone after')
  t.equal(client.failure?.code, 'HYPERVISOR_UNREACHABLE')
})

t.test('an answer to a question never asked ends the connection', async (t) => {
  const file = await serve(t, greeting, (_command, _id, socket) => socket.write('{"return":{},"id":999}\n'))
  const client = await QmpClient.connect(file, soon(500))
  t.equal(await code(client.execute('x', {}, soon(500))), 'HYPERVISOR_PROTOCOL')
})

t.test('lines come out the same however the bytes are cut', (t) => {
  const property = () =>
    fc.assert(
      fc.property(
        fc.array(fc.string({ unit: 'grapheme' })),
        fc.array(fc.integer({ min: 1, max: 9 })),
        (texts, cuts) => {
          const lines = texts.map((text) => JSON.stringify(text))
          const bytes = Buffer.from(lines.map((line) => `${line}\r\n`).join(''))
          const splitter = new LineSplitter()
          const out: string[] = []
          let at = 0
          for (let i = 0; at < bytes.length; i++) {
            const next = at + (cuts[i % Math.max(1, cuts.length)] ?? 5)
            out.push(...splitter.push(bytes.subarray(at, next)))
            at = next
          }
          return JSON.stringify(out) === JSON.stringify(lines)
        },
      ),
    )
  t.doesNotThrow(property)
  t.end()
})

t.test('answers that tell of more than any machine has are refused, not worked off', async (t) => {
  const many = JSON.stringify(Array.from({ length: 5000 }, (_, at) => ({ name: `d${at}`, type: 'child<x>' })))
  const asked = new Set<string>()
  const file = await serve(t, greeting, (command, id, socket) => {
    asked.add(command)
    socket.write(`{"return":${many},"id":${id}}\n`)
  })
  const client = await QmpClient.connect(file, soon(500))
  t.teardown(() => client.close())
  t.equal(await code(takeInventory(client, soon(20_000))), 'HYPERVISOR_PROTOCOL', 'devices and objects')
  t.equal(await code(askBlockGraph(client, soon(20_000))), 'HYPERVISOR_PROTOCOL', 'drives')
  t.ok(asked.has('query-block'))
})

t.test('no line makes the parser do anything but parse or throw an Error', (t) => {
  const property = () =>
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.json(),
          fc.object().map((o) => JSON.stringify(o)),
        ),
        (line) => {
          try {
            parseMessage(line)
          } catch (error) {
            return error instanceof Error && error.message.length < 200
          }
          return true
        },
      ),
    )
  t.doesNotThrow(property)
  t.end()
})
