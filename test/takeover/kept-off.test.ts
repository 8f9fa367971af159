// A device of a bridge that cannot be a port keeps no other off the switch, and a snapshot is told of it.

import { join } from 'node:path'
import t from 'tap'
import { startQemu } from '../discovery/holders.js'
import { until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { root, World } from '../switch/world.js'
import { bridgeHost, container, joinBridge } from './bridge-world.js'

t.setTimeout(fileLimit(120_000))
const CALL = { deadlineMs: patience(20_000) }

t.test('a device that cannot be a port', root, async (t) => {
  const world = World.for(t)
  await bridgeHost(world)
  await container(world, 'c1', '192.0.2.11')
  await world.endpoint('other', 'h')
  /** Its ports have names that devices of the bridge have. */
  const file = (ports: Record<string, unknown>) => ({ networks: { lab: { bridge: 'br0' }, another: { ports } } })
  const daemon = await world.switch('h', file({ tap7: { device: 'other' } }))
  const configure = async (ports: Record<string, unknown>) => {
    world.configFile('h', file(ports))
    await daemon.client.reload(CALL)
  }
  const port = (name: string) => until(`port ${name}`, 20_000, () => daemon.port(name).catch(() => undefined))
  const problem = async (code: string | null, message = /./) =>
    until(`the bridge’s problem: ${code}`, 20_000, async () => {
      const [found] = await daemon.client.bridges(CALL)
      return (found?.problem?.code ?? null) === code && message.test(found?.problem?.message ?? 'none')
        ? true
        : undefined
    })
  const preflight = () => daemon.client.preflight('lab', CALL)
  await port('c1')
  t.same((await preflight()).bridges, [])

  await t.test('one that has a VLAN on it', async (t) => {
    await container(world, 'nic', '192.0.2.13', { join: false })
    const vlan = ['link', 'add', 'link', 'nic', 'name', 'nic.5', 'type', 'vlan', 'id', '5']
    if ((await world.try('h', 'ip', ...vlan)).code !== 0) {
      t.pass('VLANs', { skip: 'this kernel has no VLAN devices' })
      return
    }
    await joinBridge(world, 'nic')
    await problem('DEVICE_BUSY', /nic has vlan nic\.5 on it/)
    await container(world, 'c4', '192.0.2.16')
    await port('c4')
    t.equal((await world.pings('c4', '192.0.2.11')).code, 0)
    await problem('DEVICE_BUSY', /nic/)
    t.match(await preflight(), { problems: [], bridges: [{ bridge: 'br0', problem: { code: 'DEVICE_BUSY' } }] })
    await world.ip('h', 'link', 'delete', 'nic.5')
    await port('nic')
    await problem(null)
  })

  await t.test('one whose name another port has', async (t) => {
    await container(world, 'c2', '192.0.2.12')
    await port('c2')
    await configure({ mine: { device: 'other' } })
    await container(world, 'mine', '192.0.2.14')
    await problem('PORT_EXISTS', /mine/)
    await container(world, 'c3', '192.0.2.15')
    await port('c3')
    t.match(await preflight(), { problems: [], bridges: [{ bridge: 'br0', problem: { code: 'PORT_EXISTS' } }] })
    await world.ip('h', 'link', 'set', 'c2', 'nomaster')
    await until('c2 to go', 20_000, async () => ((await daemon.port('c2')) === undefined ? true : undefined))
    await problem('PORT_EXISTS', /mine/)
    await world.ip('h', 'link', 'set', 'mine', 'nomaster')
    await problem(null)
    await configure({ tap7: { device: 'other' } })
  })

  await t.test('a machine’s: a snapshot would be without it', async (t) => {
    await world.ip('h', 'tuntap', 'add', 'tap7', 'mode', 'tap')
    await joinBridge(world, 'tap7')
    const qmp = `unix:${join(world.directory, 'qmp')},server=on,wait=off`
    const machine = await startQemu(['tap7'], ['-name', 'vm7', '-qmp', qmp], { through: world.enter('h') })
    t.teardown(() => machine.end())
    await problem('PORT_EXISTS', /tap7/)
    await until('the machine to be named', 20_000, async () => {
      const { problems } = await preflight()
      return problems.some(({ message }) => /machine vm7 .*tap7/.test(message)) ? true : undefined
    })
    await configure({})
    await until('the member', 20_000, async () => ((await daemon.port('tap7'))?.vm === 'vm7' ? true : undefined))
    await problem(null)
    t.match(await preflight(), { bridges: [], members: [{ vm: 'vm7' }] })
  })

  await t.test('given back', async (t) => {
    await daemon.client.giveBridge('br0', CALL)
    t.match(await preflight(), { bridges: [{ bridge: 'br0', problem: { code: 'BRIDGE_NOT_TAKEN' } }] })
  })
})
