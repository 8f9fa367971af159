// A small process that outlives the daemon by a moment: when that dies, it removes the pair, so that the bridge does
// not look for anybody's address there. Until somebody speaks, that would be where its frames to them go. Where no such
// process can be started, or it is killed as well, the next daemon removes the pair.

import { spawn } from 'node:child_process'

/** It waits for a line, which says that all is well, or for the end of whoever could send it. */
const SCRIPT = `trap '' HUP INT TERM
read -r line && exit
exec ip link delete "$1"`

/** Call the answer before the pair is removed in order. */
export function removeWithUs(device: string): () => void {
  const path = `${process.env.PATH ?? ''}:/usr/sbin:/sbin:/usr/bin:/bin`
  const child = spawn('/bin/sh', ['-c', SCRIPT, 'snapswitch-pair', device], {
    // Signals to our group are not for it.
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
    cwd: '/',
    env: { PATH: path },
  })
  child.on('error', () => undefined)
  child.stdin.on('error', () => undefined)
  child.unref()
  const { stdin } = child as { stdin: { unref?(): void } }
  stdin.unref?.()
  return () => child.stdin.end('\n')
}
