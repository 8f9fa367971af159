// The worker behind image-writer.ts: for each order, pipe -> file and sha256, then fsync.

import { createHash } from 'node:crypto'
import { closeSync, constants, fsync, openSync, writeSync } from 'node:fs'
import net from 'node:net'
import { getPriority, setPriority } from 'node:os'
import { parentPort } from 'node:worker_threads'
import type { WriteOrder, WriteResult } from './image-writer.js'

// A thread starts with its creator's priority; a switch runs ahead of the guests, but this work must not.
if (getPriority(0) < 0) setPriority(0, 0)

const running = new Map<number, (error: Error) => void>()

function write(order: WriteOrder): void {
  const { id } = order
  const socket = new net.Socket({ fd: order.readFd, readable: true, writable: false })
  const hash = createHash('sha256')
  let fd = -1
  let bytes = 0
  const end = (error: Error | null) => {
    if (!running.delete(id)) return
    socket.destroy()
    if (fd >= 0) closeSync(fd)
    const code = error === null ? '' : ((error as NodeJS.ErrnoException).code ?? '')
    parentPort!.postMessage({
      id,
      bytes,
      digest: error === null ? hash.digest('hex') : '',
      error: error === null ? null : { code, message: error.message },
    } satisfies WriteResult)
  }
  running.set(id, end)
  try {
    // The file was created, empty and with its final mode, when the capture was prepared.
    fd = openSync(order.file, constants.O_WRONLY | constants.O_NOFOLLOW)
  } catch (error) {
    end(error as Error)
    return
  }
  socket.on('data', (chunk) => {
    try {
      for (let at = 0; at < chunk.length; ) at += writeSync(fd, chunk, at)
      hash.update(chunk)
      bytes += chunk.length
    } catch (error) {
      end(error as Error)
    }
  })
  socket.on('error', end)
  socket.on('end', () => {
    if (!running.has(id)) return
    fsync(fd, (error) => end(error))
  })
}

parentPort!.on('message', (order: WriteOrder | { readonly cancel: number }) => {
  if ('cancel' in order) running.get(order.cancel)?.(new Error('called off'))
  else write(order)
})
