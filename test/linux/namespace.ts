// A network namespace for one test process: the main thread leaves for a fresh one, which the kernel removes with the
// process, whatever way it ends. Nothing to clean up, and no name to collide.

import { execFileSync } from 'node:child_process'
import koffi from 'koffi'
import { patience } from '../patience.js'

const CLONE_NEWNET = 0x40000000
const CLONE_NEWNS = 0x00020000

function leave(what: number): void {
  const unshare: (flags: number) => number = koffi.load('libc.so.6').func('int unshare(int)')
  if (unshare(what) !== 0) throw new Error(`unshare: errno ${koffi.errno()}; these tests need root`)
}

/**
 * Moves the calling thread; sockets opened, files under /proc/sys/net and programs started from it from now on belong
 * to the new namespace. Call it first: other threads of the process stay where they are.
 */
export function enterFreshNamespace(): void {
  leave(CLONE_NEWNET)
}

/**
 * From now on the calling thread, and programs started from it, see the devices of its network namespace under /sys.
 * Goes with the process.
 */
export function mountOwnSysfs(): void {
  leave(CLONE_NEWNS)
  run('mount', '--make-rprivate', '/')
  run('mount', '-t', 'sysfs', 'none', '/sys')
}

/** Runs a program and returns what it prints; throws when it fails. */
export function run(program: string, ...args: string[]): string {
  return execFileSync(program, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], timeout: patience(20_000) })
}

export async function until(condition: () => boolean, what: string, deadlineMs = 5000): Promise<void> {
  const began = performance.now()
  while (!condition()) {
    if (performance.now() > began + patience(deadlineMs))
      throw new Error(`not within ${patience(deadlineMs)} ms: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
