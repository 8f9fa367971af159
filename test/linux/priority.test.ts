// Threads run ahead for a while and are set back as they were.

import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { getPriority, setPriority } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { libc } from '../../src/linux/libc.js'
import { endForgottenLead, ownThread, runAhead, threadsOf } from '../../src/linux/priority.js'
import { root } from '../switch/world.js'

const policyOf = (thread: number) => libc().sched_getscheduler(thread)
const ordinary = 0
const fifoReset = 0x40000001

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
  const lead = (priority: number) =>
    libc().sched_setscheduler(pid, fifoReset, new Uint8Array(new Int32Array([priority]).buffer))
  lead(1)
  endForgottenLead(pid)
  t.equal(policyOf(pid), ordinary)
  lead(83)
  endForgottenLead(pid)
  t.equal(policyOf(pid), fifoReset, 'by somebody else’s wish, as PipeWire does')
  libc().sched_setscheduler(pid, ordinary, new Uint8Array(4))
  setPriority(pid, -11)
  endForgottenLead(pid)
  t.equal(getPriority(pid), 0, 'where real-time priorities are withheld')
  setPriority(pid, -10)
  endForgottenLead(pid)
  t.equal(getPriority(pid), -10, 'by somebody else’s wish')
  setPriority(pid, 0)
})

/** What a process without CAP_SYS_NICE that leads itself says of its policy and nice value: before, in it, after. */
function inTurn(...limits: string[]): number[][] {
  const module = (name: string) => JSON.stringify(new URL(`../../src/linux/${name}.js`, import.meta.url).href)
  const code = `
import { getPriority } from 'node:os'
import { libc } from ${module('libc')}
import { runAhead } from ${module('priority')}
const look = () => [libc().sched_getscheduler(0), getPriority()]
const looks = [look()]
for (let i = 0; i < 2; i++) {
  const end = runAhead([process.pid], 'switch', 60_000)
  looks.push(look())
  end()
  looks.push(look())
}
console.log(JSON.stringify(looks))`
  const drop = ['--bounding-set=-sys_nice', '--inh-caps=-sys_nice']
  const words = [...limits, 'setpriv', ...drop, process.execPath, '--input-type=module', '-e', code]
  return JSON.parse(execFileSync('prlimit', words, { encoding: 'utf8' })) as number[][]
}

const nice = getPriority()
const former = [ordinary, nice]

t.test('without CAP_SYS_NICE and by no limit: nothing happens', { skip: root.skip }, async (t) => {
  t.same(inTurn('--rtprio=0', '--nice=0'), [former, former, former, former, former])
})

const raises = spawnSync('prlimit', ['--rtprio=10', '--nice=40', 'true']).status === 0

t.test('without CAP_SYS_NICE, by limits', { skip: raises ? false : 'limits cannot be raised here' }, async (t) => {
  const [lead, flagged] = [
    [fifoReset, nice],
    [0x40000000, nice],
  ]
  t.same(inTurn('--rtprio=10'), [former, lead, flagged, lead, flagged], 'nobody may take the flag back')
  const niced = [ordinary, -11]
  t.same(inTurn('--rtprio=0', '--nice=40'), [former, niced, former, niced, former])
})

t.test('threads that do not exist', async (t) => {
  t.same(threadsOf(2 ** 22 + 1), [])
  runAhead([2 ** 22 + 1], 'vcpu', 1000)()
  t.equal(ownThread(), process.pid)
})
