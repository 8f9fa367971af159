// One host needs one daemon: two machines, and nothing but `snapswitch switch`, whose coordinator is a process of its
// own that may be killed, and that makes way for one that somebody runs by himself.

import { setTimeout as pause } from 'node:timers/promises'
import t from 'tap'
import type { CoordinatorStatus, Manifest, RestoreReport } from '../../src/api/schemas.js'
import { SwitchClient } from '../../src/api/switch-client.js'
import { identify, isAlive } from '../../src/hypervisor/shared/process.js'
import { fileLimit, patience } from '../patience.js'
import { attempt, until } from './command.js'
import { program } from './daemon.js'
import { Lab, type LabPlan } from './lab.js'
import { end } from './processes.js'
import { HOP_DELAY_US } from './ring.js'

t.setTimeout(fileLimit(400_000))

const [one, two] = ['10.79.0.1', '10.79.0.2'] as const
const ring = { ring: [one, two], hops: 10_000_000, hopDelayUs: HOP_DELAY_US }
const plan: LabPlan = {
  network: 'lab0',
  hosts: ['a'],
  memoryMiB: 128,
  machines: [
    { name: 'vm1', host: 'a', job: { ...ring, ip: `${one}/24`, node: 0 } },
    { name: 'vm2', host: 'a', job: { ...ring, ip: `${two}/24`, node: 1 } },
  ],
}

const hopsOf = (lab: Lab, name: string) => lab.machine(name).console.state?.ring?.hop ?? 0

async function goesOn(lab: Lab): Promise<void> {
  for (const name of ['vm1', 'vm2']) {
    const before = hopsOf(lab, name)
    await until(`the ring at ${name}`, 90_000, () => hopsOf(lab, name) > before || undefined)
  }
}

t.test('snapshots with one daemon', async (t) => {
  const lab = await Lab.build(plan)
  t.teardown(() => lab.destroy())
  const { coordinator: _, ...config } = lab.switchConfig('a')
  const daemon = await lab.startSwitch('a', config)
  await lab.startMachines()
  await goesOn(lab)
  const host = lab.host('a')
  /** On the host, as a person would: only the switch's socket is said, for it is no usual one. */
  const command = async (...args: string[]) => {
    const env = ['env', `SNAPSWITCH_SOCKET=${host.inside('switch.sock')}`]
    const [enter, ...entry] = host.enter
    return attempt(enter!, [...entry, ...env, process.execPath, program(), ...args], 120_000)
  }
  const json = async <T>(...args: string[]): Promise<T> => {
    const { code, stdout, stderr } = await command(...args, '-j')
    if (code !== 0) throw new Error(stderr)
    return JSON.parse(stdout) as T
  }
  const coordinator = async () => (await json<{ coordinator: CoordinatorStatus | null }>('status')).coordinator
  const serves = (isRight: (found: CoordinatorStatus) => boolean, what: string) =>
    until(what, 60_000, async () => {
      const found = await coordinator().catch(() => null)
      return found !== null && isRight(found) ? found : undefined
    })

  await t.test('create and restore', async (t) => {
    const found = await serves(() => true, 'the coordinator')
    t.match(found, { embedded: true, networks: [{ name: 'lab0', hosts: [{ host: 'a', reachable: true }] }] })
    t.same(found.networks[0]!.hosts[0]!.members, ['vm1', 'vm2'])
    const manifest = await json<Manifest>('snapshot', 'create', 'lab0', '--name', 'first')
    t.match(manifest, { state: 'complete', parts: [{ host: 'a' }] })
    t.comment(`stood still ${manifest.figures?.downtimeMaxMs ?? '?'} ms`)
    const report = await json<RestoreReport>('snapshot', 'restore', 'first', '--replace')
    t.same(report.placement, { vm1: 'a', vm2: 'a' })
    await goesOn(lab)
  })

  await t.test('the coordinator is killed: the network goes on, and another one comes', async (t) => {
    const before = (await coordinator())!.pid
    process.kill(before, 'SIGKILL')
    const after = await serves(({ pid }) => pid !== before, 'another coordinator')
    t.ok(after.embedded)
    t.ok(identify(daemon.id.pid), 'the switch has not ended')
    await goesOn(lab)
    t.match(await json<Manifest[]>('snapshot', 'list'), [{ name: 'first', state: 'complete' }])
  })

  await t.test('one that is run by itself takes over, and gives back', async (t) => {
    const socket = host.outside(host.inside('switch.coordinator.sock'))
    const hosts = { a: { socket: lab.switchSocket('a') } }
    const own = { socket, store: host.outside(host.inside('state', 'manifests')), networks: { lab0: { hosts } } }
    const separate = await lab.startCoordinator(own)
    const found = await serves(({ embedded }) => embedded === false, 'the separate one')
    t.equal(found.pid, separate.id.pid)
    t.match(await json<Manifest[]>('snapshot', 'list'), [{ name: 'first' }], 'it goes on with the store')
    const [command_, ...args] = [process.execPath, program(), 'coordinator', '--config', separate.spec.config]
    const second = await attempt(command_!, args, 60_000)
    t.equal(second.code, 1)
    t.match(second.stderr, /^error DEVICE_BUSY: another daemon listens on/m, 'a second one does not')
    process.kill(separate.id.pid, 'SIGTERM')
    await serves(({ embedded }) => embedded === true, 'the one inside, again')
  })

  await t.test('the daemon is killed: its coordinator goes with it, and comes with the next', async (t) => {
    const child = identify((await coordinator())!.pid)!
    await end([daemon.id], 0)
    await until('the end of the coordinator', 20_000, () => !isAlive(child) || undefined)
    await lab.startSwitch('a', config)
    await serves(({ embedded }) => embedded === true, 'the coordinator')
    t.match(await json<Manifest[]>('snapshot', 'list'), [{ name: 'first', state: 'complete' }])
    t.match(await json<Manifest>('snapshot', 'create', 'lab0', '--name', 'second'), { state: 'complete' })
    await goesOn(lab)
  })

  await t.test('stopped in order', async (t) => {
    const client = new SwitchClient(lab.switchSocket('a'))
    const { pid } = await client.status({ deadlineMs: patience(5000) })
    await client.close()
    const child = identify((await coordinator())!.pid)!
    const switched = identify(pid)!
    process.kill(pid, 'SIGTERM')
    await until('the end of both', 30_000, () => (!isAlive(child) && !isAlive(switched)) || undefined)
    await pause(100)
    t.match(await command('status'), { code: 1, stderr: /SOCKET_UNREACHABLE/ })
  })
})
