// A state that is written down and taken up again later: each class describes its own once, in an `exchange` method,
// and that description is used both ways, so that the two cannot differ. What is written is plain data.

import { SnapswitchError } from '../errors/errors.js'

export type Plain = number | string | boolean | null | undefined | Uint8Array | readonly Plain[] | PlainFields
export interface PlainFields {
  readonly [name: string]: Plain
}

export class StateExchange {
  /** Fields are set from what was written; else they are written. */
  readonly isLoading: boolean
  readonly #fields: Record<string, unknown>

  private constructor(fields: Record<string, unknown>, isLoading: boolean) {
    this.#fields = fields
    this.isLoading = isLoading
  }

  static saving(): StateExchange {
    return new StateExchange({}, false)
  }

  /** From what `fields` gave when it was saved. */
  static loading(fields: unknown): StateExchange {
    if (!isFields(fields)) throw damaged('a part of it is missing')
    return new StateExchange(fields, true)
  }

  /** All that was written. */
  get fields(): PlainFields {
    return this.#fields as PlainFields
  }

  /** The field's value from now on: as it was written, or `now`. Throws TRACE_INVALID when another kind was written. */
  value<T>(name: string, now: T): T {
    if (!this.isLoading) {
      this.#fields[name] = now
      return now
    }
    // A recording of before there was such a field: as it is in the beginning.
    if (!(name in this.#fields)) return now
    const found = this.#fields[name]
    const isOptional = found === null || now === null || found === undefined || now === undefined
    if (!isOptional && (typeof found !== typeof now || Array.isArray(found) !== Array.isArray(now)))
      throw damaged(`${name} is no ${typeof now}`)
    return found as T
  }

  /** A part with fields of its own. */
  part(name: string, exchange: (part: StateExchange) => void): void {
    const part = this.isLoading ? StateExchange.loading(this.#fields[name]) : StateExchange.saving()
    exchange(part)
    if (!this.isLoading) this.#fields[name] = part.fields
  }

  map<K, V>(name: string, map: Map<K, V>): void {
    const found = this.value<readonly (readonly [K, V])[]>(name, [...map])
    if (!this.isLoading) return
    map.clear()
    for (const [key, value] of found) map.set(key, value)
  }

  /** Several parts. `items`: those that are there, when it is written; `take` is given each, when it is read. */
  parts<T>(
    name: string,
    items: Iterable<T>,
    write: (item: T, part: StateExchange) => void,
    take: (part: StateExchange) => void,
  ): void {
    if (this.isLoading) {
      for (const fields of this.value<readonly unknown[]>(name, [])) take(StateExchange.loading(fields))
      return
    }
    this.#fields[name] = [...items].map((item) => {
      const part = StateExchange.saving()
      write(item, part)
      return part.fields
    })
  }
}

function isFields(found: unknown): found is Record<string, unknown> {
  return typeof found === 'object' && found !== null && !Array.isArray(found)
}

function damaged(what: string): SnapswitchError {
  return new SnapswitchError(
    'TRACE_INVALID',
    `the state in the recording cannot be read: ${what}`,
    'Take it from where it was made once more.',
  )
}
