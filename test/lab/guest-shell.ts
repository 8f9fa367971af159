// The shell inside a guest of the lab, on its second serial port.

import { connect } from 'node:net'
import { patience } from '../patience.js'
import type { Lab } from './lab.js'

/** Runs a line in the shell of a guest and returns what it printed. */
export function inGuest(lab: Lab, name: string, line: string, timeoutMs = 10_000): Promise<string> {
  return new Promise((resolve, reject) => {
    const limitMs = patience(timeoutMs)
    const socket = connect(lab.machine(name).outside.shell)
    let said = ''
    const finish = (settle: () => void) => {
      clearTimeout(timer)
      socket.destroy()
      settle()
    }
    const timer = setTimeout(
      () =>
        finish(() => reject(new Error(`${name}: no answer to '${line}' within ${limitMs} ms: ${said.slice(-300)}`))),
      limitMs,
    )
    // The terminal echoes what it gets: only the shell turns the sum into 42.
    socket.on('connect', () => socket.write(`\n${line}\necho end-$((40+2))\n`))
    socket.on('error', (error) => finish(() => reject(error)))
    socket.on('data', (chunk) => {
      said += chunk.toString('latin1')
      if (said.includes('end-42')) finish(() => resolve(said.replaceAll('\r', '')))
    })
  })
}
