// The process of the coordinator inside `snapswitch switch`: what goes wrong in here costs a snapshot, never the
// network. Its orders come on standard input: the line `stop`, or the end, which means that the daemon is gone.

import { getPriority, setPriority } from 'node:os'
import { createInterface } from 'node:readline'
import { type EmbeddedCoordinator, runEmbedded, Superseded } from '../../coordinator/main.js'
import { SUPERSEDED } from '../api/embedded.js'
import { asSnapswitchError } from '../errors/errors.js'
import { printError, systemTerminal } from './output.js'

// A process starts with its parent's priority; a switch runs ahead of the guests, but this work must not.
if (getPriority() < 0) setPriority(0)
const options = JSON.parse(process.argv[2] ?? '{}') as EmbeddedCoordinator
const asked = new Promise<'stop'>((resolve) => {
  let stopping = false
  createInterface({ input: process.stdin })
    .on('line', (line) => {
      stopping ||= line === 'stop'
      if (stopping) resolve('stop')
    })
    // A snapshot that is under way is undone by the next one.
    .on('close', () => {
      if (!stopping) process.kill(process.pid, 'SIGKILL')
    })
})
try {
  await runEmbedded(options, asked)
  process.exit(0)
} catch (thrown) {
  if (thrown instanceof Superseded) process.exit(SUPERSEDED)
  printError(systemTerminal, asSnapswitchError(thrown))
  process.exit(1)
}
