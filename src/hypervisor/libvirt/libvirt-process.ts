// The libvirt process: the one place where libvirt.so is loaded. It does what the daemon asks on standard input, in
// lanes (lane.ts), and ends with its input. Started by process-handle.ts.

import { getPriority, setPriority } from 'node:os'
import { createInterface } from 'node:readline'
import { leaveSignalsToParent } from '../../runtime/reactions.js'
import { hearMonitors } from './connection.js'
import { Lane } from './lane.js'
import type { CallMessage, ProcessMessage } from './protocol.js'

const lanes = new Map<number, Lane>()

function say(message: ProcessMessage): void {
  process.stdout.write(`${JSON.stringify(message)}\n`)
}

function main(): void {
  // A process starts with its parent's priority; a switch runs ahead of the guests, but this work must not.
  if (getPriority() < 0) setPriority(0)
  // Signals to the daemon's group or terminal are the daemon's to act on: this process ends with its input.
  leaveSignalsToParent()
  hearMonitors((token, name, atUs, details) => lanes.get(token)?.hear(name, atUs, details))
  const lines = createInterface({ input: process.stdin })
  lines.on('line', (line) => {
    const message = JSON.parse(line) as CallMessage
    let lane = lanes.get(message.lane)
    if (lane === undefined) {
      lane = new Lane(message.lane, message.uri, say)
      lanes.set(message.lane, lane)
    }
    if (message.call === 'close') lanes.delete(message.lane)
    lane.run(message)
  })
  // Not exit(): it would wait for the worker threads, one of which runs libvirt's event loop.
  lines.on('close', () => process.kill(process.pid, 'SIGKILL'))
  process.stdout.on('error', () => process.kill(process.pid, 'SIGKILL'))
}

main()
