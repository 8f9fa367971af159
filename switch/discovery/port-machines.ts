// The ports' own TAPs are watched, so that it can be told which machines are behind ports that have none by the
// configuration.

import type { PortHolder, UndrivenPort } from '../../src/api/schemas.js'
import type { Link } from '../../src/linux/link-message.js'
import type { MachineWatch } from './discovery.js'

interface PortsWithTaps {
  all(): readonly { readonly name: string; readonly network: string; readonly vm: string | null }[]
  get(name: string): { readonly ifindex: number } | undefined
  taps(): ReadonlyMap<string, Pick<Link, 'name' | 'index'>>
}

export class PortMachines {
  readonly #watch: MachineWatch
  readonly #ports: PortsWithTaps
  /** Those that are watched for a port's sake. */
  #own = new Set<number>()

  constructor(watch: MachineWatch, ports: PortsWithTaps) {
    this.#watch = watch
    this.#ports = ports
  }

  /** Call when ports or devices have changed. `isTold`: the configuration says which machine's port it is. */
  follow(isTold: (port: string) => boolean): void {
    const now = new Set<number>()
    for (const [port, { name, index }] of this.#ports.taps()) {
      if (isTold(port)) continue
      this.#watch.watch({ name, ifindex: index })
      now.add(index)
    }
    for (const ifindex of this.#own) if (!now.has(ifindex)) this.#watch.unwatch(ifindex)
    this.#own = now
  }

  /** Ports of a network whose machines cannot be driven. */
  undriven(network: string): UndrivenPort[] {
    return this.#ports.all().flatMap(({ name: port, network: own, vm }) => {
      const holder = own === network && vm === null ? this.of(port) : null
      if (holder?.kind !== 'undrivable' || holder.problem === null) return []
      return [{ port, name: holder.name, problem: holder.problem }]
    })
  }

  of(port: string): PortHolder | null {
    const found = this.#watch.of(this.#ports.get(port)?.ifindex ?? 0)
    switch (found.kind) {
      case 'none':
        return null
      case 'machine':
        return { kind: 'machine', name: found.name, problem: null }
      case 'undrivable':
        return { kind: 'undrivable', name: found.title, problem: found.problem.report() }
      case 'pending':
        return { kind: 'pending', name: found.holder.program, problem: null }
    }
  }
}
