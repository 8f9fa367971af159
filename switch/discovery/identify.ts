// Looks at TAPs once: who holds each, what machine that is, how it is called. The edge around classify.ts and names.ts.

import { isDeepStrictEqual } from 'node:util'
import { asSnapswitchError, SnapswitchError } from '../../src/errors/errors.js'
import { isFound, isSameMachine, type Kind } from '../../src/hypervisor/drivers.js'
import type { HolderProcess } from '../../src/hypervisor/holder.js'
import type { Hypervisor, MachineSpec } from '../../src/hypervisor/hypervisor.js'
import { readHolder } from '../../src/hypervisor/shared/holder.js'
import { incarnationOf, isAlive } from '../../src/hypervisor/shared/process.js'
import { findTapHolders } from '../../src/linux/tap-holders.js'
import { best, type Classified, classify, replaced, unseen } from './classify.js'
import type { Discovered, Holder, Identifier, TapDevice } from './discovery.js'
import { asName, type Claim, Names } from './names.js'

export interface IdentifierOptions {
  readonly hypervisors: Readonly<Record<Kind, Pick<Hypervisor, 'locate'>>>
  /** Machines that the configuration names: called so, reached so, and nobody else is called so. */
  readonly configured: () => ReadonlyMap<string, MachineSpec>
  /** The same with those that restores have brought: they keep their names. */
  readonly known: () => ReadonlyMap<string, MachineSpec>
  /** Whether somebody holds the device, as far as the kernel tells. */
  readonly isHeld: (ifindex: number) => boolean
  readonly names?: Names
  /** Names to be remembered for the next daemon have changed. */
  readonly remember?: (contested: ReadonlyMap<string, string>) => void
}

/** A process that holds some of the devices. */
interface Seen {
  readonly process: HolderProcess
  readonly what: Classified
  readonly taps: TapDevice[]
}

/** A machine that can be driven, for as long as its process runs. */
interface Located {
  readonly holder: Holder
  readonly specs: readonly MachineSpec[]
  readonly claim: Claim
}

interface Named {
  readonly name: string
  readonly spec: MachineSpec
}

export class TapIdentifier implements Identifier {
  readonly #options: IdentifierOptions
  readonly #names: Names
  /** By incarnation: also those that hold none of the devices asked for last. */
  readonly #located = new Map<string, Located>()
  #remembered: ReadonlyMap<string, string>
  #turn: Promise<unknown> = Promise.resolve()

  constructor(options: IdentifierOptions) {
    this.#options = options
    this.#names = options.names ?? new Names()
    this.#remembered = this.#names.contested
  }

  /** One look after the other: names are given in between. */
  identify(taps: readonly TapDevice[], deadline: number): Promise<ReadonlyMap<number, Discovered>> {
    const looked = this.#turn.then(() => this.#look(taps, deadline))
    this.#turn = looked.catch(() => undefined)
    return looked
  }

  async #look(taps: readonly TapDevice[], deadline: number): Promise<ReadonlyMap<number, Discovered>> {
    const { holders, hidden, late } = await findTapHolders(new Set(taps.map(({ name }) => name)), deadline)
    const seen = new Map<number, Seen | null>()
    for (const { pid, device } of holders) {
      const tap = taps.find(({ name }) => name === device)!
      const known = seen.get(pid)
      if (known === undefined) seen.set(pid, look(pid, tap))
      else if (known !== null && !known.taps.includes(tap)) known.taps.push(tap)
    }
    const all = [...seen.values()].filter((one) => one !== null)
    const problems = new Map<Seen, SnapswitchError>()
    await this.#locate(all, problems, deadline)
    const names = this.#nameAll(problems, all)
    return new Map(
      taps.map((tap) => {
        const one = best(all.filter(({ taps }) => taps.includes(tap)))
        if (one !== undefined) return [tap.ifindex, this.#found(one, names, problems)] as const
        if (!this.#options.isHeld(tap.ifindex)) return [tap.ifindex, { kind: 'none' }] as const
        const problem = unseen(tap.name, hidden, late)
        return [tap.ifindex, { kind: 'undrivable', title: null, problem, holder: null }] as const
      }),
    )
  }

  /** Asks whoever manages them for those that have not been asked about yet. */
  async #locate(all: readonly Seen[], problems: Map<Seen, SnapswitchError>, deadline: number): Promise<void> {
    for (const [incarnation, { holder }] of this.#located) if (!isAlive(holder)) this.#located.delete(incarnation)
    await Promise.all(
      all.map(async (one) => {
        const { process, what, taps } = one
        if (what.kind !== 'recognized') return
        const { kind, title, identity, problem } = what.machine
        const incarnation = incarnationOf(process)!
        const before = this.#located.get(incarnation)
        // Its socket is busy while a snapshot is taken over it; it can be driven all the same.
        if (before !== undefined) return
        if (problem !== null) {
          problems.set(one, problem)
          return
        }
        try {
          const located = await this.#options.hypervisors[kind].locate?.(process, title ?? '', deadline)
          const specs = located === undefined ? what.machine.specs : [located]
          const tap = taps.map(({ name }) => name).toSorted()[0]!
          const key = identity ?? `${title ?? ''}@${tap}`
          this.#located.set(incarnation, { holder: holderOf(process), specs, claim: { incarnation, key, title, tap } })
        } catch (thrown) {
          problems.set(one, asSnapswitchError(thrown))
        }
      }),
    )
  }

  /** By incarnation; the name and address that a machine goes by. */
  #nameAll(problems: Map<Seen, SnapswitchError>, all: readonly Seen[]): Map<string, Named> {
    const running = [...this.#located.values()].toSorted(byAge)
    const found = new Map<string, Named>()
    const claims: Claim[] = []
    for (const one of running) {
      const heir = running.findLast(({ specs }) => isSameMachine(specs[0]!, one.specs[0]!))
      if (heir !== undefined && heir !== one) {
        const seen = all.find(({ process }) => incarnationOf(process) === one.claim.incarnation)
        if (seen !== undefined) problems.set(seen, replaced(one.claim.title, one.holder.pid, heir.holder.pid))
        continue
      }
      const given = this.#given(one)
      if (given === null) claims.push(one.claim)
      else found.set(one.claim.incarnation, given)
    }
    const reserved = new Set([...this.#options.configured().keys(), ...[...found.values()].map(({ name }) => name)])
    for (const [incarnation, name] of this.#names.assign(claims, reserved))
      found.set(incarnation, { name, spec: this.#located.get(incarnation)!.specs[0]! })
    this.#remember()
    return found
  }

  #remember(): void {
    const { contested } = this.#names
    if (isDeepStrictEqual(contested, this.#remembered)) return
    this.#remembered = contested
    this.#options.remember?.(contested)
  }

  /** As the configuration or a restore has named it. */
  #given({ specs, claim }: Located): Named | null {
    const known = this.#options.known()
    for (const [name, spec] of known) if (specs.some((own) => isSameMachine(own, spec))) return { name, spec }
    return this.#byTitle(claim.title, false)
  }

  /**
   * What the configuration names and nothing here finds an address of: it goes by the name alone. `isLost`: whoever has
   * the name cannot be driven by what its process tells.
   */
  #byTitle(title: string | null, isLost: boolean): Named | null {
    const name = title === null ? null : asName(title)
    const spec = name === null ? undefined : this.#options.configured().get(name)
    if (name === null || spec === undefined) return null
    const isElsewhere = [...this.#located.values()].some(({ specs }) => specs.some((own) => isSameMachine(own, spec)))
    return !isFound(spec) || (isLost && !isElsewhere) ? { name, spec } : null
  }

  #found(one: Seen, names: ReadonlyMap<string, Named>, problems: ReadonlyMap<Seen, SnapswitchError>): Discovered {
    const { process, what } = one
    const holder = holderOf(process)
    if (what.kind === 'pending') return { kind: 'pending', holder }
    const title = what.kind === 'recognized' ? what.machine.title : what.title
    const problem = what.kind === 'foreign' ? what.problem : problems.get(one)
    const named = problem === undefined ? names.get(incarnationOf(process)!) : this.#byTitle(title, true)
    if (named !== null && named !== undefined) return { kind: 'machine', ...named, holder }
    return { kind: 'undrivable', title, problem: problem ?? ended(process.pid), holder }
  }
}

/** The longest running first. */
const byAge = (a: Located, b: Located) =>
  Number(a.holder.startTicks) - Number(b.holder.startTicks) || a.holder.pid - b.holder.pid

const ended = (pid: number) =>
  new SnapswitchError('MACHINE_NOT_RUNNING', `process ${pid} has just ended`, 'It is looked at again.')

const holderOf = ({ pid, startTicks, program }: HolderProcess): Holder => ({ pid, startTicks, program })

function look(pid: number, tap: TapDevice): Seen | null {
  try {
    const found = readHolder(pid)
    return found === null ? null : { process: found, what: classify(found, process.pid), taps: [tap] }
  } catch {
    // It may not be looked into, or ended in between: then its device tells.
    return null
  }
}
