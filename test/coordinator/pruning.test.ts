// `snapshot prune --orphans` at the coordinator: which of the hosts' copies no snapshot has.

import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { digestOf } from './fixtures.js'
import { lab } from './lab.js'

const copyOf = (digest: string) => ({ file: `/images/${digest}`, digest, bytes: 10 })

t.test('copies that no snapshot has go', async (t) => {
  const { a, b, coordinator, create } = await lab(t)
  const { parts } = await create()
  const named = parts[1]!.members[0]!.memory.digest
  const [lone, other] = [copyOf(digestOf('lone')), copyOf(named)]
  a.copies = [lone, other]
  await coordinator.prune({})
  t.same(a.copies, [lone, other], 'nobody has asked for it')
  const would = await coordinator.prune({ orphans: true, dryRun: true })
  t.match(would.hosts[0], { host: 'a', pruned: { removed: [lone.file], freedBytes: 10 } })
  t.same(a.copies, [lone, other])
  const { hosts } = await coordinator.prune({ orphans: true })
  t.match(hosts, [
    { host: 'a', pruned: { removed: [lone.file] } },
    { host: 'b', pruned: { removed: [] } },
  ])
  t.same(a.copies, [other], 'what a snapshot on another host has stays')
  t.notOk('copies' in hosts[0]!.pruned!)
  t.same(
    b.calls.filter((call) => call.startsWith('prune')),
    ['prune', 'prune', 'prune'],
  )
})

t.test('copies that a damaged manifest may name stay', async (t) => {
  const { a, directory, coordinator, create } = await lab(t)
  await create('demo')
  const file = join(directory, 'store', 'lab0', 'demo', 'manifest.json')
  await writeFile(file, (await readFile(file, 'utf8')).slice(0, 300))
  a.copies = [copyOf(digestOf('lone'))]
  const { hosts } = await coordinator.prune({ orphans: true })
  t.same(hosts[0]!.pruned!.removed, [])
  t.equal(a.copies.length, 1)
})
