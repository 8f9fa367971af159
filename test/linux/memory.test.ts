// Whom the kernel ends when memory runs out: what a spared daemon has started is not spared.

import { spawn } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import t from 'tap'
import { spareNot } from '../../src/linux/memory.js'

const child = spawn('sleep', ['60'], { stdio: 'ignore' })
const pid = child.pid!
t.teardown(() => child.kill('SIGKILL'))
const file = `/proc/${pid}/oom_score_adj`
const score = () => Number(readFileSync(file, 'latin1'))

/** Whether a process can be spared here: it takes CAP_SYS_RESOURCE. */
function canSpare(): boolean {
  try {
    writeFileSync(file, '-900')
    return true
  } catch {
    return false
  }
}
const spares = canSpare()

t.test('one that was spared', { skip: spares ? false : 'needs CAP_SYS_RESOURCE' }, async (t) => {
  spareNot(pid)
  t.equal(score(), 0)
})

t.test('one that its user has made go early stays so, and one that goes first does', async (t) => {
  writeFileSync(file, '300')
  spareNot(pid)
  t.equal(score(), 300)
  spareNot(pid, 'first')
  t.equal(score(), 1000)
  spareNot(pid)
  t.equal(score(), 1000)
})

t.test('one that has ended', async (t) => {
  t.doesNotThrow(() => spareNot(2 ** 22 + 1))
})
