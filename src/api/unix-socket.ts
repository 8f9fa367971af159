// The unix socket that a daemon's API listens on: what a killed daemon has left is taken over, what a living one has is
// not.

import { chmod, stat, unlink } from 'node:fs/promises'
import { connect } from 'node:net'
import { dirname } from 'node:path'
import { SnapswitchError } from '../errors/errors.js'
import { makeDirectory } from '../files/durable.js'

/** sun_path of unix(7) without its final zero. Node cuts a longer path off and binds what is left. */
const maxPathBytes = 107

/** Looks whether the socket could be bound; removes a stale one. Throws DEVICE_BUSY, PERMISSION, SYSCALL. */
export function prepareSocket(path: string): Promise<void> {
  return withSocketErrors(path, () => makeWay(path))
}

/** Has `bind` bind the socket, with mode 0660 from its first instant. Throws what `prepareSocket` throws. */
export function bindSocket(path: string, bind: () => Promise<unknown>): Promise<void> {
  return withSocketErrors(path, async () => {
    await makeWay(path)
    // The socket must not be open to others even for the instant between bind and chmod.
    const umask = process.umask(0o007)
    try {
      await bind()
    } finally {
      process.umask(umask)
    }
    await chmod(path, 0o660)
  })
}

async function makeWay(path: string): Promise<void> {
  const bytes = Buffer.byteLength(path)
  if (bytes > maxPathBytes) throw new Error(`the path has ${bytes} bytes, ${maxPathBytes} fit`)
  await makeDirectory(dirname(path), 0o755)
  await removeStale(path)
}

async function withSocketErrors(path: string, act: () => Promise<void>): Promise<void> {
  try {
    await act()
  } catch (thrown) {
    if (thrown instanceof SnapswitchError) throw thrown
    const code = (thrown as NodeJS.ErrnoException).code
    if (code === 'EADDRINUSE') throw taken(path)
    throw new SnapswitchError(
      code === 'EACCES' || code === 'EPERM' ? 'PERMISSION' : 'SYSCALL',
      `cannot listen on ${path}: ${(thrown as Error).message}`,
      'Run as root, or choose another `socket:` in the configuration.',
      thrown,
    )
  }
}

/**
 * A socket file that nobody listens on is what a killed daemon left; one that answers, or another kind of file, is not
 * ours.
 */
async function removeStale(path: string): Promise<void> {
  let found: Awaited<ReturnType<typeof stat>>
  try {
    found = await stat(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
    throw error
  }
  if (!found.isSocket()) {
    throw new SnapswitchError(
      'DEVICE_BUSY',
      `${path} exists and is no socket`,
      'Remove the file, or choose another `socket:` in the configuration.',
    )
  }
  if (await answers(path)) throw taken(path)
  await unlink(path)
}

function taken(path: string): SnapswitchError {
  return new SnapswitchError(
    'DEVICE_BUSY',
    `another daemon listens on ${path}`,
    'Stop that daemon, or choose another `socket:` in the configuration.',
  )
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path: path })
    const end = (result: boolean) => {
      socket.destroy()
      resolve(result)
    }
    // A full backlog (EAGAIN) or a connect that hangs means that somebody owns it.
    socket.setTimeout(1_000, () => end(true))
    socket.on('connect', () => end(true))
    socket.on('error', (error: NodeJS.ErrnoException) => {
      socket.destroy()
      if (error.code === 'ECONNREFUSED' || error.code === 'ENOENT') resolve(false)
      else if (error.code === 'EAGAIN') resolve(true)
      else reject(error)
    })
  })
}
