// What the daemon says of machines behind ports that belong to none by the configuration.

import { join } from 'node:path'
import t from 'tap'
import { attempt, until } from '../lab/command.js'
import { repositoryRoot } from '../lab/repository.js'
import { fileLimit, patience } from '../patience.js'
import { root, World } from '../switch/world.js'
import { startQemu } from './holders.js'

t.setTimeout(fileLimit(90_000))

t.test('plain ports with machines behind them', root, async (t) => {
  const world = World.for(t)
  await world.namespace('h')
  for (const tap of ['p0', 'p1', 'p2', 'm0']) await world.ip('h', 'tuntap', 'add', tap, 'mode', 'tap')
  const through = world.enter('h')
  const qmp = (name: string) => ['-qmp', `unix:${join(world.directory, name)},server=on,wait=off`]
  const web = await startQemu(['p0'], ['-name', 'web', ...qmp('web')], { through })
  const mute = await startQemu(['p1'], ['-name', 'mute'], { through })
  const member = await startQemu(['m0'], ['-name', 'other', ...qmp('other')], { through })
  t.teardown(() => Promise.all([web.end(), mute.end(), member.end()]))
  const daemon = await world.switch('h', {
    networks: {
      net: {
        ports: { p0: { device: 'p0' }, p1: { device: 'p1' }, p2: { device: 'p2' }, m0: { device: 'm0', vm: 'm' } },
      },
    },
    machines: { m: { qmp: join(world.directory, 'other') } },
  })
  const holderOf = async (name: string) => (await daemon.port(name)).holder
  await until('the machine', 20_000, async () => (await holderOf('p0'))?.kind === 'machine' || undefined)
  t.match(await daemon.port('p0'), { kind: 'plain', vm: null, holder: { name: 'web', problem: null } })
  t.match(await daemon.port('p1'), {
    kind: 'plain',
    holder: { kind: 'undrivable', name: 'mute', problem: { code: 'MACHINE_UNSUPPORTED' } },
  })
  t.equal(await holderOf('p2'), null)
  t.equal(await holderOf('m0'), undefined, 'whose it is, the configuration says')
  const cli = async (...args: string[]) => {
    const program = join(repositoryRoot(), 'bin', 'snapswitch')
    return (await attempt(program, [...args, '--socket', world.socket('h')], 30_000)).stdout
  }
  const list = await cli('port', 'list')
  t.match(list, /p0 .*\(web\)/)
  t.match(list, /p1 .*\(mute: not driven\)/)
  t.match(list, /port p1: the QEMU mute \(process \d+\) cannot be driven: it has no QMP socket/)
  t.match(await cli('status'), /port p1: the QEMU mute/)
  const preflight = await daemon.client.preflight('net', { deadlineMs: patience(10_000) })
  t.match(preflight.undriven, [{ port: 'p1', name: 'mute', problem: { message: /no QMP socket/ } }])
  await mute.end()
  await until('its end', 20_000, async () => (await holderOf('p1')) === null || undefined)
  t.equal(await daemon.stop(), 0)
})
