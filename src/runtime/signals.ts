// Takes the signals of a daemon, by the table in reactions.ts.

import { constants } from 'node:os'
import { libc } from '../linux/libc.js'
import { signalsOf } from './reactions.js'

/** Real-time signals end a process; glibc has the two before these for itself. */
const FIRST_REALTIME = 34
const LAST_REALTIME = 64
const SIG_IGN = 1

export interface SignalHandlers {
  /** Once; later requests to stop are logged. */
  stop(signal: NodeJS.Signals): void
  reload(signal: NodeJS.Signals): void
  log(message: string, signal: NodeJS.Signals): void
}

/** For the rest of the process's life: also while it stops, a second signal must not end it half-way. */
export function handleSignals({ stop, reload, log }: SignalHandlers): void {
  let stopping = false
  for (const name of signalsOf('ignore')) libc().signal(constants.signals[name], SIG_IGN)
  for (const name of signalsOf('log')) {
    const message = `${name} is ignored: SIGTERM stops the daemon`
    process.on(name, () => log(message, name))
  }
  for (const name of signalsOf('reload')) {
    process.on(name, () => {
      if (stopping) log(`${name} is ignored: the daemon is stopping`, name)
      else reload(name)
    })
  }
  for (const name of signalsOf('stop')) {
    process.on(name, () => {
      if (stopping) log(`${name}: the daemon is stopping already`, name)
      else stop(name)
      stopping = true
    })
  }
  for (let number = FIRST_REALTIME; number <= LAST_REALTIME; number++) libc().signal(number, SIG_IGN)
}
