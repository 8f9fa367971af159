// What both daemons' APIs share: fastify at an endpoint, schema validation, errors as reports, streams, OpenAPI.

import type { Socket } from 'node:net'
import { Readable } from 'node:stream'
import fastifySwagger from '@fastify/swagger'
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox'
import { type TSchema, Type } from '@sinclair/typebox'
import Fastify, {
  type FastifyBaseLogger,
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  LogController,
  type RawReplyDefaultExpression,
  type RawRequestDefaultExpression,
  type RawServerDefault,
} from 'fastify'
import type { Logger } from 'pino'
import { asSnapswitchError, type ErrorCode, type ErrorReport, SnapswitchError } from '../errors/errors.js'
import { checkEndpoint, type Endpoint, listenAt } from './endpoint.js'
import { routes } from './paths.js'
import { describeFinding, validator } from './validate.js'

export type ApiInstance = FastifyInstance<
  RawServerDefault,
  RawRequestDefaultExpression<RawServerDefault>,
  RawReplyDefaultExpression<RawServerDefault>,
  FastifyBaseLogger,
  TypeBoxTypeProvider
>

export interface ApiOptions {
  readonly endpoint: Endpoint
  readonly logger: Logger
  /** For the OpenAPI document. */
  readonly title: string
  readonly version: string
  /** Largest JSON body, bytes; file uploads are streamed and have no limit here. */
  readonly bodyLimit?: number
}

export interface Api {
  /** Add routes to it, then `listen`. */
  readonly app: ApiInstance
  /** Looks whether `listen` would be refused, before anything else is done: throws what it would throw. */
  check(): Promise<void>
  /** Binds the socket (mode 0660). Throws DEVICE_BUSY when a living daemon has it. */
  listen(): Promise<void>
  /** Ends open requests at once, and removes the socket file. */
  close(): Promise<void>
}

/** HTTP status per error code; those not listed are 500. */
const statusOf: Partial<Record<ErrorCode, number>> = {
  REQUEST_INVALID: 400,
  NAME_INVALID: 400,
  PLACEMENT_INVALID: 400,
  CONFIG_INVALID: 422,
  CONFIG_UNREADABLE: 422,
  CONFIG_FIXED: 409,
  WANTED_TWICE: 409,
  PERMISSION: 403,
  NETWORK_UNKNOWN: 404,
  PORT_UNKNOWN: 404,
  MACHINE_UNKNOWN: 404,
  SNAPSHOT_UNKNOWN: 404,
  DEVICE_MISSING: 404,
  PORT_EXISTS: 409,
  DEVICE_BUSY: 409,
  DEVICE_DOWN: 409,
  MACHINE_RUNNING: 409,
  MACHINE_NOT_RUNNING: 409,
  SNAPSHOT_EXISTS: 409,
  SNAPSHOT_BUSY: 409,
  CAPTURE_BUSY: 409,
  RECORDING_BUSY: 409,
  RECORDING_KEY: 409,
  SNAPSHOT_NEEDED: 409,
  SNAPSHOT_NOT_COMPLETE: 409,
  EPOCH_STALE: 409,
  MACHINE_UNSUPPORTED: 422,
  STORE_FULL: 507,
  DEADLINE: 504,
  REQUEST_TIMEOUT: 504,
}

const jsonBodyLimit = 8 * 1024 * 1024
/** Clients beyond this are turned away: a few commands and one coordinator need a handful of connections. */
const maxConnections = 512

export async function createApi(options: ApiOptions): Promise<Api> {
  const app = Fastify({
    loggerInstance: options.logger as FastifyBaseLogger,
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: options.bodyLimit ?? jsonBodyLimit,
    forceCloseConnections: true,
    // Uploads of images may take long; a client that stops in the middle of its headers may not.
    requestTimeout: 3_600_000,
    keepAliveTimeout: 5_000,
    // How often node looks for clients that are beyond their time; 30 s unless said.
    http: { connectionsCheckingInterval: 5_000 },
    // Names are at most 63 characters, digests 64: anything longer is no parameter of ours.
    routerOptions: { maxParamLength: 128 },
    return503OnClosing: true,
    // What the router refuses never gets to the error handler below.
    frameworkErrors: (error, request, reply) => answerError(error, request, reply),
    clientErrorHandler: refuseUnreadable,
  }).withTypeProvider<TypeBoxTypeProvider>()
  app.server.headersTimeout = 10_000
  app.server.maxConnections = maxConnections

  app.setValidatorCompiler(({ schema, httpPart }) => {
    const check = validator(schema as TSchema)
    return (value: unknown) => {
      if (value instanceof Readable) return { error: invalidRequest('a body of JSON is wanted here, not a file') }
      if (check(value)) return { value }
      const found = check.findings().slice(0, 5).map(describeFinding).join('; ')
      return { error: invalidRequest(`${httpPart ?? 'request'}: ${found}`) }
    }
  })
  // Responses are checked by the client, with the same schemas; here they only describe the API.
  app.setSerializerCompiler(() => (data) => JSON.stringify(data))
  app.setErrorHandler((error: FastifyError | SnapswitchError, request, reply) => answerError(error, request, reply))
  app.setNotFoundHandler((request, reply) => {
    const error = new SnapswitchError(
      'REQUEST_INVALID',
      `this daemon has no ${request.method} ${request.url}`,
      'Check that the socket belongs to the daemon you mean, and that client and daemon have the same version.',
    )
    return reply.status(404).send({ error: error.report() } satisfies ErrorBody)
  })
  // Uploads: the body is the stream itself (`request.body as Readable`), unlimited and unread.
  app.addContentTypeParser('application/octet-stream', (_request, payload, done) => done(null, payload))

  await app.register(fastifySwagger, {
    openapi: { info: { title: options.title, version: options.version } },
  })
  app.get(routes.openapi, { schema: { hide: true } }, async () => app.swagger())

  return {
    app,
    check: () => checkEndpoint(options.endpoint),
    listen: () => listen(app, options.endpoint),
    // Closing a listening unix socket makes node remove its file.
    close: () => app.close(),
  }
}

/** The body of a file upload. Throws REQUEST_INVALID when the client has sent something else. */
export function uploadOf(body: unknown): Readable {
  if (body instanceof Readable) return body
  throw invalidRequest('a file is wanted here, as application/octet-stream')
}

export interface ErrorBody {
  readonly error: ErrorReport
}

/**
 * Answers with one JSON object a line, as they come; the iterable is ended when the client goes away. An iterable that
 * throws ends the answer with `failure(report)` as its last line, since the status has long been sent.
 */
export function streamNdjson<T>(
  reply: FastifyReply,
  items: AsyncIterable<T>,
  failure: (error: ErrorReport) => T,
): FastifyReply {
  const stream = Readable.from(ndjsonLines(items, failure, reply.log), { objectMode: false, highWaterMark: 64 * 1024 })
  return reply.type('application/x-ndjson').header('cache-control', 'no-store').send(stream)
}

/** For a route's response schema: says in the OpenAPI document that the answer is a stream of such items. */
export function ndjsonOf(item: TSchema): TSchema {
  return Type.Unsafe<unknown>({ ...item, description: 'application/x-ndjson: one such object a line' })
}

async function* ndjsonLines<T>(
  items: AsyncIterable<T>,
  failure: (error: ErrorReport) => T,
  log: FastifyBaseLogger,
): AsyncGenerator<Buffer> {
  try {
    for await (const item of items) yield Buffer.from(`${JSON.stringify(item)}\n`)
  } catch (thrown) {
    const error = asSnapswitchError(thrown)
    log.error({ err: error }, error.message)
    yield Buffer.from(`${JSON.stringify(failure(error.report()))}\n`)
  }
}

function answerError(
  error: FastifyError | SnapswitchError,
  request: Pick<FastifyRequest, 'log' | 'url' | 'method'>,
  reply: Pick<FastifyReply, 'status'>,
): FastifyReply {
  const failure = fromFastify(error)
  const status = statusOf[failure.code] ?? 500
  const { url, method } = request
  // What a client has got wrong needs no stack.
  if (status >= 500) request.log.error({ err: failure, url, method }, failure.message)
  else request.log.info({ code: failure.code, url, method }, failure.message)
  return reply.status(status).send({ error: failure.report() } satisfies ErrorBody)
}

/** By node's code for what is wrong with a request. */
const unreadableStatus: Readonly<Record<string, string>> = {
  HPE_HEADER_OVERFLOW: '431 Request Header Fields Too Large',
  ERR_HTTP_REQUEST_TIMEOUT: '408 Request Timeout',
}

/** What is no HTTP, or has a head that is too large or too slow, gets the same form of answer as everything else. */
function refuseUnreadable(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy()
    return
  }
  const body = JSON.stringify({ error: invalidRequest(`no readable HTTP request: ${error.message}`, error).report() })
  const status = unreadableStatus[error.code ?? ''] ?? '400 Bad Request'
  const head = `HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}`
  socket.end(`${head}\r\n\r\n${body}`, () => socket.destroy())
}

function fromFastify(error: FastifyError | SnapswitchError): SnapswitchError {
  if (error instanceof SnapswitchError) return error
  // Fastify's own refusals: no JSON, body too large, unknown media type.
  if (error.statusCode !== undefined && error.statusCode >= 400 && error.statusCode < 500) {
    return invalidRequest(error.message, error)
  }
  return asSnapswitchError(error)
}

function invalidRequest(message: string, cause?: unknown): SnapswitchError {
  return new SnapswitchError(
    'REQUEST_INVALID',
    message,
    'Correct the request; GET /v1/openapi.json describes it.',
    cause,
  )
}

async function listen(app: ApiInstance, endpoint: Endpoint): Promise<void> {
  await app.ready()
  await listenAt(endpoint, (address) => app.listen({ ...address }))
}
