// The demo's story with the hosts on a shared LAN instead of joined by a trunk, and an outside host on it that talks to
// a machine all the while: the same checks hold, and the outside host loses nothing and is given nothing that is not
// for it.

import { spawn } from 'node:child_process'
import t, { type Test } from 'tap'
import { bitsOf, ringResult } from '../../guest/expected.js'
import type { Manifest, RestoreReport } from '../../src/api/schemas.js'
import { attempt, until } from '../lab/command.js'
import { Lab, type LabPlan } from '../lab/lab.js'
import { fileLimit, slowness } from '../patience.js'
import { type Check, checkOutcome, checkSnapshot } from './checks.js'

t.setTimeout(fileLimit(240_000))

/** What is done meanwhile takes longer on a busy machine; the pauses between hops do not. */
const HOPS = Math.round(800 * slowness)
const NETWORK = 'lab0'
const addresses = ['10.78.0.1', '10.78.0.2']
const ring = { ring: addresses, hops: HOPS, hopDelayUs: 3000, journalEvery: 10 }
const streams = { 1: 'UDP from a to b', 2: 'UDP from b to a' }

const plan: LabPlan = {
  network: NETWORK,
  hosts: ['a', 'b'],
  memoryMiB: 128,
  lan: { outsideAddress: '10.78.0.9/24' },
  machines: [
    {
      name: 'one',
      host: 'a',
      job: { ...ring, ip: `${addresses[0]}/24`, node: 0, send: [`1@${addresses[1]}:5001/80`], receive: ['2@5002'] },
    },
    {
      name: 'two',
      host: 'b',
      job: { ...ring, ip: `${addresses[1]}/24`, node: 1, send: [`2@${addresses[0]}:5002/80`], receive: ['1@5001'] },
    },
  ],
}

async function hops(lab: Lab, target: number): Promise<void> {
  await until(`${target} hops`, 120_000, () => {
    const hop = Math.max(...[...lab.machines.values()].map(({ console }) => console.state?.ring?.hop ?? 0))
    return hop >= target ? true : undefined
  })
}

async function outcome(lab: Lab) {
  const machines = [...lab.machines.values()]
  return Promise.all(
    machines.map(async ({ plan, console }) => ({
      name: plan.name,
      done: await console.done(120_000),
      errors: console.errors,
    })),
  )
}

function assertAll(t: Test, checks: readonly Check[]): void {
  for (const { kind, phase, what, ok, seen } of checks) {
    if (kind === 'must') t.ok(ok, `${phase}: ${what} (${seen})`)
    else t.comment(`${what}: ${seen}`)
  }
}

const options = { skip: process.getuid?.() === 0 ? false : 'needs root' }

t.test('hosts on a LAN: snapshot under load, all killed, restored with the hosts swapped', options, async (t) => {
  const lab = await Lab.build(plan)
  t.teardown(() => lab.destroy())
  const outside = (...command: string[]) => ['netns', 'exec', lab.namespace('out'), ...command]
  const watch = spawn('ip', outside('tcpdump', '-l', '-nn', '-e', '-v', '-i', 'eth0'), { stdio: 'pipe' })
  t.teardown(() => watch.kill('SIGKILL'))
  let seen = ''
  watch.stdout.on('data', (text: Buffer) => {
    seen += text.toString()
  })
  await Promise.all(plan.hosts.map((host) => lab.startSwitch(host)))
  await lab.startCoordinator()
  await lab.startMachines()
  const expected = bitsOf(ringResult(2, HOPS))

  await hops(lab, HOPS * 0.3)
  const pings = attempt('ip', outside('ping', '-n', '-q', '-i', '0.01', '-c', '300', '-W', '5', addresses[0]), 60_000)
  const manifest = await lab.snapswitchJson<Manifest>(['snapshot', 'create', NETWORK, '--name', 's', '--record'])
  assertAll(t, checkSnapshot(manifest, ['one', 'two']))
  const closures = manifest.parts.flatMap((part) => part.closures)
  t.match(closures, [
    { host: 'b', lost: 0, byCount: true },
    { host: 'a', lost: 0, byCount: true },
  ])
  t.match((await pings).stdout, /300 received, 0% packet loss/, 'the outside host loses nothing')
  assertAll(t, checkOutcome('first run', await outcome(lab), expected, streams))
  const audit = await lab.snapswitchJson<{ verdict: string }>(['snapshot', 'audit', 's'])
  t.equal(audit.verdict, 'consistent', 'the audit')

  await lab.killMachines()
  lab.restartConsoles({ one: 'b', two: 'a' })
  const places = ['--place', 'one=b', '--place', 'two=a']
  const report = await lab.snapswitchJson<RestoreReport>(['snapshot', 'restore', 's', ...places])
  t.equal(report.channelFrames, manifest.figures?.recorded)
  assertAll(t, checkOutcome('restored run', await outcome(lab), expected, streams))
  const after = await attempt('ip', outside('ping', '-n', '-q', '-i', '0.05', '-c', '20', addresses[0]))
  t.match(after.stdout, / 0% packet loss/, 'the outside host finds the machine where it is now')

  watch.kill('SIGINT')
  await new Promise((resolve) => watch.once('close', resolve))
  const between = seen.split('\n').filter((line) => /10\.78\.0\.[12]\.?\d* > 10\.78\.0\.[12]/.test(line))
  t.ok(seen.includes('ICMP echo reply'), 'it watched')
  t.same(between, [], 'and saw nothing of what machines sent one another')
  t.notMatch(seen, /0x88a8|tos 0x4,/)
})
