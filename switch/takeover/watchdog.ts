// A small process that outlives the daemon by a moment: when that dies, it removes the pair, so that the bridge does
// not look for anybody's address there. Until somebody speaks, that would be where its frames to them go. Where no such
// process can be started, or it is killed as well, the next daemon removes the pair.

import { spawn } from 'node:child_process'
import { closedFirst } from '../../src/linux/closed-first.js'
import { check, libc } from '../../src/linux/libc.js'

const O_CLOEXEC = 0o2000000

/**
 * It waits for lines, and for the end of whoever could send them: the index of the device, when that is made, and an
 * empty one, which says that all is well. By its index, for the next daemon may have made one of the same name by then.
 */
const SCRIPT = `trap '' HUP INT TERM
device=$1
while read -r index; do
  [ -n "$index" ] || exit
  device=if$index
done
exec ip link delete dev "$device"`

export interface Watchdog {
  /** The device is there, under this index. */
  made(index: number): void
  /** Nothing is to be removed any more. */
  end(): void
}

/** Call it before a device of that name is made, and when there is none. */
export function removeWithUs(device: string): Watchdog {
  const path = `${process.env.PATH ?? ''}:/usr/sbin:/sbin:/usr/bin:/bin`
  // By its end the process hears of ours, at once.
  const ends = new Int32Array(2)
  check(libc().pipe2(ends, O_CLOEXEC), 'open a pipe')
  const words = closedFirst(ends[1]!)
  try {
    const child = spawn('/bin/sh', ['-c', SCRIPT, 'snapswitch-pair', device], {
      // Signals to our group are not for it.
      detached: true,
      stdio: [ends[0]!, 'ignore', 'ignore'],
      cwd: '/',
      env: { PATH: path },
    })
    child.on('error', () => undefined)
    child.unref()
  } finally {
    libc().close(ends[0]!)
  }
  let open = true
  const say = (text: string) => {
    const line = new TextEncoder().encode(text)
    if (open) libc().write(words, line, line.length)
  }
  return {
    made: (index) => say(`${index}\n`),
    end: () => {
      say('\n')
      if (open) libc().close(words)
      open = false
    },
  }
}
