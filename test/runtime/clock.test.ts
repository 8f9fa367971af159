// Times of other processes on this thread's clock, when somebody has set the host's clock since the thread began.

import t from 'tap'
import { nowUs, steadyUs } from '../../src/runtime/clock.js'

t.test('a moment that another process has read, after the clock was set', async (t) => {
  const hour = 3_600_000_000
  const now = nowUs()
  t.equal(steadyUs(now), now, 'nobody has set it')
  t.equal(steadyUs(now + hour, -hour), now, 'set forward: the thread’s is behind')
  t.equal(steadyUs(now - hour, hour), now, 'set back')
  t.equal(steadyUs(now, 900), now, 'what is only coarse is left as it is')
})
