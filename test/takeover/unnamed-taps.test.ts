// Plain QEMUs as their manual has them: `-netdev tap,script=…` without a name, so that the kernel names the TAP and a
// script puts it into the bridge. It goes with its QEMU, and its name is free for others then.

import { chmodSync, writeFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import type { Manifest, RestoreReport } from '../../src/api/schemas.js'
import { until } from '../lab/command.js'
import { fileLimit, patience } from '../patience.js'
import { BridgeLab, GUESTS } from './bridge-lab.js'

t.setTimeout(fileLimit(300_000))
const CALL = { deadlineMs: patience(20_000) }

t.test('machines on TAPs that the kernel has named', async (t) => {
  const host = await BridgeLab.build((inside) => `tap,script=${inside('vm', 'ifup')},downscript=no`)
  const { lab } = host
  t.teardown(() => host.destroy())
  t.teardown(() => t.passing() || t.comment(lab.lastWords(60).join('\n')))
  for (const device of ['vm1-tap', 'vm2-tap']) await host.ip('a', 'link', 'delete', device)
  const script = lab.host('a').outside(lab.host('a').inside('vm', 'ifup'))
  writeFileSync(script, '#!/bin/sh\nexec ip link set "$1" up master br0\n')
  chmodSync(script, 0o755)
  await lab.startMachines()
  await host.startSwitch()
  t.match(await host.json('take', 'br0'), { bridge: 'br0', taken: true, problem: null })
  /** Their TAPs, in the order of their names. */
  const whole = () =>
    until('two members', 60_000, async () => {
      const ports = await host.client.ports(CALL)
      const members = ports.filter(({ kind }) => kind === 'member').sort((a, b) => (a.vm! < b.vm! ? -1 : 1))
      return members.map(({ vm }) => vm).join() === 'vm1,vm2' ? members.map(({ device }) => device) : undefined
    })
  const before = await whole()
  t.same([...before].sort(), ['tap0', 'tap1'])
  await host.goesOn()
  t.match(await host.json<Manifest>('snapshot', 'create', 'br0', '--name', 's1'), { state: 'complete' })

  const restores = async (t: Test, ...more: string[]): Promise<string[]> => {
    const report = await host.json<RestoreReport>('snapshot', 'restore', 's1', ...more)
    t.same(report.warnings, [])
    lab.restartConsoles()
    await host.goesOn()
    for (const address of GUESTS) t.ok(await host.pings('a', address), `host to ${address}`)
    return whole()
  }
  await t.test('over themselves', async (t) => {
    t.same(await restores(t, '--replace'), before)
  })
  await t.test('ended first: their TAPs go with them', async (t) => {
    t.same(await restores(t, '--replace', '--end-first'), before)
  })
  await t.test('a name is another’s by then', async (t) => {
    await lab.killMachines()
    for (const tap of before) if ((await host.onBridge()).includes(tap)) await host.ip('a', 'link', 'delete', tap)
    await host.ip('a', 'tuntap', 'add', 'tap0', 'mode', 'tap')
    await host.ip('a', 'link', 'set', 'tap0', 'up', 'master', 'br0')
    await until('its port', 60_000, async () =>
      (await host.ports()).includes('tap0 plain null') && (await host.ports()).length === 3 ? true : undefined,
    )
    const now = await restores(t)
    t.notOk(now.includes('tap0'))
    t.same(await host.onBridge(), ['ssh-br0', 'tap0', 'to-c', ...now].sort())
  })
})
