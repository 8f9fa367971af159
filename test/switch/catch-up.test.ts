// Frames from cuts that this host was not told of: each epoch has its time for its TAKE, then the host moves on.

import { mock } from 'node:test'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { systemClock } from '../../src/runtime/clock.js'
import { CatchUp } from '../../switch/agent/catch-up.js'

function catchUp(t: Test) {
  mock.timers.enable({ apis: ['setTimeout'] })
  t.teardown(() => mock.timers.reset())
  const advanced: string[] = []
  const underWay = new Map<string, number>()
  const host = {
    clock: systemClock,
    log: pino({ level: 'silent' }),
    epochs: { raise: async () => undefined },
    datapath: {
      rememberEpoch: (network: string, epoch: number) => advanced.push(`${network} ${epoch}`),
      call: async () => ({ opening: [], atUs: 0 }),
    },
  }
  const one = new CatchUp(host as never, (network) => {
    const epoch = underWay.get(network)
    return epoch === undefined ? null : { epoch }
  })
  t.teardown(() => one.close())
  const pass = async (ms: number) => {
    mock.timers.tick(ms)
    await new Promise(setImmediate)
    return advanced.splice(0)
  }
  return { one, underWay, pass }
}

t.test('a higher epoch that comes while another is waited for is moved on to as well', async (t) => {
  const { one, pass } = catchUp(t)
  one.early('lab0', 5)
  t.same(await pass(1000), [])
  // Another port, and another one's later frame: no port says it again.
  one.early('lab0', 5)
  one.early('lab0', 6)
  t.same(await pass(2000), ['lab0 5'])
  t.same(await pass(1000), ['lab0 6'])
  t.same(await pass(60_000), [])
  one.early('lab0', 5)
  t.same(await pass(3000), ['lab0 5'], 'harmless: it is past it')
})

t.test('its TAKE comes after all', async (t) => {
  const { one, underWay, pass } = catchUp(t)
  one.early('lab0', 5)
  one.early('lab1', 5)
  await pass(1000)
  one.early('lab0', 6)
  await pass(1500)
  underWay.set('lab0', 6)
  t.same(await pass(500), ['lab0 5', 'lab1 5'])
  t.same(await pass(3000), [], 'it is being cut for')
})

t.test('a snapshot of before has not ended here: it is waited for', async (t) => {
  const { one, underWay, pass } = catchUp(t)
  underWay.set('lab0', 5)
  one.early('lab0', 6)
  t.same(await pass(3000), [])
  t.same(await pass(3000), [])
  underWay.delete('lab0')
  t.same(await pass(3000), ['lab0 6'])
})

t.test('closed: nobody moves on', async (t) => {
  const { one, pass } = catchUp(t)
  for (const epoch of [5, 6]) one.early('lab0', epoch)
  one.close()
  t.same(await pass(60_000), [])
})
