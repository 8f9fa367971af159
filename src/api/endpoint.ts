// Where a daemon's API is: how a person writes it, how it is said, how a client gets there, how a server listens there.
// Today that is a unix socket, by its path. Another kind (`tls://host:port`) is a member more of `Endpoint` and an arm
// more of each function here; nobody else looks inside.

import { resolve } from 'node:path'
import type { Pool } from 'undici'
import { SnapswitchError } from '../errors/errors.js'
import { bindSocket, prepareSocket } from './unix-socket.js'

export interface UnixEndpoint {
  readonly kind: 'unix'
  /** As it was given: a relative one counts from the process's directory. */
  readonly path: string
}

export type Endpoint = UnixEndpoint

/** `scheme://`, which no path of a person's begins with. */
const schemePattern = /^[a-z][a-z0-9+.-]*:\/\//i

/** Reads what a configuration or a command line says. Throws ENDPOINT_INVALID. */
export function parseEndpoint(text: string): Endpoint {
  const scheme = schemePattern.exec(text)?.[0]
  if (scheme !== undefined) throw invalid(`${text} begins with ${scheme}, and daemons listen on unix sockets only`)
  if (text === '') throw invalid('the address of a daemon is empty')
  if (text.includes('\0')) throw invalid(`the path ${JSON.stringify(text)} has a zero byte in it`)
  return { kind: 'unix', path: text }
}

function invalid(message: string): SnapswitchError {
  return new SnapswitchError('ENDPOINT_INVALID', message, 'Give the path of a unix socket.')
}

/** The same endpoint for whoever is in another directory: relative paths count from `directory`. */
export function endpointFrom(directory: string, endpoint: Endpoint): Endpoint {
  return { kind: 'unix', path: resolve(directory, endpoint.path) }
}

/** What `parseEndpoint` reads as this endpoint; for messages, too. Two that are said alike are one. */
export function describeEndpoint(endpoint: Endpoint): string {
  return endpoint.path
}

/** How undici gets there: the origin, which over a unix socket is a name only, and the options of its pool. */
export function poolFor(endpoint: Endpoint, connectTimeoutMs: number): { origin: string; options: Pool.Options } {
  const { path: socketPath } = endpoint
  return { origin: 'http://snapswitch', options: { socketPath, connect: { timeout: connectTimeoutMs, socketPath } } }
}

/** What node's `server.listen` takes. */
export interface ListenAddress {
  readonly path: string
}

/** Looks whether a server could listen there. Throws DEVICE_BUSY, PERMISSION, SYSCALL. */
export function checkEndpoint(endpoint: Endpoint): Promise<void> {
  return prepareSocket(endpoint.path)
}

/** Has `bind` bind it, for root and its group alone from its first instant. Throws what `checkEndpoint` throws. */
export function listenAt(endpoint: Endpoint, bind: (address: ListenAddress) => Promise<unknown>): Promise<void> {
  const { path } = endpoint
  return bindSocket(path, () => bind({ path }))
}
