// What is known of bridges that were taken over, for the daemon that comes after this one and for `give` without a
// daemon: a file a bridge, durable before anything is changed, and gone when nothing is left to undo.

import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { type Static, Type } from '@sinclair/typebox'
import { Name } from '../../src/api/schemas.js'
import { validator } from '../../src/api/validate.js'
import { syncFile, writeDurable } from '../../src/files/durable.js'
import { readJson } from '../../src/files/json.js'

export const BridgeRecord = Type.Object({
  version: Type.Literal(1),
  bridge: Type.String(),
  /** Of the bridge; it means something during the boot that is named only. */
  index: Type.Integer(),
  boot: Type.String(),
  network: Name,
  /** The veth pair: the end in the bridge, and the one that is a port of the switch. */
  hostEnd: Type.String(),
  switchEnd: Type.String(),
  /** The port that leads to peers. */
  uplink: Type.Union([Type.String(), Type.Null()]),
  ignoreFilters: Type.Boolean(),
  /** By the configuration: it is taken anew after the host has started again. */
  configured: Type.Boolean(),
  /**
   * `taking`: not in force yet, so called off by a crash. `taken`: in force; a daemon that starts takes the bridge
   * again when the one before was killed. `resting`: given back while no daemon runs. `retaking`: a daemon that has
   * started is at it; the next one takes it again when this one is killed. `giving`: never again.
   */
  phase: Type.Union([
    Type.Literal('taking'),
    Type.Literal('taken'),
    Type.Literal('resting'),
    Type.Literal('retaking'),
    Type.Literal('giving'),
  ]),
})
export type BridgeRecord = Static<typeof BridgeRecord>

const fits = validator(BridgeRecord)

export const directoryOfRecords = (state: string): string => join(state, 'bridges')

export class BridgeRecords {
  readonly #directory: string

  constructor(state: string) {
    this.#directory = directoryOfRecords(state)
  }

  async all(): Promise<BridgeRecord[]> {
    const names = await readdir(this.#directory).catch(() => [])
    const found = await Promise.all(
      names.filter((name) => name.endsWith('.json')).map((name) => readJson(join(this.#directory, name), fits)),
    )
    return found.flatMap((record) => record ?? [])
  }

  write(record: BridgeRecord): Promise<void> {
    return writeDurable(this.#file(record.bridge), `${JSON.stringify(record, null, 2)}\n`)
  }

  async remove(bridge: string): Promise<void> {
    await rm(this.#file(bridge), { force: true })
    await syncFile(this.#directory).catch(() => undefined)
  }

  /** A device's name has no slash; `.` and `..` are none. */
  #file(bridge: string): string {
    return join(this.#directory, `${bridge}.json`)
  }
}
