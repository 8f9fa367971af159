// Client and server over a real unix socket: answers, refusals, silence, bounds, streams, files, stale sockets.

import { createHash } from 'node:crypto'
import { stat, writeFile } from 'node:fs/promises'
import { createConnection, createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { Type } from '@sinclair/typebox'
import t, { type Test } from 'tap'
import { Connection, lineLimit, splitLines } from '../../src/api/connection.js'
import { CoordinatorClient } from '../../src/api/coordinator-client.js'
import { parseEndpoint } from '../../src/api/endpoint.js'
import { pathOf, routes } from '../../src/api/paths.js'
import { CreateRequest, type Progress } from '../../src/api/schemas.js'
import { createApi, streamNdjson, uploadOf } from '../../src/api/server.js'
import { SwitchClient } from '../../src/api/switch-client.js'
import { validator } from '../../src/api/validate.js'
import { type ErrorReport, SnapswitchError } from '../../src/errors/errors.js'
import { silent, workDirectory } from '../coordinator/fake-switch.js'
import { preflightOf } from '../coordinator/fixtures.js'
import { until } from '../lab/command.js'
import { patience } from '../patience.js'

const soon = { deadlineMs: patience(patience(2000)) }
const anything = validator(Type.Unknown())

async function api(t: Test) {
  const socketPath = join(await workDirectory(t), 'run', 'api.sock')
  const made = await createApi({ endpoint: parseEndpoint(socketPath), logger: silent, title: 'test', version: '1' })
  t.teardown(() => made.close())
  const connection = new Connection({
    endpoint: parseEndpoint(socketPath),
    who: 'the daemon',
    whenUnreachable: 'Start it.',
  })
  t.teardown(() => connection.close())
  const client = new SwitchClient(socketPath)
  t.teardown(() => client.close())
  return { ...made, socketPath, connection, client }
}

/** A server that speaks as the test tells it, byte by byte. */
async function rawServer(t: Test, onRequest: (socket: Socket) => void): Promise<string> {
  const socketPath = join(await workDirectory(t), 'raw.sock')
  const sockets = new Set<Socket>()
  const server: Server = createServer((socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.once('data', () => onRequest(socket))
  })
  await new Promise<void>((resolve) => server.listen(socketPath, resolve))
  t.teardown(async () => {
    for (const socket of sockets) socket.destroy()
    await new Promise((resolve) => server.close(resolve))
  })
  return socketPath
}

const chunked = 'HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n'
const chunk = (text: string) => `${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`

t.test('answers, refusals and their codes', async (t) => {
  const { app, listen, client, connection } = await api(t)
  app.get(routes.preflight, () => preflightOf('a', ['vm1']))
  app.get(routes.ports, () => {
    throw new SnapswitchError('PORT_UNKNOWN', 'no such port', 'Look again.')
  })
  app.post(routes.snapshots, { schema: { body: CreateRequest } }, () => ({}))
  app.get(routes.fdb, () => {
    throw new Error('a defect')
  })
  await listen()
  t.same(await client.preflight('lab0', soon), preflightOf('a', ['vm1']))
  await t.rejects(client.ports(soon), { code: 'PORT_UNKNOWN', message: 'no such port', action: 'Look again.' })
  await t.rejects(client.fdb('lab0', soon), { code: 'INTERNAL', message: 'a defect' })
  const post = (body: unknown) => connection.json('POST', routes.snapshots, anything, soon, body)
  t.same(await post({ network: 'lab0', name: 'x' }), {})
  await t.rejects(post({ network: 'lab0', name: 'a/b' }), {
    code: 'REQUEST_INVALID',
    message: /name: "a\/b" does not fit/,
  })
  await t.rejects(post({ network: 'lab0', nam: 'x' }), {
    code: 'REQUEST_INVALID',
    message: /"nam"; did you mean "name"/,
  })
  await t.rejects(post({ network: 'lab0', name: 'x', deadlineMs: '5' }), {
    code: 'REQUEST_INVALID',
    message: /deadlineMs/,
  })
  await t.rejects(post('x'.repeat(9 << 20)), { code: 'REQUEST_INVALID' }, 'a body that is too large')
  await t.rejects(connection.json('GET', '/v1/nothing', anything, soon), { code: 'REQUEST_INVALID', message: /no GET/ })
  const openapi = (await connection.json('GET', routes.openapi, anything, soon)) as { paths: Record<string, unknown> }
  t.ok(openapi.paths['/v1/snapshots'], 'the API describes itself')
})

t.test('requests of the wrong kind: refused in the same form, and no file stays open', async (t) => {
  const { app, listen, socketPath } = await api(t)
  app.post(routes.snapshots, { schema: { body: CreateRequest } }, () => ({}))
  app.put(routes.file, async (request) => ({ bytes: uploadOf(request.body).readableLength }))
  await listen()
  const said = async (request: string) => {
    const socket = createConnection(socketPath)
    socket.end(request)
    let answer = ''
    for await (const piece of socket) answer += String(piece)
    return JSON.parse(answer.slice(answer.indexOf('\r\n\r\n'))) as { error: ErrorReport }
  }
  const upload = `${routes.file} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type:`
  const requests: Record<string, RegExp> = {
    'no HTTP\r\n\r\n': /no readable HTTP/,
    [`GET /${'x'.repeat(20_000)} HTTP/1.1\r\n\r\n`]: /no readable HTTP/,
    [`PUT ${upload} application/json\r\nContent-Length: 2\r\n\r\n{}`]: /a file is wanted/,
    [`PUT ${upload.replace('Content-Type:', '')}Content-Length: 0\r\n\r\n`]: /a file is wanted/,
    [`POST ${upload.replace(routes.file, routes.snapshots)} application/octet-stream\r\nContent-Length: 2\r\n\r\n{}`]:
      /JSON is wanted/,
  }
  for (const [request, message] of Object.entries(requests)) {
    t.match((await said(request)).error, { code: 'REQUEST_INVALID', message }, request.slice(0, 60))
  }
})

t.test('names are escaped into one path segment', async (t) => {
  t.equal(pathOf('snapshot', { network: 'a/../b', name: 'x?y#z' }), '/v1/snapshots/a%2F..%2Fb/x%3Fy%23z')
  t.equal(pathOf('status', {}), '/v1/status')
  // Prometheus asks for metrics by a path of its own, which has no version.
  for (const pattern of Object.values(routes)) if (pattern !== '/metrics') t.match(pattern, /^\/v1\//)
})

t.test('an answer that does not fit its schema', async (t) => {
  const { app, listen, client } = await api(t)
  app.get(routes.preflight, () => ({ host: 'a' }))
  await listen()
  await t.rejects(client.preflight('lab0', soon), { code: 'INTERNAL', message: /does not fit its schema.*version/ })
})

t.test('nobody there', async (t) => {
  const directory = await workDirectory(t)
  const to = (path: string) => {
    const client = new CoordinatorClient(join(directory, path))
    t.teardown(() => client.close())
    return client.status(soon)
  }
  await t.rejects(to('none.sock'), {
    code: 'SOCKET_UNREACHABLE',
    message: /no such socket/,
    action: /snapswitch coordinator/,
  })
  await writeFile(join(directory, 'file.sock'), '')
  await t.rejects(to('file.sock'), { code: 'SOCKET_UNREACHABLE' })
})

t.test('a silent server', async (t) => {
  const client = new SwitchClient(await rawServer(t, () => {}))
  t.teardown(() => client.close())
  await t.rejects(client.status({ deadlineMs: 200 }), { code: 'REQUEST_TIMEOUT', message: /within 200 ms/ })
  const controller = new AbortController()
  const asked = client.status({ deadlineMs: patience(10_000), signal: controller.signal })
  setTimeout(() => controller.abort(), 50)
  await t.rejects(asked, { code: 'SNAPSHOT_DISCARDED' }, 'called off by the caller')
})

t.test('a server that falls silent in the middle of a stream, or closes it', async (t) => {
  const item = JSON.stringify({ type: 'paused', vm: 'vm1', atUs: 1 })
  const take = async (speak: (socket: Socket) => void, deadlineMs = patience(300)) => {
    const client = new SwitchClient(await rawServer(t, speak))
    t.teardown(() => client.close())
    const seen: unknown[] = []
    try {
      for await (const event of client.take('lab0', 'demo', { deadlineMs })) seen.push(event)
    } catch (error) {
      return { seen, code: (error as SnapswitchError).code }
    }
    return { seen, code: null }
  }
  const start = (socket: Socket) => socket.write(chunked + chunk(`${item}\n`))
  const breakOff = (socket: Socket) => {
    start(socket)
    setTimeout(() => socket.destroy(), 50)
  }
  t.match(await take(start), { seen: { length: 1 }, code: 'REQUEST_TIMEOUT' })
  t.match(await take(breakOff, patience(2000)), {
    seen: { length: 1 },
    code: 'SOCKET_UNREACHABLE',
  })
  t.match(await take((s) => s.end(chunked + chunk(item.slice(0, 10)) + chunk('')), patience(2000)), {
    code: 'SOCKET_UNREACHABLE',
  })
  t.match(await take((s) => s.end(chunked + chunk('{nonsense}\n') + chunk('')), patience(2000)), { code: 'INTERNAL' })
  t.match(await take((s) => s.end('SSH-2.0-OpenSSH\r\n'), patience(2000)), { code: 'SOCKET_UNREACHABLE' })
})

t.test('a line without end is cut off at its bound', async (t) => {
  const client = new SwitchClient(
    await rawServer(t, (socket) => {
      socket.write(chunked)
      const piece = chunk('x'.repeat(1 << 16))
      let open = true
      socket.on('close', () => {
        open = false
      })
      const pour = () => {
        while (open && socket.write(piece));
        if (open) socket.once('drain', pour)
      }
      pour()
    }),
  )
  t.teardown(() => client.close())
  const read = async () => {
    for await (const _ of client.take('lab0', 'demo', { deadlineMs: patience(10_000) }));
  }
  await t.rejects(read(), { code: 'INTERNAL', message: `a line is longer than ${lineLimit} bytes` })
})

t.test('lines over chunks', async (t) => {
  const lines = async (chunks: string[], limit = 100) => {
    const found: string[] = []
    const source = Readable.from(chunks.map((c) => Buffer.from(c)))
    for await (const line of splitLines(source, limit, 'x')) found.push(line.toString())
    return found
  }
  t.same(await lines(['a\nb', 'c\n', '\nd\n']), ['a', 'bc', '', 'd'])
  t.same(await lines([]), [])
  t.same(await lines(['1234', '5\n'], 5), ['12345'])
  await t.rejects(lines(['1234', '56\n'], 5), { message: /longer than 5/ })
  await t.rejects(lines(['a\nb']), { code: 'SOCKET_UNREACHABLE' })
})

t.test('a stream of objects: as they come, an error as its last line, ended when the reader goes', async (t) => {
  const { app, listen, socketPath } = await api(t)
  let ended = 0
  const failure = (error: ErrorReport): Progress => ({ type: 'error', error })
  app.post(routes.snapshots, (_request, reply) => {
    const items = async function* (): AsyncGenerator<Progress> {
      try {
        for (let n = 0; ; n++) {
          yield { type: 'step', text: `step ${n}`, atUs: n }
          if (n === 3) throw new SnapswitchError('STORE_FULL', 'no room', 'Make some.')
          await new Promise((resolve) => setTimeout(resolve, 20))
        }
      } finally {
        ended++
      }
    }
    return streamNdjson(reply, items(), failure)
  })
  await listen()
  const client = new CoordinatorClient(socketPath)
  t.teardown(() => client.close())
  const types: string[] = []
  for await (const progress of client.create({ network: 'lab0', name: 'x' }, soon)) types.push(progress.type)
  t.same(types, ['step', 'step', 'step', 'step', 'error'])
  for await (const _ of client.create({ network: 'lab0', name: 'x' }, soon)) break
  await until('the end', 5000, () => (ended >= 2 ? true : undefined), 10).catch(() => undefined)
  t.equal(ended, 2, 'the server stopped producing for a reader that left')
})

t.test('files: megabytes up and down, whole', async (t) => {
  const { app, listen, client } = await api(t)
  const content = Buffer.alloc(20 << 20, 'snapswitch ')
  const digest = createHash('sha256').update(content).digest('hex')
  let received = ''
  app.get(routes.file, (_request, reply) => reply.type('application/octet-stream').send(Readable.from([content])))
  app.put(routes.file, async (request) => {
    const hash = createHash('sha256')
    for await (const piece of request.body as Readable) hash.update(piece as Buffer)
    received = hash.digest('hex')
    return {}
  })
  await listen()
  const stream = await client.downloadFile('lab0', 'demo', digest, soon)
  await client.uploadFile('lab0', 'demo', { digest, bytes: content.length }, stream, { deadlineMs: patience(20_000) })
  t.equal(received, digest)
  const torn = Readable.from([content.subarray(0, 1000)])
  const short = client.uploadFile('lab0', 'demo', { digest, bytes: content.length }, torn, soon)
  await t.rejects(short, { code: 'SOCKET_UNREACHABLE' }, 'fewer bytes than promised')
})

t.test('a file that breaks off, falls silent, or is not wanted any more', async (t) => {
  const digest = 'ab'.repeat(32)
  const head = 'HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\n'
  const counted = `${head}content-length: 1000\r\n\r\nhalf`
  const inChunks = `${head}transfer-encoding: chunked\r\n\r\n${chunk('half')}`
  const calledOff = new AbortController()
  const ends = {
    'closed, by its length': { begin: counted, next: (socket: Socket) => socket.end(), code: 'SOCKET_UNREACHABLE' },
    'closed, in chunks': { begin: inChunks, next: (socket: Socket) => socket.end(), code: 'SOCKET_UNREACHABLE' },
    destroyed: { begin: inChunks, next: (socket: Socket) => socket.destroy(), code: 'SOCKET_UNREACHABLE' },
    silent: { begin: counted, next: () => {}, code: 'REQUEST_TIMEOUT', options: { deadlineMs: patience(200) } },
    'called off': { begin: counted, next: () => calledOff.abort(), code: 'SNAPSHOT_DISCARDED' },
  }
  for (const [name, { begin, next, code, ...more }] of Object.entries(ends)) {
    let socket: Socket | undefined
    const client = new SwitchClient(
      await rawServer(t, (one) => {
        socket = one
        one.write(begin)
      }),
    )
    t.teardown(() => client.close())
    const options = { ...soon, signal: calledOff.signal, ...('options' in more ? more.options : {}) }
    const stream = await client.downloadFile('lab0', 'demo', digest, options)
    const read = async () => {
      for await (const piece of stream) {
        t.equal(piece.toString(), 'half', name)
        next(socket!)
      }
    }
    await t.rejects(read(), { name: 'SnapswitchError', code }, name)
  }
})

t.test('a file that nobody reads to its end: its connection is let go', async (t) => {
  let closed = false
  const client = new SwitchClient(
    await rawServer(t, (socket) => {
      socket.on('close', () => {
        closed = true
      })
      socket.write('HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: 1000\r\n\r\nhalf')
    }),
  )
  t.teardown(() => client.close())
  const stream = await client.downloadFile('lab0', 'demo', 'ab'.repeat(32), soon)
  stream.destroy()
  await until('the connection is closed', patience(5000), () => (closed ? true : undefined), 5)
})

t.test('the socket file: mode, stale ones, living ones', async (t) => {
  const { listen, socketPath, close } = await api(t)
  await listen()
  t.equal((await stat(socketPath)).mode & 0o777, 0o660)
  const second = await createApi({ endpoint: parseEndpoint(socketPath), logger: silent, title: 'test', version: '1' })
  await t.rejects(second.listen(), { code: 'DEVICE_BUSY', message: /another daemon listens/ })
  await second.close()
  t.ok((await stat(socketPath)).isSocket(), 'the refused one has not removed it')
  const long = {
    endpoint: parseEndpoint(`${socketPath}${'x'.repeat(108)}`),
    logger: silent,
    title: 'test',
    version: '1',
  }
  await t.rejects(
    (await createApi(long)).listen(),
    { code: 'SYSCALL', message: /107 fit/ },
    'a path that would be cut off',
  )
  await close()
  await t.rejects(stat(socketPath), { code: 'ENOENT' })

  const path = join(await workDirectory(t), 'stale.sock')
  const { execFileSync } = await import('node:child_process')
  const script = `require('node:net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`
  t.throws(() => execFileSync(process.execPath, ['-e', script]), 'a daemon that was killed')
  t.ok((await stat(path)).isSocket(), 'leaves its socket')
  const next = await createApi({ endpoint: parseEndpoint(path), logger: silent, title: 'test', version: '1' })
  await next.listen()
  await next.close()

  await writeFile(path, 'precious')
  const third = await createApi({ endpoint: parseEndpoint(path), logger: silent, title: 'test', version: '1' })
  await t.rejects(third.listen(), { code: 'DEVICE_BUSY', message: /is no socket/ })
  await third.close()
  t.ok((await stat(path)).isFile(), 'what is no socket is left alone')
})
