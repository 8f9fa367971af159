// What of a host outlives the daemon beside snapshots (local-store.ts has the places): the epochs that its networks
// have used, and the machines and ports that restores have brought here or taken away.

import { join } from 'node:path'
import { type Static, Type } from '@sinclair/typebox'
import { Epoch, Name, PortKind, PortRules } from '../../src/api/schemas.js'
import { validator } from '../../src/api/validate.js'
import { writeDurable } from '../../src/files/durable.js'
import { readJson } from '../../src/files/json.js'
import { SpecRecord } from '../../src/hypervisor/drivers.js'

const Epochs = Type.Record(Name, Epoch)

/** What restores have changed of the configuration's machines and ports. */
export const Moves = Type.Object({
  machines: Type.Record(Name, SpecRecord),
  ports: Type.Array(
    Type.Object({
      name: Name,
      network: Name,
      device: Type.String(),
      kind: PortKind,
      vm: Type.Union([Name, Type.Null()]),
      ownsDevice: Type.Boolean(),
      rules: Type.Optional(PortRules),
    }),
  ),
  /** Ports of the configuration whose machine now lives elsewhere. */
  gone: Type.Array(Name),
})
export type Moves = Static<typeof Moves>

/** Of machines that are found: names that depend on who came first, by what tells the machines apart. */
const MachineNames = Type.Record(Type.String(), Name)

const fits = { epochs: validator(Epochs), moves: validator(Moves), names: validator(MachineNames) }

export class HostRecords {
  readonly #state: string
  #writes: Promise<void> = Promise.resolve()

  constructor(state: string) {
    this.#state = state
  }

  /** The highest epoch of each network. */
  async readEpochs(): Promise<Map<string, number>> {
    return new Map(Object.entries((await readJson(join(this.#state, 'epochs.json'), fits.epochs)) ?? {}))
  }

  writeEpochs(epochs: ReadonlyMap<string, number>): Promise<void> {
    return this.#inTurn('epochs.json', () => JSON.stringify(Object.fromEntries(epochs)))
  }

  /** The epoch of each network’s last restore. */
  async readFences(): Promise<Map<string, number>> {
    return new Map(Object.entries((await readJson(join(this.#state, 'fences.json'), fits.epochs)) ?? {}))
  }

  writeFences(epochs: ReadonlyMap<string, number>): Promise<void> {
    return this.#inTurn('fences.json', () => JSON.stringify(Object.fromEntries(epochs)))
  }

  async readMoves(): Promise<Moves> {
    return (await readJson(join(this.#state, 'members.json'), fits.moves)) ?? { machines: {}, ports: [], gone: [] }
  }

  async readMachineNames(): Promise<Map<string, string>> {
    return new Map(Object.entries((await readJson(join(this.#state, 'machine-names.json'), fits.names)) ?? {}))
  }

  writeMachineNames(names: ReadonlyMap<string, string>): Promise<void> {
    return this.#inTurn('machine-names.json', () => JSON.stringify(Object.fromEntries(names)))
  }

  /** `moves` is asked for when its turn to be written comes. */
  writeMoves(moves: () => Moves): Promise<void> {
    return this.#inTurn('members.json', () => JSON.stringify(moves(), null, 2))
  }

  /** One write after the other: what was asked for last is what stands in the end. */
  #inTurn(name: string, content: () => string): Promise<void> {
    const written = this.#writes.then(() => writeDurable(join(this.#state, name), content()))
    this.#writes = written.catch(() => undefined)
    return written
  }
}
