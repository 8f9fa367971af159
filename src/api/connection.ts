// HTTP to a daemon: every call has a deadline, every answer a bound and a schema, every failure a code.

import { PassThrough, type Readable } from 'node:stream'
import { Type } from '@sinclair/typebox'
import { type Dispatcher, Pool } from 'undici'
import { type ErrorReport, SnapswitchError } from '../errors/errors.js'
import { describeEndpoint, type Endpoint, poolFor } from './endpoint.js'
import { ErrorReportSchema } from './schemas.js'
import { describeFinding, type Validator, validator } from './validate.js'

export interface CallOptions {
  /** Milliseconds until the whole answer must be here. */
  readonly deadlineMs: number
  /** Calls the request off; the call then throws SNAPSHOT_DISCARDED. */
  readonly signal?: AbortSignal
}

export interface ConnectionOptions {
  readonly endpoint: Endpoint
  /** For messages: `the switch daemon of host a`. */
  readonly who: string
  /** What to do when nobody answers on the socket; a full sentence. */
  readonly whenUnreachable: string
}

/** How long something may be, and what to do when it is longer. */
export interface Limit {
  readonly bytes: number
  /** A full sentence. */
  readonly whenLonger: string
}

const whenLonger = 'Check that the socket belongs to snapswitch, and that both ends have the same version.'
/** Of a JSON answer, unless its caller says otherwise. A manifest of 64 machines is well under one MiB. */
const answerLimit: Limit = { bytes: 16 * 1024 * 1024, whenLonger }
/** Longest line of a stream, bytes. */
export const lineLimit = 4 * 1024 * 1024

const CONNECT_MS = 5_000
const CONNECTIONS = 16

type Method = 'GET' | 'POST' | 'PUT' | 'DELETE'

const isErrorBody = validator(Type.Object({ error: ErrorReportSchema }))

export class Connection {
  readonly #pool: Pool
  readonly #options: ConnectionOptions

  constructor(options: ConnectionOptions) {
    this.#options = options
    const { origin, options: way } = poolFor(options.endpoint, CONNECT_MS)
    // Deadlines are per call, below; undici's own would cut long streams and loads.
    this.#pool = new Pool(origin, {
      ...way,
      connections: CONNECTIONS,
      pipelining: 1,
      headersTimeout: 0,
      bodyTimeout: 0,
    })
  }

  get who(): string {
    return this.#options.who
  }

  /** One request, one JSON answer that fits the schema. */
  async json<T>(
    method: Method,
    path: string,
    fits: Validator<T>,
    options: CallOptions,
    body?: unknown,
    limit: Limit = answerLimit,
  ): Promise<T> {
    return this.#withDeadline(options, async (signal) => {
      const response = await this.#send(method, path, signal, body)
      const value = parseJson(await readAll(response.body, limit), this.who)
      return this.#fitting(value, fits)
    })
  }

  /** One request, a stream of JSON objects, one a line. Throws SOCKET_UNREACHABLE when it breaks off. */
  async *ndjson<T>(
    method: Method,
    path: string,
    fits: Validator<T>,
    options: CallOptions,
    body?: unknown,
  ): AsyncGenerator<T, void, undefined> {
    const timed = startDeadline(options)
    let response: Dispatcher.ResponseData | undefined
    try {
      response = await this.#send(method, path, timed.signal, body)
      for await (const line of splitLines(response.body, lineLimit, this.who)) {
        yield this.#fitting(parseJson(line, this.who), fits)
      }
    } catch (thrown) {
      throw this.#explain(thrown, options, timed)
    } finally {
      timed.end()
      response?.body.on('error', () => {}).destroy()
    }
  }

  /**
   * A file's bytes as a stream, which fails as a call does; the deadline covers all of it. Destroy the stream to give
   * up.
   */
  async download(path: string, options: CallOptions): Promise<Readable> {
    const timed = startDeadline(options)
    try {
      const { body } = await this.#send('GET', path, timed.signal)
      const content = new PassThrough()
      body.on('error', (thrown) => content.destroy(this.#explain(thrown, options, timed)))
      content.once('close', () => {
        timed.end()
        body.destroy()
      })
      return body.pipe(content)
    } catch (thrown) {
      timed.end()
      throw this.#explain(thrown, options, timed)
    }
  }

  /** A stream without end, until either side ends it. The deadline is for its beginning. */
  async open(method: Method, path: string, options: CallOptions, body?: unknown): Promise<Readable> {
    const timed = startDeadline(options)
    try {
      return (await this.#send(method, path, timed.signal, body)).body
    } catch (thrown) {
      throw this.#explain(thrown, options, timed)
    } finally {
      timed.end()
    }
  }

  /** Sends a stream of exactly `bytes` bytes. */
  async upload(path: string, content: Readable, bytes: number, options: CallOptions): Promise<void> {
    await this.#withDeadline(options, async (signal) => {
      const response = await this.#pool.request({
        method: 'PUT',
        path,
        body: content,
        headers: { 'content-type': 'application/octet-stream', 'content-length': String(bytes) },
        signal,
      })
      await this.#refusal(response)
      await readAll(response.body, answerLimit)
    })
  }

  /** Ends the connections at once; calls under way fail. */
  async close(): Promise<void> {
    await this.#pool.destroy()
  }

  async #send(method: Method, path: string, signal: AbortSignal, body?: unknown): Promise<Dispatcher.ResponseData> {
    // A POST without a body still says `{}`: the server need not care whether a route has a body schema.
    const payload = method === 'POST' || body !== undefined ? JSON.stringify(body ?? {}) : null
    const headers = payload === null ? {} : { 'content-type': 'application/json' }
    // Connections kept from before may be of a daemon that has ended since, each of them.
    for (let left = CONNECTIONS; ; left--) {
      try {
        const response = await this.#pool.request({ method, path, body: payload, headers, signal })
        await this.#refusal(response)
        return response
      } catch (error) {
        if (left === 0 || !mayBeRepeated(method, this.#options.endpoint, error)) throw error
      }
    }
  }

  /** Throws the error that a refusing answer carries. */
  async #refusal(response: Dispatcher.ResponseData): Promise<void> {
    if (response.statusCode < 400) return
    const text = (await readAll(response.body, answerLimit)).toString('utf8')
    let body: unknown
    try {
      body = JSON.parse(text)
    } catch {
      body = undefined
    }
    if (isErrorBody(body)) throw SnapswitchError.fromReport(body.error as ErrorReport)
    throw new SnapswitchError(
      'INTERNAL',
      `${this.who} answered with HTTP status ${response.statusCode} and no error report: ${text.slice(0, 200)}`,
      'Check that the socket belongs to snapswitch; see the daemon’s log.',
    )
  }

  #fitting<T>(value: unknown, fits: Validator<T>): T {
    if (fits(value)) return value
    const found = fits.findings().slice(0, 3).map(describeFinding).join('; ')
    throw new SnapswitchError(
      'INTERNAL',
      `${this.who} sent an answer that does not fit its schema: ${found}`,
      'Check that all daemons and the command have the same version.',
    )
  }

  async #withDeadline<T>(options: CallOptions, call: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const timed = startDeadline(options)
    try {
      return await call(timed.signal)
    } catch (thrown) {
      throw this.#explain(thrown, options, timed)
    } finally {
      timed.end()
    }
  }

  #explain(thrown: unknown, options: CallOptions, timed: TimedSignal): SnapswitchError {
    if (thrown instanceof SnapswitchError) return thrown
    if (timed.expired()) {
      return new SnapswitchError(
        'REQUEST_TIMEOUT',
        `${this.who} did not answer within ${options.deadlineMs} ms`,
        'See the daemon’s log; give a longer deadline if the machine is slow.',
        thrown,
      )
    }
    if (options.signal?.aborted === true) {
      return new SnapswitchError(
        'SNAPSHOT_DISCARDED',
        `the request to ${this.who} was called off`,
        'Nothing to do.',
        thrown,
      )
    }
    const { code, message } = thrown as NodeJS.ErrnoException
    if (code === 'EACCES' || code === 'EPERM') {
      return new SnapswitchError(
        'PERMISSION',
        `may not open ${describeEndpoint(this.#options.endpoint)}`,
        'Run the command as root, or as a member of the group that owns the socket.',
        thrown,
      )
    }
    const reason = unreachableReasons[code ?? ''] ?? message
    return new SnapswitchError(
      'SOCKET_UNREACHABLE',
      `${this.who} does not answer on ${describeEndpoint(this.#options.endpoint)}: ${reason}`,
      this.#options.whenUnreachable,
      thrown,
    )
  }
}

const unreachableReasons: Readonly<Record<string, string>> = {
  ENOENT: 'no such socket',
  ECONNREFUSED: 'nobody listens there any more',
  UND_ERR_CONNECT_TIMEOUT: 'connecting took too long',
  UND_ERR_SOCKET: 'it closed the connection in the middle',
  ECONNRESET: 'it closed the connection in the middle',
}

/**
 * Nobody has got the whole of what could not be written. A Unix socket is reset only when its other end is closed with
 * something left unread (unix_release_sock, net/unix/af_unix.c): nobody has got that request whole, either. Of the
 * rest, what changes nothing.
 */
function mayBeRepeated(method: Method, endpoint: Endpoint, error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException
  if (code === 'EPIPE' || (code === 'ECONNRESET' && endpoint.kind === 'unix')) return true
  return method === 'GET' && (code === 'UND_ERR_SOCKET' || code === 'ECONNRESET')
}

interface TimedSignal {
  readonly signal: AbortSignal
  expired(): boolean
  end(): void
}

/** One signal for deadline and caller. (AbortSignal.any may be collected too early in Node 20, hence by hand.) */
function startDeadline(options: CallOptions): TimedSignal {
  const controller = new AbortController()
  let expired = false
  const timer = setTimeout(
    () => {
      expired = true
      controller.abort()
    },
    Math.max(0, options.deadlineMs),
  )
  const calledOff = () => controller.abort()
  if (options.signal?.aborted === true) controller.abort()
  options.signal?.addEventListener('abort', calledOff, { once: true })
  return {
    signal: controller.signal,
    expired: () => expired,
    end: () => {
      clearTimeout(timer)
      options.signal?.removeEventListener('abort', calledOff)
    },
  }
}

async function readAll(body: AsyncIterable<Uint8Array>, limit: Limit): Promise<Buffer> {
  const chunks: Uint8Array[] = []
  let total = 0
  for await (const chunk of body) {
    total += chunk.length
    if (total > limit.bytes) throw tooLong('an answer', limit)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

/** Complete lines of a byte stream; a line may span chunks and a chunk may hold many. A torn last line is an error. */
export async function* splitLines(body: AsyncIterable<Uint8Array>, limit: number, who: string): AsyncGenerator<Buffer> {
  let parts: Uint8Array[] = []
  let length = 0
  for await (const chunk of body) {
    let start = 0
    for (let end = chunk.indexOf(10); end !== -1; end = chunk.indexOf(10, start)) {
      if (length + end - start > limit) throw tooLong('a line', { bytes: limit, whenLonger })
      yield Buffer.concat([...parts, chunk.subarray(start, end)])
      parts = []
      length = 0
      start = end + 1
    }
    if (start < chunk.length) {
      parts.push(chunk.subarray(start))
      length += chunk.length - start
    }
    if (length > limit) throw tooLong('a line', { bytes: limit, whenLonger })
  }
  if (length > 0) {
    throw new SnapswitchError(
      'SOCKET_UNREACHABLE',
      `${who} broke off in the middle of a line`,
      'See the daemon’s log; try again once it runs.',
    )
  }
}

function parseJson(bytes: Buffer, who: string): unknown {
  try {
    return JSON.parse(bytes.toString('utf8'))
  } catch (error) {
    throw new SnapswitchError(
      'INTERNAL',
      `${who} sent something that is no JSON: ${bytes.toString('utf8', 0, 100)}`,
      'Check that the socket belongs to snapswitch.',
      error,
    )
  }
}

function tooLong(what: string, { bytes, whenLonger }: Limit): SnapswitchError {
  return new SnapswitchError('INTERNAL', `${what} is longer than ${bytes} bytes`, whenLonger)
}
