// Numbered datagrams between two ends, and what became of them: `receive PORT` and `send ADDRESS PORT`, until SIGTERM;
// then a line of JSON.

import { createSocket } from 'node:dgram'

export interface Sent {
  readonly sent: number
}
export interface Received {
  readonly received: number
  readonly doubled: number
  /** Milliseconds. */
  readonly longestGap: number
}

const INTERVAL_MS = 2

function receive(port: number): void {
  const socket = createSocket('udp4')
  const seen = new Set<number>()
  let doubled = 0
  let last = 0
  let longestGap = 0
  socket.on('message', (message) => {
    const now = performance.now()
    const number = message.readUInt32BE(0)
    if (seen.has(number)) doubled++
    seen.add(number)
    if (last !== 0) longestGap = Math.max(longestGap, now - last)
    last = now
  })
  socket.bind(port, () => process.stdout.write('ready\n'))
  finish(() => ({ received: seen.size, doubled, longestGap }))
}

function send(address: string, port: number): void {
  const socket = createSocket('udp4')
  let sent = 0
  const timer = setInterval(() => {
    const message = Buffer.alloc(32)
    message.writeUInt32BE(sent++)
    socket.send(message, port, address)
  }, INTERVAL_MS)
  process.stdout.write('ready\n')
  finish(() => {
    clearInterval(timer)
    return { sent }
  })
}

function finish(result: () => Sent | Received): void {
  process.once('SIGTERM', () => {
    process.stdout.write(`${JSON.stringify(result())}\n`, () => process.exit(0))
  })
}

const [what, ...words] = process.argv.slice(2)
if (what === 'receive') receive(Number(words[0]))
if (what === 'send') send(words[0]!, Number(words[1]))
