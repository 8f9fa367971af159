// Whatever comes in over the API's socket, the daemon answers or hangs up, keeps forwarding, and keeps its descriptors.

import { readdirSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import t from 'tap'
import { sleep, until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { root, World } from './world.js'

t.setTimeout(fileLimit(120_000))

/**
 * Sends bytes and returns all that comes back until the daemon hangs up. It may do so before it was sent everything;
 * then what it has answered may be lost on the way, and is asked for again.
 */
async function exchange(path: string, bytes: string | Buffer): Promise<string> {
  for (let tries = 1; ; tries++) {
    const { text, isCutOff } = await exchangeOnce(path, bytes)
    if (text !== '' || !isCutOff || tries === 20) return text
  }
}

function exchangeOnce(path: string, bytes: string | Buffer): Promise<{ text: string; isCutOff: boolean }> {
  return new Promise((resolve, reject) => {
    const socket = connect(path)
    let text = ''
    let isCutOff = false
    const timer = setTimeout(() => socket.destroy(), patience(10_000))
    socket.setEncoding('latin1').on('data', (data) => {
      text += data
    })
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EPIPE' && error.code !== 'ECONNRESET') reject(error)
      isCutOff = true
    })
    socket.on('close', () => {
      clearTimeout(timer)
      resolve({ text, isCutOff })
    })
    socket.write(bytes)
  })
}

const request = (line: string, headers: string[] = [], body = '') =>
  [line, 'host: x', 'connection: close', ...headers, '', body].join('\r\n')
const json = (line: string, body: string) =>
  request(line, ['content-type: application/json', `content-length: ${Buffer.byteLength(body)}`], body)
const errorOf = (answer: string) => {
  const body = JSON.parse(answer.slice(answer.indexOf('\r\n\r\n') + 4)) as {
    error: { code: string; message: string; action: string }
  }
  return { status: Number(answer.split(' ')[1]), ...body.error }
}

t.test('garbage, large bodies, slow and many clients', root, async (t) => {
  const world = World.for(t)
  await world.namespace('host')
  await world.endpoint('one', 'host', { address: '10.66.0.1' })
  await world.endpoint('two', 'host', { address: '10.66.0.2' })
  const ports = { one: { device: 'one', vm: 'one' }, two: { device: 'two', vm: 'two' } }
  const daemon = await world.switch('host', { networks: { lab0: { ports } } })
  const path = world.socket('host')
  const descriptors = () => readdirSync(`/proc/${daemon.pid}/fd`).length
  const before = descriptors()

  await t.test('what is no HTTP is refused', async (t) => {
    const garbage = ['\0\0\0\0\r\n\r\n', 'GET\r\n\r\n', 'GET / HTTP/9.9\r\n\r\n', 'EHLO me\r\n\r\n', '{"epoch":1}\n\n']
    const binary = Buffer.from(Array.from({ length: 4096 }, (_, i) => (i * 167 + 13) & 0xff))
    for (const bytes of [...garbage, binary]) t.match(await exchange(path, bytes), /^HTTP\/1\.1 400 /)
    t.match(await exchange(path, request('GET /v1/status HTTP/1.1', [`x: ${'y'.repeat(100_000)}`])), /^HTTP\/1\.1 431 /)
    t.match(
      await exchange(
        path,
        request('POST /v1/status HTTP/1.1', ['content-length: 5', 'transfer-encoding: chunked'], '0\r\n\r\n'),
      ),
      /^HTTP\/1\.1 400 /,
      'a smuggled length',
    )
  })

  await t.test('what is HTTP, but not ours, gets an error with a code and an action', async (t) => {
    const prepare = 'POST /v1/networks/lab0/snapshots/x/prepare HTTP/1.1'
    const cases: [string, number, string][] = [
      [request('GET /nowhere HTTP/1.1'), 404, 'REQUEST_INVALID'],
      [request('DELETE /v1/status HTTP/1.1'), 404, 'REQUEST_INVALID'],
      [json(prepare, '{"epoch":'), 400, 'REQUEST_INVALID'],
      [json(prepare, '{"epoch":"one"}'), 400, 'REQUEST_INVALID'],
      [json(prepare, '[]'), 400, 'REQUEST_INVALID'],
      [json(prepare, '{"__proto__":{"x":1}}'), 400, 'REQUEST_INVALID'],
      [request(prepare, ['content-type: text/plain', 'content-length: 2'], 'hi'), 400, 'REQUEST_INVALID'],
      [request('GET /v1/networks/none/fdb HTTP/1.1'), 404, 'NETWORK_UNKNOWN'],
      [request('GET /v1/networks/..%2f..%2fetc/fdb HTTP/1.1'), 400, 'REQUEST_INVALID'],
      [request('DELETE /v1/networks/lab0/snapshots/..%2f..%2f..%2fetc HTTP/1.1'), 400, 'REQUEST_INVALID'],
      [request('DELETE /v1/networks/lab0/snapshots/x?epoch=all HTTP/1.1'), 400, 'REQUEST_INVALID'],
      [request('GET /v1/networks/%00/fdb HTTP/1.1'), 400, 'REQUEST_INVALID'],
      [request('GET /v1/networks/%zz/fdb HTTP/1.1'), 400, 'REQUEST_INVALID'],
      [request(`GET /v1/networks/${'n'.repeat(200)}/fdb HTTP/1.1`), 400, 'REQUEST_INVALID'],
    ]
    for (const [bytes, status, code] of cases) {
      const answer = await exchange(path, bytes)
      const found = errorOf(answer)
      t.match(found, { status, code, action: /\w+ .*\w/ }, bytes.split('\r\n')[0])
      t.notMatch(answer, /node_modules|\.js:/, 'no insides')
    }
  })

  await t.test('a body over the limit is refused before it is read', async (t) => {
    const head = ['content-type: application/json', `content-length: ${1 << 30}`]
    const answer = await exchange(
      path,
      request('POST /v1/networks/lab0/snapshots/x/prepare HTTP/1.1', head, '{"epoch":1'),
    )
    t.match(errorOf(answer), { code: 'REQUEST_INVALID', status: 400 })
    const chunk = `10000\r\n${' '.repeat(65536)}\r\n`
    const chunked = ['content-type: application/json', 'transfer-encoding: chunked']
    const endless = request('POST /v1/networks/lab0/snapshots/x/prepare HTTP/1.1', chunked, chunk.repeat(200))
    t.match(errorOf(await exchange(path, endless)), { code: 'REQUEST_INVALID' })
  })

  await t.test('clients that say nothing, or a byte now and then, hold up nobody', async (t) => {
    const idle: Socket[] = Array.from({ length: 200 }, () => connect(path))
    for (const socket of idle) socket.on('error', () => undefined)
    const slow = connect(path)
    const drip = setInterval(() => slow.write('G'), 100)
    slow.on('error', () => undefined)
    slow.write('GET /v1/status HTTP/1.1\r\nx: ')
    await daemon.client.status({ deadlineMs: patience(5000) })
    t.notOk(slow.destroyed, 'a status while the slow one is still at it')
    t.equal((await world.pings('one', '10.66.0.2')).code, 0)
    await until('the slow one to be cut off', 60_000, () => (slow.destroyed ? true : undefined), 200)
    clearInterval(drip)
    for (const socket of idle) socket.destroy()
  })

  await t.test('a client that goes away in the middle of an answer', async () => {
    for (let i = 0; i < 50; i++) {
      const socket = connect(path)
      socket.on('error', () => undefined)
      socket.write(request('GET /v1/openapi.json HTTP/1.1'))
      await sleep(i % 5)
      socket.destroy()
    }
  })

  await t.test('after all that', async (t) => {
    t.equal(daemon.running, true)
    t.equal((await world.pings('one', '10.66.0.2')).code, 0)
    await until('descriptors to be given back', 10_000, () => (descriptors() <= before + 2 ? true : undefined))
    t.ok(descriptors() <= before + 2, `${before} descriptors before, ${descriptors()} now`)
    t.equal((await daemon.client.status({ deadlineMs: patience(5000) })).datapathRestarts, 0)
    const stat = await world.in('host', 'stat', '-c', '%a', path)
    t.equal(stat, '660\n', 'the socket is for root and its group only')
    t.equal(await daemon.stop(), 0)
  })
})
