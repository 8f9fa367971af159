// Snapshot and restore of a network that is a bridge that was taken over: two guests and a container on br0, nothing
// configured, machines found. What is restored is on br0 again, whether its former self ran or was gone.

import { readFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import type { Manifest, RestoreReport } from '../../src/api/schemas.js'
import { attempt, sleep, until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { BridgeLab, CONTAINER, GUESTS } from './bridge-lab.js'

t.setTimeout(fileLimit(400_000))

t.test('on a bridge that was taken over', async (t) => {
  const host = await BridgeLab.build()
  const { lab } = host
  t.teardown(() => host.destroy())
  t.teardown(() => t.passing() || t.comment(lab.lastWords(60).join('\n')))
  await putSettings(host)
  await lab.startMachines()
  await host.startSwitch()
  await host.goesOn()
  t.match(await host.json('take', 'br0'), { bridge: 'br0', taken: true, problem: null })
  await host.isWhole()
  await host.goesOn()
  const put = await settings(host)
  const manifest = await host.json<Manifest>('snapshot', 'create', 'br0', '--name', 's1')
  t.match(manifest, { state: 'complete', figures: { lost: 0 } })
  await host.goesOn()

  const restores = async (t: Test, ...more: string[]) => {
    const report = await host.json<RestoreReport>('snapshot', 'restore', 's1', ...more)
    t.same(report.placement, { vm1: 'a', vm2: 'a' })
    t.same(report.warnings, [])
    t.same(await host.onBridge(), ['ssh-br0', 'to-c', 'vm1-tap', 'vm2-tap'])
    t.equal(await settings(host), put)
    lab.restartConsoles()
    await host.goesOn()
    await host.isWhole()
    for (const address of GUESTS) t.ok(await host.pings('c', address), `container to ${address}`)
    for (const address of [...GUESTS, CONTAINER]) t.ok(await host.pings('a', address), `host to ${address}`)
  }

  await t.test('machines that run are replaced: their ports are members all the time', async (t) => {
    await restores(t, '--replace')
    const became = (port: string) =>
      [...readFileSync(lab.log('a'), 'utf8').matchAll(new RegExp(`"port":"${port}".*"kind":"(\\w+)"`, 'g'))].map(
        ([, kind]) => kind,
      )
    t.same([became('vm1-tap'), became('vm2-tap')], [['member'], ['member']])
    const again = await host.json<Manifest>('snapshot', 'create', 'br0', '--name', 's2')
    t.match(again, { state: 'complete', figures: { lost: 0 } })
  })

  await t.test('machines that have ended, their TAPs still in the bridge', async (t) => {
    await lab.killMachines()
    await until('plain ports', 60_000, async () =>
      (await host.ports()).some((port) => port.includes('member')) ? undefined : true,
    )
    await restores(t)
  })

  await t.test('machines that have ended, and their TAPs with them', async (t) => {
    await lab.killMachines()
    for (const device of ['vm1-tap', 'vm2-tap']) await host.ip('a', 'link', 'delete', device)
    await until('the ports to go', 60_000, async () => ((await host.ports()).length === 2 ? true : undefined))
    await restores(t)
  })

  await t.test(
    'a machine’s device that leaves the bridge during a snapshot goes from the switch after it',
    async (t) => {
      const { client } = host
      const call = { deadlineMs: patience(30_000) }
      await client.prepare('br0', 'held', { epoch: 1000, policy: 'buffer', deadlineMs: patience(60_000) }, call)
      await host.ip('a', 'link', 'set', 'vm2-tap', 'nomaster')
      await sleep(1500)
      t.ok((await host.ports()).includes('vm2-tap member vm2'), 'not yet')
      t.match(await client.bridges(call), [{ problem: null }], 'which is nothing wrong')
      await client.discard('br0', 'held', { epoch: 1000 }, call)
      await until('the port to go', 60_000, async () => ((await host.ports()).length === 3 ? true : undefined), 10)
      await host.ip('a', 'link', 'set', 'vm2-tap', 'master', 'br0')
      await host.isWhole()
    },
  )

  await t.test('given back: the kernel forwards', async (t) => {
    t.match(await host.command('give', 'br0'), { code: 0 })
    t.same(await host.onBridge(), ['to-c', 'vm1-tap', 'vm2-tap'])
    t.same(await host.ports(), [])
    await host.goesOn()
    for (const address of [...GUESTS, CONTAINER]) t.ok(await host.pings('a', address), `host to ${address}`)
  })
})

/** What a new device in a bridge does not have by itself: a flag, and VLANs where the kernel has them in bridges. */
async function putSettings(host: BridgeLab): Promise<void> {
  await host.ip('a', 'link', 'set', 'vm2-tap', 'type', 'bridge_slave', 'mcast_flood', 'off')
  const aware = ['-n', host.lab.namespace('a'), 'link', 'set', 'br0', 'type', 'bridge', 'vlan_filtering', '1']
  if ((await attempt('ip', aware)).code !== 0) return
  const add = (...words: string[]) => host.in('a', 'bridge', 'vlan', 'add', ...words)
  for (const device of ['vm1-tap', 'vm2-tap', 'to-c']) await add('dev', device, 'vid', '10', 'pvid', 'untagged')
  await add('dev', 'vm1-tap', 'vid', '20-22')
  await add('dev', 'br0', 'vid', '10', 'pvid', 'untagged', 'self')
}

async function settings(host: BridgeLab): Promise<string> {
  const look = async (...words: string[]) => {
    const listed = JSON.parse((await host.in('a', 'bridge', '-j', ...words)) || '[]') as { ifname: string }[]
    return listed.filter(({ ifname }) => ifname.endsWith('-tap')).sort((x, y) => (x.ifname < y.ifname ? -1 : 1))
  }
  return JSON.stringify(
    [await look('vlan'), await look('-d', 'link')],
    (key, value) => (key === 'ifindex' ? undefined : value),
    1,
  )
}
