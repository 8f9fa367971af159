// A machine with ports in two networks: a snapshot of one takes the machine whole, and the other network is the outside
// world to it.

import t from 'tap'
import type { LocalEvent } from '../../src/api/schemas.js'
import { findProcesses, killProcess } from '../../src/hypervisor/shared/process.js'
import { bootGuest, readReport, soon, until } from '../hypervisor/boot-guest.js'
import { fileLimit, patience } from '../patience.js'
import { root, World } from './world.js'

t.setTimeout(fileLimit(120_000))
const LONG = { deadlineMs: patience(30_000) }

t.test('snapshot and restore of one of its networks', root, async (t) => {
  const world = World.for(t)
  await world.namespace('host')
  for (const device of ['tap0', 'tap1'])
    await world.ip('host', 'tuntap', 'add', 'dev', device, 'mode', 'tap', 'vnet_hdr')
  const guest = await bootGuest()
  t.teardown(async () => {
    await guest.end()
    const mine = findProcesses(
      (argv) => argv[argv.indexOf('-qmp') + 1]?.startsWith(`unix:${world.directory}/`) ?? false,
    )
    for (const machine of mine) await killProcess(machine, soon(5000))
  })
  const daemon = await world.switch('host', {
    networks: {
      lab0: { ports: { one: { device: 'tap0', vm: 'router' } } },
      lab1: { ports: { two: { device: 'tap1', vm: 'router' } } },
      lab2: { ports: {} },
    },
    machines: { router: { qmp: guest.qmp } },
  })
  const { client } = daemon
  const order = (epoch: number) => ({ epoch, policy: 'buffer' as const, deadlineMs: patience(30_000) })

  await client.prepare('lab0', 'kept', order(7), LONG)
  await t.rejects(client.prepare('lab1', 'other', order(3), LONG), {
    code: 'SNAPSHOT_BUSY',
    message: /snapshot kept of network lab0/,
  })
  await client.prepare('lab2', 'other', order(3), LONG)
  await client.discard('lab2', 'other', { epoch: 3 }, LONG)
  let last: LocalEvent | undefined
  for await (const event of client.take('lab0', 'kept', LONG)) last = event
  if (last?.type !== 'done') throw new Error(`the snapshot ended with ${JSON.stringify(last)}`)
  const { part } = last
  t.match(part.members[0]?.ports, [
    { name: 'one', device: 'tap0', network: undefined },
    { name: 'two', device: 'tap1', network: 'lab1' },
  ])
  t.match(await daemon.port('one'), { epoch: 7, gate: 'open' })
  t.match(await daemon.port('two'), { epoch: 0, gate: 'open' }, 'the other network has made no cut')

  const request = (epoch: number) => ({
    epoch,
    members: part.members,
    channels: [part.channel],
    deadlineMs: patience(30_000),
  })
  const moved = part.members.map((member) => ({
    ...member,
    ports: member.ports.map((port) => (port.network === undefined ? port : { ...port, network: 'elsewhere' })),
  }))
  const check = await client.restoreCheck('lab0', 'kept', { ...request(8), members: moved }, LONG)
  t.ok(
    check.problems.some(({ code }) => code === 'NETWORK_UNKNOWN'),
    'a host must have all networks of a machine',
  )
  const pause = (epoch: number) => ({
    epoch,
    machines: ['router'],
    replace: true,
    pauseMs: patience(30_000),
    deadlineMs: patience(30_000),
  })
  const switchOver = () => client.restoreSwitch('lab0', 'kept', { deadlineMs: patience(30_000) }, LONG)
  // Elsewhere it is restored; here it goes.
  t.same(await client.restorePause('lab0', 'kept', pause(8), LONG), { paused: ['router'] })
  t.same(await client.restoreSwitch('lab0', 'kept', { deadlineMs: patience(30_000) }, LONG), {
    ended: ['router'],
    warnings: [],
  })
  t.same(await client.ports(LONG), [], 'its ports go with it, whatever network they are in')

  const load = async (epoch: number) => {
    await client.restoreLoad('lab0', 'kept', request(epoch), LONG)
    t.match(await daemon.port('two'), { network: 'lab1', gate: 'closed' }, 'frames wait until it runs')
    await client.restorePause('lab0', 'kept', pause(epoch), LONG)
    await switchOver()
  }
  await load(9)
  t.match(await daemon.port('one'), { network: 'lab0', epoch: 9, gate: 'closed' })
  t.match(await daemon.port('two'), { network: 'lab1', epoch: 0, gate: 'closed' }, 'frames wait until it runs')
  const busy = (await client.preflight('lab1', LONG)).problems.some(({ code }) => code === 'SNAPSHOT_BUSY')
  t.ok(busy, 'the other network waits')
  t.same(await client.restoreAbort('lab0', 'kept', { epoch: 9 }, LONG), { running: [] })
  t.same(await client.ports(LONG), [])

  await load(10)
  const { count } = readReport(guest.serial)
  t.match(await client.restoreResume('lab0', 'kept', LONG), { resumed: [{ vm: 'router' }] })
  await until('the guest to run', () => readReport(guest.serial).count !== count, 20_000)
  t.match(await daemon.port('one'), { network: 'lab0', epoch: 10, gate: 'open' })
  t.match(await daemon.port('two'), { network: 'lab1', epoch: 0, gate: 'open' })
  t.same(
    await client.restoreAbort('lab0', 'kept', { epoch: 10 }, LONG),
    { running: ['router'] },
    'what runs is not undone any more',
  )
  t.equal(await daemon.stop(), 0)
})
