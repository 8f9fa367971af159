// The steps that the demo is made of: each says what it does and waits with a deadline.

import type { AuditReport, Manifest, RestoreReport } from '../../src/api/schemas.js'
import { attempt, sleep } from '../lab/command.js'
import { guestImage } from '../lab/image.js'
import type { Lab } from '../lab/lab.js'
import { patience } from '../patience.js'
import type { MachineOutcome } from './checks.js'
import { hops, network, plan, snapshotName, swapped } from './plan.js'
import type { Progress } from './progress.js'

const jobTimeoutMs = 180_000

export async function startLab(lab: Lab, progress: Progress): Promise<void> {
  progress.step('Starting a switch on each host, and the coordinator')
  await Promise.all(plan.hosts.map((host) => lab.startSwitch(host)))
  await lab.startCoordinator()
  const { accelerator } = await guestImage()
  const how = accelerator === 'kvm' ? 'KVM' : 'emulated in software: KVM cannot run them here'
  progress.step(`Booting three machines (${how}): ring1 and ring2 on host a, ring3 on host b`)
  await lab.startMachines()
}

/** The last token that each machine has reported. */
export function hopsNow(lab: Lab): Map<string, number> {
  return new Map([...lab.machines].map(([name, machine]) => [name, machine.console.state?.ring?.hop ?? 0]))
}

/** Waits until the ring has come to `target`, and draws how far it is. */
export async function waitForHops(lab: Lab, progress: Progress, target: number): Promise<void> {
  const began = performance.now()
  for (;;) {
    const hop = Math.max(...hopsNow(lab).values())
    progress.bar(Math.min(hop, hops) / hops, `${Math.min(hop, hops)} of ${hops} hops`)
    if (hop >= target) return progress.endBar()
    for (const [name, machine] of lab.machines) {
      const ring = machine.console.state?.ring
      if (ring?.failed)
        throw new Error(`the ring broke on ${name}: ${machine.console.errors.map((e) => e.what).join()}`)
    }
    const limitMs = patience(jobTimeoutMs)
    if (performance.now() > began + limitMs)
      throw new Error(`the ring came to ${hop} of ${hops} hops only, in ${limitMs / 1000} s`)
    await sleep(100)
  }
}

/** Waits for the end of every machine's job: the ring done, both ends of each stream agreed on its total. */
export async function finish(lab: Lab, progress: Progress): Promise<MachineOutcome[]> {
  await waitForHops(lab, progress, hops)
  const machines = [...lab.machines.values()]
  return Promise.all(
    machines.map(async ({ plan, console }) => {
      const done = await console.done(30_000)
      return { name: plan.name, done, errors: console.errors }
    }),
  )
}

export async function createSnapshot(lab: Lab, progress: Progress): Promise<{ manifest: Manifest; commandMs: number }> {
  progress.step(`snapswitch snapshot create ${network} --name ${snapshotName} --record`)
  const began = performance.now()
  const manifest = await lab.snapswitchJson<Manifest>([
    'snapshot',
    'create',
    network,
    '--name',
    snapshotName,
    '--record',
  ])
  const commandMs = performance.now() - began
  progress.note(`${manifest.state} after ${(commandMs / 1000).toFixed(1)} s, while the ring ran on`)
  return { manifest, commandMs }
}

/** Every frame around the cut, checked against the protocol. */
export async function auditSnapshot(lab: Lab, progress: Progress): Promise<AuditReport> {
  progress.step(`snapswitch snapshot audit ${snapshotName}`)
  const [command, ...args] = lab.commandLine(['snapshot', 'audit', snapshotName, '-j'])
  const { stdout, stderr } = await attempt(command!, args, 120_000)
  if (stdout === '') throw new Error(`the audit failed: ${stderr}`)
  return JSON.parse(stdout)
}

export async function restoreSnapshot(
  lab: Lab,
  progress: Progress,
): Promise<{ report: RestoreReport; commandMs: number }> {
  const places = Object.entries(swapped).flatMap(([name, host]) => ['--place', `${name}=${host}`])
  progress.step(`snapswitch snapshot restore ${snapshotName} ${places.join(' ')}`)
  const began = performance.now()
  const report = await lab.snapswitchJson<RestoreReport>(['snapshot', 'restore', snapshotName, ...places])
  const commandMs = performance.now() - began
  progress.note(`running again after ${(commandMs / 1000).toFixed(1)} s`)
  return { report, commandMs }
}

/** What a person can do with a lab that was kept. */
export function lookAround(lab: Lab): string {
  const [first] = plan.machines
  const { console, shell } = lab.machine(first!.name).outside
  const command = (args: string[], host?: string) => lab.commandLine(args, host).join(' ')
  return `
The lab is up (in ${lab.directory}; hosts/a is what host a has at ${lab.host('a').common}). To look around, as root:
  ${command(['snapshot', 'list'])}
  ${command(['snapshot', 'show', snapshotName])}
  ${command(['status'], 'a')}
  ${command(['port', 'list'], 'a')}
  tail -f ${console}    # what ${first!.name} reports
  socat - UNIX-CONNECT:${shell}    # a shell in ${first!.name} (needs socat; Ctrl-C leaves it)
  ${lab.host('a').enter.join(' ')} ls ${lab.host('a').common}    # a command on host a
  ip netns exec ${lab.namespace('a')} tcpdump -eni to-b    # the trunk, colored
To take it down:
  scripts/demo --down`
}
