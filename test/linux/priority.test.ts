// Threads run ahead for a while and are set back as they were.

import { spawn } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { libc } from '../../src/linux/libc.js'
import { endForgottenLead, ownThread, runAhead, threadsOf } from '../../src/linux/priority.js'

const policyOf = (thread: number) => libc().sched_getscheduler(thread)
const ordinary = 0

const child = spawn('sleep', ['60'], { stdio: 'ignore' })
const pid = child.pid!
t.teardown(() => child.kill('SIGKILL'))

// Real-time scheduling may be withheld (a cgroup without RT time): then nice values take its place, checked elsewhere.
const end = runAhead([pid], 'vcpu', 60_000)
const able = policyOf(pid) !== ordinary
end()

t.test('until the last holder lets go', { skip: able ? false : 'no real-time scheduling here' }, async (t) => {
  const first = runAhead([pid, 0], 'hypervisor', 60_000)
  const second = runAhead([pid], 'hypervisor', 60_000)
  first()
  first()
  t.not(policyOf(pid), ordinary, 'somebody still needs it')
  second()
  t.equal(policyOf(pid), ordinary)
})

t.test('no longer than the limit', { skip: able ? false : 'no real-time scheduling here' }, async (t) => {
  runAhead([pid], 'switch', 20)
  t.not(policyOf(pid), ordinary)
  for (let i = 0; i < 500 && policyOf(pid) !== ordinary; i++) await sleep(20)
  t.equal(policyOf(pid), ordinary)
})

t.test('what a dead daemon left is found', { skip: able ? false : 'no real-time scheduling here' }, async (t) => {
  libc().sched_setscheduler(pid, 0x40000001, new Uint8Array(new Int32Array([1]).buffer))
  endForgottenLead(pid)
  t.equal(policyOf(pid), ordinary)
})

t.test('threads that do not exist', async (t) => {
  t.same(threadsOf(2 ** 22 + 1), [])
  runAhead([2 ** 22 + 1], 'vcpu', 1000)()
  t.equal(ownThread(), process.pid)
})
