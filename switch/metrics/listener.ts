// Metrics over TCP, for a Prometheus on this host: one path, one method, loopback only.

import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { BlockList } from 'node:net'
import { SnapswitchError } from '../../src/errors/errors.js'

/** Prometheus and a person: more ask for something else. */
const MOST_CONNECTIONS = 16
const REQUEST_MS = 10_000

export interface Scraped {
  readonly contentType: string
  text(): Promise<string>
}

export interface Endpoint {
  readonly host: string
  readonly port: number
}

/** `127.0.0.1:9475`, `[::1]:9475`; a string says what is wrong with it. */
export function parseEndpoint(text: string): Endpoint | string {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([\d.]+)):(\d{1,5})$/.exec(text)
  const port = Number(match?.[3])
  if (match === null || port < 1 || port > 65535) return 'give an address and a port, such as 127.0.0.1:9475'
  const host = (match[1] ?? match[2]) as string
  const loopback = new BlockList()
  loopback.addSubnet('127.0.0.0', 8, 'ipv4')
  loopback.addAddress('::1', 'ipv6')
  const isOwn = loopback.check(host, match[1] === undefined ? 'ipv4' : 'ipv6')
  return isOwn ? { host, port } : `${host} is no address of the loopback: everybody could read the metrics`
}

/** Of a configuration that was checked. */
export function endpointOf(text: string): Endpoint {
  const endpoint = parseEndpoint(text)
  if (typeof endpoint === 'string') throw new SnapswitchError('CONFIG_INVALID', endpoint, 'Correct `metrics: listen:`.')
  return endpoint
}

/** Throws DEVICE_BUSY, SYSCALL; returns how to end it. `metrics` is asked for when somebody asks. */
export async function serveMetrics({ host, port }: Endpoint, metrics: () => Promise<Scraped>): Promise<() => void> {
  const server = createServer((request, response) => void answer(request, response, metrics))
  server.maxConnections = MOST_CONNECTIONS
  server.requestTimeout = REQUEST_MS
  server.headersTimeout = REQUEST_MS
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      const what = `cannot serve metrics at ${host} port ${port}: ${error.code ?? error.message}`
      const code = error.code === 'EADDRINUSE' ? 'DEVICE_BUSY' : 'SYSCALL'
      reject(new SnapswitchError(code, what, 'Choose another port for `metrics: listen:`.', error))
    })
    server.listen(port, host, resolve)
  })
  return () => {
    server.close()
    server.closeAllConnections()
  }
}

async function answer(request: IncomingMessage, response: ServerResponse, metrics: () => Promise<Scraped>) {
  if (request.method !== 'GET' || request.url?.split('?')[0] !== '/metrics') {
    response.writeHead(404, { 'content-type': 'text/plain' }).end('GET /metrics\n')
    return
  }
  try {
    const found = await metrics()
    const text = await found.text()
    response.writeHead(200, { 'content-type': found.contentType }).end(text)
  } catch {
    response.writeHead(500).end()
  }
}
