// The counting of `scripts/bench stores` on real servers: Debian's etcd and redis and the bench's client, as the
// machines have them, in namespaces instead of machines. Looks of different moments are counted as such, and nothing
// once all rest. Then a replica is turned away from its primary, and a member of etcd is ended.

import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t from 'tap'
import { allCores, Lab } from '../../bench/lab/lab.js'
import { command, type Service } from '../../bench/lab/processes.js'
import { cutCounts, endCounts, isWrongCut, isWrongEnd, type NetworkState } from '../../bench/stores/counts.js'
import { stateIn } from '../../bench/stores/examine.js'
import { clientName, memberNames, storesImage, storesMachines } from '../../bench/stores/plan.js'
import { until } from '../lab/command.js'
import { GuestConsole, type StoresReport } from '../lab/console.js'
import { guestImage } from '../lab/image.js'
import { fileLimit } from '../patience.js'

t.setTimeout(fileLimit(240_000))

const LIMIT_MS = 60_000

/** A directory with what the machines boot from. */
async function unpack(into: string): Promise<void> {
  mkdirSync(into)
  const cache = dirname(await storesImage())
  for (const archive of [(await guestImage()).initramfs, join(cache, 'stores.cpio')])
    execFileSync('cpio', ['-idmu', '--quiet'], {
      cwd: into,
      input: readFileSync(archive),
      stdio: ['pipe', 'ignore', 'pipe'],
    })
  for (const [name, minor] of [
    ['null', 3],
    ['urandom', 9],
  ] as const)
    await command(['mknod', join(into, 'dev', name), 'c', '1', String(minor)])
}

t.test('real servers', async (t) => {
  const lab = new Lab()
  t.teardown(() => lab.destroy())
  const root = join(lab.scratch, 'root')
  await unpack(root)
  writeFileSync(join(root, `console-${clientName}`), '')
  await lab.addNamespace('lan')
  await lab.ip('lan', ['link add br0 type bridge', 'link set br0 up'])
  const jobs = new Map<string, Service>()
  for (const { name, address, words } of storesMachines) {
    await lab.addNamespace(name)
    await lab.veth(name, 'eth0', 'lan', name)
    await lab.ip('lan', [`link set ${name} master br0`])
    await lab.ip(name, [`addr add ${address} dev eth0`, 'link set lo up'])
    const job = ['unshare', '--pid', '--fork', '--kill-child', `--mount-proc=${join(root, 'proc')}`]
    jobs.set(
      name,
      await lab.start(name, allCores(), [...job, 'chroot', root, '/bin/lab', `/console-${name}`], {
        PATH: '/bin:/usr/bin:/sbin:/usr/sbin',
        STORES_WORDS: [`lab.ip=${address}`, ...words].join(' '),
      }),
    )
  }
  const console = new GuestConsole(join(root, `console-${clientName}`))
  const told = (what: string, test: (report: StoresReport) => boolean): Promise<StoresReport> =>
    until(what, LIMIT_MS, () => {
      const stores = console.state?.stores
      return stores !== undefined && test(stores) ? stores : undefined
    })
  /** In a machine's namespaces and root: its job is the one child of what made them. */
  const inside = (name: string, ...argv: string[]): Promise<string> => {
    const { pid } = jobs.get(name)!
    const child = readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').trim()
    return command(['nsenter', '-t', child, '-n', '-m', '-p', '-r', '--', ...argv], { env: { PATH: '/bin' } })
  }
  const look = async (): Promise<NetworkState> => {
    const states = new Map<string, NonNullable<ReturnType<typeof stateIn>>>()
    for (const name of jobs.keys()) {
      const state = stateIn(await inside(name, '/bin/examine'))
      if (state === undefined) throw new Error(`${name} says no state`)
      states.set(name, state)
    }
    const { begun } = console.state!.stores!
    return { members: memberNames.map((name) => states.get(name)!), client: states.get(clientName)!, begun }
  }

  await told('writes that all have', ({ etcd, redis }) => redis.copied >= 5 && etcd.every(({ acked }) => acked >= 3))
  const early = await look()
  const later = await told(
    'more writes',
    ({ begun }) => begun.etcd > early.begun.etcd + 6 && begun.redis > early.begun.redis + 6,
  )
  const late = await look()
  const servers = cutCounts({ ...early, client: late.client, begun: later.begun })
  t.ok(servers['cut.missing']! > 3, `servers of before, their client of later: ${JSON.stringify(servers)}`)
  const client = cutCounts({ ...late, client: early.client, begun: early.begun })
  t.ok(client['cut.unbegun']! > 3, `a client of before, its servers of later: ${JSON.stringify(client)}`)
  const primary = cutCounts({ ...late, members: [early.members[0]!, ...late.members.slice(1)] })
  t.ok(primary['cut.ahead']! >= 2, `a primary of before, its replicas of later: ${JSON.stringify(primary)}`)
  await inside(clientName, '/bin/touch', '/run/stop')
  await told('an idle client', ({ idle }) => idle)
  const cut = await until('members that have come to one state', LIMIT_MS, async () => {
    const state = await look()
    return isWrongEnd({ ...endCounts(state, state), still: 0 }) ? undefined : state
  })
  t.notOk(isWrongCut(cutCounts(cut)), `nothing is counted: ${JSON.stringify(cutCounts(cut))}`)
  t.ok(cut.client.acknowledged.filter(({ store }) => store === 'etcd').length >= 9)
  t.ok(cut.client.acknowledged.some(({ store, more }) => store === 'redis' && more === 2))
  t.ok(
    cut.members.every(({ etcd }) => etcd?.leader === cut.members[0]!.etcd!.leader && etcd.leader !== ''),
    'all know one leader',
  )

  const redis = (line: string) =>
    inside('store1', '/bin/sh', '-c', `printf '%s\\r\\nQUIT\\r\\n' '${line}' | nc 127.0.0.1 6379`)
  t.match(await redis('REPLICAOF NO ONE'), /OK/)
  t.match(await redis(`SET ${cut.client.acknowledged.find(({ store }) => store === 'redis')!.key} 1`), /OK/)
  const parted = endCounts(cut, await look())
  t.equal(parted['end.disagree'], 1, 'another value at one member')
  t.ok(isWrongEnd({ ...parted, still: 0 }))

  await inside('store2', '/bin/sh', '-c', 'kill -9 $(busybox pidof etcd)')
  const ended = await until('a server that was started again', LIMIT_MS, async () => {
    const counts = endCounts(cut, await look())
    return counts['end.ended'] === 1 ? counts : undefined
  })
  t.ok(isWrongEnd({ ...ended, still: 0 }))
})
