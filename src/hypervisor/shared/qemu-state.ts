// Why a QEMU does not run, by its run state (qapi/run-state.json), in words for people. Pure.

import type { BlockDrive } from './block-graph.js'

const words: Readonly<Record<string, string>> = {
  paused: 'paused through its monitor (`cont` resumes it)',
  prelaunch: 'it has never run: it was started with -S, and waits for its first `cont`',
  inmigrate: 'it waits for its memory (-incoming), or is loading it',
  postmigrate:
    'its memory was saved or migrated, and it was not told to go on (`cont` resumes it, unless its copy runs elsewhere)',
  'finish-migrate': 'its memory is being saved or migrated',
  'restore-vm': 'a `loadvm` is under way, or has failed and left it stopped',
  'save-vm': 'a `savevm` is under way',
  'internal-error': 'stopped by QEMU: internal error, see QEMU’s log (`system_reset` and `cont` start it anew)',
  suspended: 'the guest has suspended itself (sleeps; `system_wakeup` wakes it)',
  shutdown: 'the guest has shut down (`system_reset` and `cont` start it anew)',
  'guest-panicked': 'the guest has panicked (`system_reset` and `cont` start it anew)',
  watchdog: 'stopped by the guest’s watchdog (`system_reset` and `cont` start it anew)',
  debug: 'stopped by a debugger',
  colo: 'it is a COLO standby',
}

/** null: it runs. */
export function stateDetail(status: string, drives: readonly BlockDrive[]): string | null {
  if (status === 'running') return null
  if (status !== 'io-error') return words[status] ?? `QEMU says ${status}`
  const full = drives.filter(({ ioStatus }) => ioStatus === 'nospace').map(({ name }) => name)
  if (full.length > 0)
    return `stopped by QEMU: no space left for drive ${full.join(', ')} (io-error): make room where its image lies, then \`cont\``
  const failed = drives.filter(({ ioStatus }) => ioStatus === 'failed').map(({ name }) => name)
  return `stopped by QEMU: an I/O error${failed.length > 0 ? ` of drive ${failed.join(', ')}` : ''} (io-error): see QEMU’s log; \`cont\` tries again`
}
