// Runs a program to its end, with a deadline, and says what it said when it fails.

import { execFile } from 'node:child_process'
import { patience } from '../patience.js'

export interface CommandResult {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

/**
 * Never rejects for a program's own failure: the exit code tells. Rejects when it cannot run or outlives `timeoutMs`
 * (of a quiet machine).
 */
export function attempt(program: string, args: readonly string[], timeoutMs = 20_000): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    const options = { timeout: patience(timeoutMs), killSignal: 'SIGKILL', maxBuffer: 64 << 20 } as const
    execFile(program, [...args], options, (error, stdout, stderr) => {
      if (error === null) return resolve({ code: 0, stdout, stderr })
      if (typeof error.code === 'number') return resolve({ code: error.code, stdout, stderr })
      const why = error.killed ? `did not end within ${patience(timeoutMs)} ms` : error.message
      reject(new Error(`${program} ${args.join(' ')}: ${why}`, { cause: error }))
    })
  })
}

/** Standard output of a program that must succeed. */
export async function run(program: string, args: readonly string[], timeoutMs?: number): Promise<string> {
  const result = await attempt(program, args, timeoutMs)
  if (result.code === 0) return result.stdout
  const said = (result.stderr.trim() || result.stdout.trim()).slice(-2000)
  throw new Error(`${program} ${args.join(' ')} ended with ${result.code}: ${said}`)
}

export const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

/**
 * Asks again every `everyMs` until the answer is no longer undefined; rejects with `what` after `timeoutMs` (of a quiet
 * machine).
 */
export async function until<T>(
  what: string,
  timeoutMs: number,
  ask: () => T | undefined | Promise<T | undefined>,
  everyMs = 50,
): Promise<T> {
  const began = performance.now()
  for (;;) {
    const answer = await ask()
    if (answer !== undefined) return answer
    const limit = patience(timeoutMs)
    if (performance.now() > began + limit) throw new Error(`${what}: not within ${limit / 1000} s`)
    await sleep(everyMs)
  }
}
