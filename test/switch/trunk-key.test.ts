// Two daemons whose control frames carry a key: they meet, meet again after a restart, and do not when the keys differ.

import { writeFileSync } from 'node:fs'
import t from 'tap'
import { until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { root, type Switch, World } from './world.js'

t.setTimeout(fileLimit(60_000))

t.test('daemons with a key', root, async (t) => {
  const world = World.for(t)
  await world.host('a')
  await world.host('b')
  await world.cable(['a', 'trunk'], ['b', 'trunk'], { mtu: 1508 })
  const keyFile = (host: string) => world.inside(host, 'lab0.key')
  const setKey = (host: string, key: string) => writeFileSync(world.outside(host, keyFile(host)), key, { mode: 0o600 })
  const daemon = (host: string) =>
    world.switch(host, {
      networks: { lab0: { controlKey: keyFile(host), ports: { trunk: { device: 'trunk', kind: 'trunk' } } } },
    })
  const peer = async ({ client }: Switch) => (await client.status({ deadlineMs: patience(5000) })).networks[0].peers[0]
  const meet = (one: Switch, other: Switch, former: string | null = null) =>
    until('the peers', 5000, async () => {
      const [first, second] = await Promise.all([peer(one), peer(other)])
      return first.alive && second.alive && first.bootId !== former ? first : undefined
    })

  for (const host of ['a', 'b']) setKey(host, '0123456789abcdef0123456789abcdef\n')
  const a = await daemon('a')
  const b = await daemon('b')
  const before = await meet(a, b)
  await b.crash()
  await b.start()
  await meet(a, b, before.bootId)
  t.notOk((await a.client.ports({ deadlineMs: patience(5000) }))[0].counters.drops['control-unauthenticated'])
  t.notMatch(a.said(), 'are refused')

  await b.crash()
  setKey('b', 'fedcba9876543210fedcba9876543210\n')
  await b.start()
  const refused = async () =>
    (await a.client.ports({ deadlineMs: patience(5000) }))[0].counters.drops['control-unauthenticated'] ?? 0
  // As many HELLOs as two that believe each other need to meet, and the former peer forgotten.
  await until('refusals', 15_000, async () => ((await refused()) > 4 && !(await peer(a)).alive ? true : undefined))
  t.same([(await peer(a)).alive, (await peer(b)).alive], [false, false], 'another key is no peer')
  t.equal(a.said().split('control-unauthenticated').length - 1, 1, 'logged once')
  t.notMatch(a.said() + b.said(), /0123456789abcdef0123|fedcba9876543210fe/, 'no key in a log')
})
