// What is wanted of this host now, by source; and which ports are otherwise because a change of that is under way, or
// has failed.

import type { PortEntry } from '../ports/table.js'
import {
  byName,
  combine,
  isSameEntry,
  movedPorts,
  NOTHING,
  type PortMoves,
  settledPorts,
  type Unsettled,
  type Wanted,
  type WantedPort,
  type WantedView,
} from './wanted.js'

export class WantedState implements WantedView {
  #sources: ReadonlyMap<string, Wanted> = new Map()
  #all: Wanted = NOTHING
  /** By name. What these have become is no restore's work, and must not be written down as that. */
  #unsettled: ReadonlyMap<string, Unsettled> = new Map()

  get all(): Wanted {
    return this.#all
  }

  /** What one source wants. */
  of(source: string): Wanted {
    return this.#sources.get(source) ?? NOTHING
  }

  networks(): readonly string[] {
    return [...this.#all.networks.keys()]
  }

  ports(): ReadonlyMap<string, WantedPort> {
    return this.#all.ports
  }

  moves(present: readonly PortEntry[]): PortMoves {
    return movedPorts(this.#all.ports, settledPorts(present, this.#unsettled))
  }

  /** Ports of these names are about to be changed. Followed by `accept` of what is wanted then, or by `failed`. */
  changing(names: readonly string[], present: readonly PortEntry[]): void {
    const settled = byName(settledPorts(present, this.#unsettled))
    const changed = names.map((name): [string, Unsettled] => [name, { before: settled.get(name) ?? null }])
    this.#unsettled = new Map([...this.#unsettled, ...changed])
  }

  /** The change was taken back, as far as could be. What could not stays unsettled until a change is done. */
  failed(present: readonly PortEntry[]): void {
    const ports = byName(present)
    this.#unsettled = new Map(
      [...this.#unsettled].flatMap(([name, one]): [string, Unsettled][] => {
        if (one.left !== undefined) return [[name, one]]
        const left = ports.get(name) ?? null
        return isSameEntry(one.before, left) ? [] : [[name, { before: one.before, left }]]
      }),
    )
  }

  /** What all sources would want together, were one of them to change its mind. Throws what `combine` throws. */
  supposing(source: string, wanted: Wanted | null): { readonly all: Wanted; readonly accept: () => void } {
    const sources = new Map(this.#sources)
    if (wanted === null) sources.delete(source)
    else sources.set(source, wanted)
    const all = combine(sources)
    const accept = () => {
      this.#sources = sources
      this.#all = all
      // All ports are as they are wanted.
      this.#unsettled = new Map()
    }
    return { all, accept }
  }
}
