// A process that put others' threads ahead of everything is killed: they are put back by what outlives it, though they
// keep every core for themselves.

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { availableParallelism } from 'node:os'
import t, { type Test } from 'tap'
import { libc } from '../../src/linux/libc.js'
import { until } from '../hypervisor/boot-guest.js'
import { fileLimit } from '../patience.js'
import { root } from '../switch/world.js'

t.setTimeout(fileLimit(60_000))

const ORDINARY = 0
const FIFO = 1
const FIFO_RESET_ON_FORK = 0x40000001
const policyOf = (child: ChildProcess) => libc().sched_getscheduler(child.pid!)

const module = (name: string) => JSON.stringify(new URL(`../../src/linux/${name}.js`, import.meta.url).href)
/** Leads the processes that its arguments name, says so, and does nothing more. */
const LEADER = `
import { guardLead } from ${module('lead-guard')}
import { runAhead } from ${module('priority')}
const pids = process.argv.slice(1).map(Number)
guardLead(pids.slice(0, 1))
guardLead(pids)
runAhead(pids, 'vcpu', 600_000)
console.log('they lead')
setInterval(() => {}, 1000)`

function start(t: Test, command: string, ...args: string[]): ChildProcess {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  return child
}

t.test('killed while it leads what never rests', root, async (t) => {
  // The limit is for a guard that fails: nobody else would get a turn to end them.
  const busy = Array.from({ length: availableParallelism() }, () =>
    start(t, '/bin/sh', '-c', 'ulimit -t 60; echo; while :; do :; done'),
  )
  await Promise.all(busy.map((child) => once(child.stdout!, 'data')))
  /** Real-time by somebody else's wish. */
  const strangers = [
    [FIFO, 1],
    [FIFO_RESET_ON_FORK, 83],
  ].map(([policy, priority]) => {
    const child = start(t, 'sleep', '600')
    libc().sched_setscheduler(child.pid!, policy!, new Uint8Array(new Int32Array([priority!]).buffer))
    return child
  })
  if (policyOf(strangers[0]!) !== FIFO) return t.comment('no real-time scheduling here')

  const led = [...busy, ...strangers].map(({ pid }) => String(pid))
  const leader = start(t, process.execPath, '--input-type=module', '-e', LEADER, ...led)
  await once(leader.stdout!, 'data')
  for (const child of busy) t.not(policyOf(child), ORDINARY)
  leader.kill('SIGKILL')
  await until('all to be put back', () => busy.every((child) => policyOf(child) === ORDINARY), 60_000)
  t.same(strangers.map(policyOf), [FIFO, FIFO_RESET_ON_FORK], 'real-time by somebody else’s wish')
})
