// What every daemon of ours does first: its log cannot hold it up, signals and defects stop it in order, dumps hold
// nothing.

import { type Logger, pino } from 'pino'
import { asSnapswitchError } from '../errors/errors.js'
import { withholdMemory } from './core-dumps.js'
import { missingFlags } from './engine.js'
import { standardLog } from './log-output.js'
import { handleSignals } from './signals.js'

export interface DaemonProcess {
  readonly log: Logger
  /** Why the daemon is to end: a signal, or an error that nobody has caught. It never rejects. */
  readonly ended: Promise<NodeJS.Signals | Error>
}

export function beginDaemon(name: string, level: string): DaemonProcess {
  withholdMemory()
  const log = pino({ name, level }, standardLog())
  const ended = new Promise<NodeJS.Signals | Error>((resolve) => {
    handleSignals({ stop: resolve, log: (message, signal) => log.warn({ signal }, message) })
    // An unhandled rejection comes here, too. What the process may have half done is undone by stopping, and by the
    // next start.
    process.on('uncaughtException', (error) => {
      const failure = asSnapswitchError(error)
      log.fatal({ err: failure }, `a defect, the daemon stops: ${failure.message}`)
      resolve(failure)
    })
  })
  // Node's own way out closes its handles first, and a signal in that instant would end the process by its default.
  process.once('beforeExit', () => process.exit())
  if (missingFlags().length > 0)
    log.info({ flags: missingFlags() }, 'started without flags of bin/snapswitch: cuts may take longer')
  return { log, ended }
}
