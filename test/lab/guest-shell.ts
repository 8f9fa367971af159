// The shell inside a guest of the lab, on its second serial port.

import { connect } from 'node:net'
import { patience } from '../patience.js'
import type { Lab } from './lab.js'

/** Runs a line in the shell of a guest and returns what it printed. */
export async function inGuest(lab: Lab, name: string, line: string, timeoutMs = 10_000): Promise<string> {
  const end = performance.now() + patience(timeoutMs)
  for (;;) {
    try {
      return await tell(lab.machine(name).outside.shell, name, line, end - performance.now())
    } catch (error) {
      // QEMU has hung up before it had read all of it, as it may right after another connection of ours.
      if ((error as NodeJS.ErrnoException).code !== 'ECONNRESET' || performance.now() > end) throw error
    }
  }
}

function tell(shell: string, name: string, line: string, limitMs: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(shell)
    let said = ''
    const finish = (settle: () => void) => {
      clearTimeout(timer)
      socket.destroy()
      settle()
    }
    const silent = () =>
      new Error(`${name}: no answer to '${line}' within ${Math.round(limitMs)} ms: ${said.slice(-300)}`)
    const timer = setTimeout(() => finish(() => reject(silent())), limitMs)
    // The terminal echoes what it gets: only the shell turns the sum into 42.
    socket.on('connect', () => socket.write(`\n${line}\necho end-$((40+2))\n`))
    socket.on('error', (error) => finish(() => reject(error)))
    socket.on('data', (chunk) => {
      said += chunk.toString('latin1')
      if (said.includes('end-42')) finish(() => resolve(said.replaceAll('\r', '')))
    })
  })
}
