// A small process that outlives this one by a moment, for what must be put right at once when this one is killed. It
// costs a megabyte. The next daemon puts right the same, where no such process can be started or it is killed as well.

import { spawn } from 'node:child_process'
import { closedFirst } from './closed-first.js'
import { check, libc } from './libc.js'

const O_CLOEXEC = 0o2000000
const O_NONBLOCK = 0o4000
const F_SETFL = 4
/** What is written to a pipe as a whole or not at all (pipe(7), PIPE_BUF). */
const MOST_BYTES = 4096

export interface Survivor {
  /** Null: it could not be started. */
  readonly pid: number | null
  /** A line for its standard input. A longer one than 4095 bytes is not sent. */
  say(line: string): void
  /** It hears of the end of this process, which goes on. */
  end(): void
}

/**
 * `script`: for sh, with `name` as its $0. It hears of this process's end by the end of its standard input, and is not
 * to be ended by signals to this process's group.
 */
export function startSurvivor(name: string, script: string, ...args: readonly string[]): Survivor {
  const ends = new Int32Array(2)
  check(libc().pipe2(ends, O_CLOEXEC), 'open a pipe')
  let words: number | null = closedFirst(ends[1]!)
  // A process that somebody has stopped must not stop this one.
  check(libc().fcntlNumber(words, F_SETFL, O_NONBLOCK), 'set up a pipe')
  let pid: number | null = null
  try {
    const child = spawn('/bin/sh', ['-c', `trap '' HUP INT TERM\n${script}`, name, ...args], {
      detached: true,
      stdio: [ends[0]!, 'ignore', 'ignore'],
      cwd: '/',
      env: { PATH: `${process.env.PATH ?? ''}:/usr/sbin:/sbin:/usr/bin:/bin` },
    })
    child.on('error', () => undefined)
    child.unref()
    pid = child.pid ?? null
  } finally {
    libc().close(ends[0]!)
  }
  return {
    pid,
    say(text) {
      const line = new TextEncoder().encode(`${text}\n`)
      if (words !== null && line.length <= MOST_BYTES) libc().write(words, line, line.length)
    },
    end() {
      if (words !== null) libc().close(words)
      words = null
    },
  }
}
