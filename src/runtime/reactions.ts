// What a daemon does with every signal that can be sent to it. Node's own answers listen (SIGUSR1 opens the inspector),
// dump, or end the process at once, with filters on devices left behind; a daemon is either stopped in order or goes
// on.

/**
 * stop: the daemon ends in order, once. reload: it reads its configuration anew; if it cannot, it says so. log: it goes
 * on and says so. ignore: the kernel drops the signal. default: left as it is, for the reason given at each.
 */
export type Reaction = 'stop' | 'reload' | 'log' | 'ignore' | 'default'

export const REACTIONS: Readonly<Partial<Record<NodeJS.Signals, Reaction>>> = {
  SIGTERM: 'stop',
  SIGINT: 'stop',
  SIGQUIT: 'stop',
  // What a watchdog sends. abort(3) in this process itself ends it all the same: it raises the signal again by default.
  SIGABRT: 'stop',
  // The soft limit of RLIMIT_CPU; the hard one kills.
  SIGXCPU: 'stop',
  // `systemctl reload`; a terminal that closes, or a log rotation, does no harm by it.
  SIGHUP: 'reload',
  SIGUSR1: 'log',
  SIGUSR2: 'log',
  SIGALRM: 'log',
  SIGVTALRM: 'log',
  SIGPROF: 'log',
  SIGIO: 'log',
  SIGPWR: 'log',
  SIGSTKFLT: 'log',
  // Ctrl-Z: a switch that stands still is a network that is down.
  SIGTSTP: 'log',
  // With a handler the kernel would repeat the call on the terminal for ever (tty_check_change); ignored, it lets it
  // pass.
  SIGTTIN: 'ignore',
  SIGTTOU: 'ignore',
  // Ignored by Node: writes fail with EPIPE and EFBIG instead.
  SIGPIPE: 'default',
  SIGXFSZ: 'default',
  // Faults of the processor: to return from a handler would run the same instruction again.
  SIGSEGV: 'default',
  SIGBUS: 'default',
  SIGFPE: 'default',
  SIGILL: 'default',
  SIGTRAP: 'default',
  SIGSYS: 'default',
  // Nobody can change these.
  SIGKILL: 'default',
  SIGSTOP: 'default',
  // They do nothing unless somebody asks for them; libuv needs the first.
  SIGCHLD: 'default',
  SIGCONT: 'default',
  SIGURG: 'default',
  SIGWINCH: 'default',
}

const entries = Object.entries(REACTIONS) as [NodeJS.Signals, Reaction][]

export const signalsOf = (wanted: Reaction): NodeJS.Signals[] =>
  entries.flatMap(([name, reaction]) => (reaction === wanted ? [name] : []))

/** For processes that a daemon starts: signals to its group or terminal are the daemon's to act on. */
export function leaveSignalsToParent(): void {
  for (const name of [...signalsOf('stop'), ...signalsOf('reload'), ...signalsOf('log')]) process.on(name, () => {})
}
