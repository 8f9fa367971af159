// What every daemon of ours does first: its log cannot hold it up, signals and defects stop it in order, dumps hold
// nothing.

import { type Logger, pino, type SerializedError, stdSerializers } from 'pino'
import { asSnapswitchError } from '../errors/errors.js'
import { withholdMemory } from './core-dumps.js'
import { missingFlags } from './engine.js'
import { standardLog } from './log-output.js'
import { handleSignals } from './signals.js'
import { nameSources } from './source-names.js'

export interface DaemonProcess {
  readonly log: Logger
  /** Why the daemon is to end: a signal, or an error that nobody has caught. It never rejects. */
  readonly ended: Promise<NodeJS.Signals | Error>
  /** What SIGHUP asks for from now on. Before, and in daemons that cannot, it is ignored, and the log says so. */
  onReload(reload: () => void): void
}

export function beginDaemon(name: string, level: string): DaemonProcess {
  withholdMemory()
  const log = pino({ name, level, serializers: { err: errorForLog } }, standardLog())
  let reload: (() => void) | null = null
  const ended = new Promise<NodeJS.Signals | Error>((resolve) => {
    handleSignals({
      stop: resolve,
      reload: (signal) => {
        if (reload !== null) return reload()
        log.warn({ signal }, `${signal} is ignored: a changed configuration is taken up by a restart`)
      },
      log: (message, signal) => log.warn({ signal }, message),
    })
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
  const onReload = (act: () => void) => {
    reload = act
  }
  return { log, ended, onReload }
}

/** As pino has it. */
function errorForLog(error: Error): SerializedError {
  const told = stdSerializers.err(error)
  if (typeof told?.stack === 'string') told.stack = nameSources(told.stack)
  return told
}
