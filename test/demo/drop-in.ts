// The switch in the place of a bridge, from one command: a host with two guests and a container on br0, the bridge
// taken over and given back while they talk, a snapshot, and a restore onto the bridge.

import type { Manifest, RestoreReport } from '../../src/api/schemas.js'
import { BridgeLab, CONTAINER, HOST } from '../takeover/bridge-lab.js'
import { Stream } from '../takeover/bridge-world.js'
import { type Check, checkSnapshot } from './checks.js'
import type { Progress } from './progress.js'
import { tell } from './story.js'

const ROUNDS = 3
const REACH_GAP_MS = 50
const MACHINES = ['vm1', 'vm2']

const must = (phase: string, what: string, ok: boolean, seen: string): Check => ({
  phase,
  kind: 'must',
  what,
  ok,
  seen,
})

async function demonstrate(host: BridgeLab, progress: Progress): Promise<Check[]> {
  progress.step('Booting two guests on br0; the kernel’s bridge forwards')
  await host.lab.startMachines()
  await host.goesOn()
  const found = await seen(host)
  progress.step('snapswitch switch   (one daemon, nothing configured)')
  await host.startSwitch()
  const taking = await takeAndGive(host, progress)
  progress.step('snapswitch snapshot create br0')
  const manifest = await host.json<Manifest>('snapshot', 'create', 'br0', '--name', 'demo')
  const restore = await restored(host, progress)
  progress.step('snapswitch give br0')
  const given = await host.command('give', 'br0')
  await host.goesOn()
  const after = await seen(host)
  const same = JSON.stringify(after) === JSON.stringify(found)
  return [
    ...taking,
    ...checkSnapshot(manifest, MACHINES),
    ...restore,
    must('give', 'given back, and the guests go on', given.code === 0, given.stdout.trim() || given.stderr.trim()),
    must('give', 'the bridge is as it was found', same, `${after.mac}, ${after.devices.join(' ')}`),
  ]
}

/** What a person sees of the bridge. */
async function seen(host: BridgeLab) {
  const [bridge] = JSON.parse(await host.ip('a', '-j', 'link', 'show', 'br0')) as { address: string; mtu: number }[]
  return { mac: bridge!.address, mtu: bridge!.mtu, devices: await host.onBridge() }
}

async function takeAndGive(host: BridgeLab, progress: Progress): Promise<Check[]> {
  const streams = [await Stream.start(host, 'a', 'c', CONTAINER, 5001), await Stream.start(host, 'c', 'a', HOST, 5002)]
  const failed: string[] = []
  for (let round = 1; round <= ROUNDS; round++) {
    progress.step(`snapswitch take br0, snapswitch give br0   (${round} of ${ROUNDS})`)
    for (const command of ['take', 'give']) {
      const { code, stderr } = await host.command(command, 'br0')
      if (code !== 0) failed.push(stderr.trim())
    }
  }
  progress.step('snapswitch take br0')
  const { code, stderr } = await host.command('take', 'br0')
  if (code !== 0) failed.push(stderr.trim())
  await host.isWhole()
  await host.goesOn()
  const ports = await host.ports()
  for (const port of ports) progress.note(port.replace(/ null$/, ''))
  const ended = await Promise.all(streams.map(async (stream) => ({ name: stream.name, ...(await stream.end()) })))
  const names: Record<string, string> = { 'a to c': 'host to container', 'c to a': 'container to host' }
  return [
    must('take', `taken ${ROUNDS + 1} times, given ${ROUNDS} times`, failed.length === 0, failed.join('; ') || 'all'),
    must(
      'take',
      'machines found by their TAPs',
      MACHINES.every((vm) => ports.includes(`${vm}-tap member ${vm}`)),
      ports.join(', '),
    ),
    ...ended.flatMap(({ name, sent, lost, doubled, longestGap }): Check[] => [
      must(
        'take',
        `${names[name]}: nothing lost or doubled`,
        lost + doubled === 0,
        `${sent} sent, ${lost} lost, ${doubled} doubled`,
      ),
      {
        ...must(
          'take',
          `${names[name]}: no gap of ${REACH_GAP_MS} ms`,
          longestGap < REACH_GAP_MS,
          `${longestGap.toFixed(1)} ms`,
        ),
        kind: 'reach',
      },
    ]),
  ]
}

async function restored(host: BridgeLab, progress: Progress): Promise<Check[]> {
  await host.goesOn()
  progress.step('snapswitch snapshot restore demo --replace')
  const report = await host.json<RestoreReport>('snapshot', 'restore', 'demo', '--replace')
  host.lab.restartConsoles()
  const devices = await host.onBridge()
  await host.goesOn()
  await host.isWhole()
  const errors = [...host.lab.machines.values()].flatMap(({ console }) => console.errors.map(({ what }) => what))
  const reached = await host.pings('c', '10.79.0.1')
  progress.note(`running again after ${(report.restoreMs / 1000).toFixed(1)} s`)
  return [
    must(
      'restore',
      'the guests’ TAPs are on br0 again',
      MACHINES.every((vm) => devices.includes(`${vm}-tap`)),
      devices.join(' '),
    ),
    must('restore', 'the ring goes on, no guest reported an error', errors.length === 0, errors.join('; ') || 'none'),
    must('restore', 'the container reaches a guest', reached, reached ? 'it does' : 'no answer'),
  ]
}

tell({
  building: 'Building a host (network namespace) with br0, a container on it, and TAPs for two guests',
  build: () => BridgeLab.build(),
  demonstrate,
  lastWords: (host, lines) => host.lab.lastWords(lines),
  destroy: (host) => host.destroy(),
})
