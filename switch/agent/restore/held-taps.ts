// TAPs that a restored machine needs, and that somebody holds. Its former self may: that has ended before the new one
// takes their names. The guest of anybody else would go on without a network, and its owner would hear nothing of it.

import type { MemberPart } from '../../../src/api/schemas.js'
import { SnapswitchError } from '../../../src/errors/errors.js'
import type { MachineDefinition, MachineInfo } from '../../../src/hypervisor/hypervisor.js'
import { type Clock, sleep } from '../../../src/runtime/clock.js'
import type { Ports } from '../../ports/ports.js'
import type { Inspected } from '../inspection.js'
import { allNics } from '../machines.js'

interface HeldHost {
  readonly clock: Clock
  readonly ports: Pick<Ports, 'ofMachine' | 'isTapHeld'>
}

/** A process that is ending lets go of its TAPs within this time. */
const ENDING_MS = 2000
const STEP_MS = 50

/** TAPs of a machine that runs: those that it names, and those of its ports. `info` is null when it gave no answer. */
export function tapsOf(
  { ports }: Pick<HeldHost, 'ports'>,
  vm: string,
  info: Pick<MachineInfo, 'nics' | 'bridgedNics'> | null,
): ReadonlySet<string> {
  const named = info === null ? [] : allNics(info)
  return new Set([...named, ...ports.ofMachine(vm)].map(({ device }) => device))
}

/**
 * What machines cannot have, since a program that is not their former self holds it. `running`: former selves that were
 * asked; TAPs of one that gave no answer are left out, for that is told already. `told`: devices whose ports are told
 * to be another machine's.
 */
export async function heldByOthers(
  host: HeldHost,
  members: readonly MemberPart[],
  running: readonly Inspected[],
  told: ReadonlySet<string>,
): Promise<SnapswitchError[]> {
  const limit = host.clock.now().ms + ENDING_MS
  for (;;) {
    const held = members.flatMap((part) => {
      const former = running.find(({ vm }) => vm === part.vm)
      if (former?.info === null) return []
      const own = former === undefined ? new Set<string>() : tapsOf(host, part.vm, former.info)
      return [...neededBy(part)]
        .filter((device) => !own.has(device) && !told.has(device) && host.ports.isTapHeld(device))
        .map((device) => tapHeld(part.vm, device))
    })
    if (held.length === 0 || host.clock.now().ms >= limit) return held
    await sleep(host.clock, STEP_MS)
  }
}

function neededBy({ definition, ports }: MemberPart): Set<string> {
  return new Set([...(definition as MachineDefinition).nics, ...ports].map(({ device }) => device))
}

export const tapHeld = (vm: string, device: string) =>
  new SnapswitchError(
    'DEVICE_BUSY',
    `TAP ${device} of ${vm} is held by a program that is not ${vm} as this host knows it`,
    'End that program, or say under `machines:` how the machine is reached that runs.',
  )
