// What is wanted of this host now, by source.

import { combine, NOTHING, type Wanted, type WantedPort, type WantedView } from './wanted.js'

export class WantedState implements WantedView {
  #sources: ReadonlyMap<string, Wanted> = new Map()
  #all: Wanted = NOTHING

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

  /** What all sources would want together, were one of them to change its mind. Throws what `combine` throws. */
  supposing(source: string, wanted: Wanted | null): { readonly all: Wanted; readonly accept: () => void } {
    const sources = new Map(this.#sources)
    if (wanted === null) sources.delete(source)
    else sources.set(source, wanted)
    const all = combine(sources)
    const accept = () => {
      this.#sources = sources
      this.#all = all
    }
    return { all, accept }
  }
}
