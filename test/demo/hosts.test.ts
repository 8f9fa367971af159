// Hosts that come and go, with real machines: one loses its power and comes back without its TAPs, then it is lost for
// good, with all that it had. What lists and `verify` say of a snapshot meanwhile, and what can be restored.

import t from 'tap'
import type { Manifest, VerifyReport } from '../../src/api/schemas.js'
import { SwitchClient } from '../../src/api/switch-client.js'
import { attempt } from '../lab/command.js'
import { Lab } from '../lab/lab.js'
import { ringBegins, ringGoesOn, ringOfTwo } from '../lab/ring.js'
import { fileLimit, patience } from '../patience.js'

t.setTimeout(fileLimit(280_000))

const plan = ringOfTwo('10.80.0', 1_000_000)

t.test('a host reboots, and is lost', { skip: process.getuid?.() === 0 ? false : 'needs root' }, async (t) => {
  const lab = await Lab.build(plan)
  t.teardown(() => lab.destroy())
  await Promise.all(plan.hosts.map((host) => lab.startSwitch(host)))
  await lab.startCoordinator()
  await lab.startMachines()
  await ringBegins(lab)
  const health = async () => {
    const [found] = await lab.snapswitchJson<Manifest[]>(['snapshot', 'list'])
    return found?.health?.hosts.map(({ host, verdict }) => `${host} ${verdict}`)
  }
  const verify = async () => {
    const [program, ...args] = lab.commandLine(['snapshot', 'verify', 's1', '-j'])
    const { code, stdout, stderr } = await attempt(program!, args, 60_000)
    if (stdout === '') throw new Error(stderr)
    return { code, report: JSON.parse(stdout) as VerifyReport }
  }
  const restore = (...places: string[]) =>
    lab.snapswitchJson(['snapshot', 'restore', 's1', '--replace', ...places.flatMap((place) => ['--place', place])])
  t.match(await lab.snapswitchJson(['snapshot', 'create', 'lab0']), { name: 's1', state: 'complete' })
  t.same(await health(), ['a ok', 'b ok'])
  t.match(await verify(), { code: 0, report: { health: { verdict: 'ok' }, restorable: true } })

  await t.test(
    'its power fails, and it boots: TAPs are gone, ports wait, a restore makes what is missing',
    async (t) => {
      await lab.powerOff('b')
      t.same(await health(), ['a ok', 'b away'])
      t.match(await verify(), { code: 1, report: { health: { verdict: 'away' }, restorable: false } })
      await lab.powerOn('b')
      await lab.startSwitch('b')
      const client = new SwitchClient(lab.switchSocket('b'))
      t.teardown(() => client.close())
      const waiting = async () => (await client.status({ deadlineMs: patience(5000) })).networks[0]?.waiting
      t.same(await waiting(), ['two'])
      t.same(await health(), ['a ok', 'b ok'])
      lab.restartConsoles()
      await restore()
      t.same(await waiting(), [])
      await ringGoesOn(t, lab)
      // The machine that a restore has started there is gone after the next reboot, too: its port, from the records,
      // waits.
      await lab.powerOff('b')
      await lab.powerOn('b')
      await lab.startSwitch('b')
      t.same(await waiting(), ['two'])
    },
  )

  await t.test('it is lost with its directory: copies that another host has bring its machine back', async (t) => {
    lab.restartConsoles({ two: 'a' })
    await restore('two=a')
    await ringGoesOn(t, lab)
    await lab.loseHost('b')
    t.same(await health(), ['a ok', 'b away'], 'no plain `complete`')
    const { code, report } = await verify()
    t.equal(code, 1)
    t.equal(report.restorable, true, 'host a has fetched what it needed of b', { report })
    lab.restartConsoles()
    await restore('two=a')
    await ringGoesOn(t, lab)
    t.same((await lab.runningMachines()).map(({ name, host }) => `${name} ${host}`).sort(), ['one a', 'two a'])
  })

  await t.test('files are gone, too: the list says damaged, and the restore says who lacks what', async (t) => {
    const { parts } = await lab.snapswitchJson<Manifest>(['snapshot', 'show', 's1'])
    const memory = parts.find(({ host }) => host === 'a')!.members[0]!.memory
    await attempt('rm', [lab.host('a').outside(memory.path)])
    t.same(await health(), ['a damaged', 'b away'])
    const { code, report } = await verify()
    t.equal(code, 1)
    t.equal(report.restorable, false)
    t.match(report.health.hosts[0]!.faults, [{ file: memory, fault: 'missing', elsewhere: [] }])
    await t.rejects(restore('two=a'), { message: /STORE_DAMAGED: host a lacks .*memory\.img/ })
    t.same((await lab.runningMachines()).map(({ name }) => name).sort(), ['one', 'two'], 'and all run on')
  })
  t.same(lab.touchedStrangers(), [])
})
