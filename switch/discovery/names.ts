// Names for machines that are found: made from what they call themselves, fit for `Name`, and no two alike. Who has a
// name keeps it: as long as it runs, and, where two wanted the same one, after it was started again. Pure.

import { isName } from '../../src/api/names.js'

/** A machine that wants a name. */
export interface Claim {
  /** This run of it. */
  readonly incarnation: string
  /** What tells it from others, also when it is started again. */
  readonly key: string
  /** What it calls itself; null: nothing. */
  readonly title: string | null
  /** One of its TAPs: names that would be alike differ by it. */
  readonly tap: string
}

const LIMIT = 63
/** Machines that are remembered after they have ended. */
const REMEMBERED = 1024

/** As much of a title as a name may have; null when nothing is left. */
export function asName(title: string): string | null {
  const name = title
    .normalize('NFKD')
    .replace(/[^A-Za-z0-9_.-]+/g, '-')
    .replace(/^[^A-Za-z0-9]+/, '')
    .slice(0, LIMIT)
    .replace(/-+$/, '')
  return isName(name) ? name : null
}

function withEnd(name: string, end: string): string {
  return `${name.slice(0, LIMIT - end.length - 1)}-${end}`
}

export class Names {
  /** By key; also of machines that have ended. */
  readonly #byKey: Map<string, string>
  readonly #byIncarnation = new Map<string, { readonly name: string; readonly key: string }>()
  /** Keys whose names are not what their titles alone make of them, or are wanted by others, too. */
  readonly #contested: Set<string>

  /** `remembered`: what `contested` gave in a former life. */
  constructor(remembered: ReadonlyMap<string, string> = new Map()) {
    this.#byKey = new Map(remembered)
    this.#contested = new Set(remembered.keys())
  }

  /**
   * Names for the machines that run now, by incarnation. `claims`: all of them, in an order that is the same when they
   * are found anew (the longest running first). `reserved`: names that others have.
   */
  assign(claims: readonly Claim[], reserved: ReadonlySet<string>): ReadonlyMap<string, string> {
    const running = new Set(claims.map(({ incarnation }) => incarnation))
    for (const incarnation of this.#byIncarnation.keys())
      if (!running.has(incarnation)) this.#byIncarnation.delete(incarnation)
    const owner = new Map([...this.#byIncarnation.values()].map(({ name, key }) => [name, key]))
    const isFree = (name: string) => !reserved.has(name) && !owner.has(name)
    const take = (claim: Claim, name: string) => {
      owner.set(name, claim.key)
      this.#byIncarnation.set(claim.incarnation, { name, key: claim.key })
      this.#byKey.delete(claim.key)
      this.#byKey.set(claim.key, name)
    }
    const waiting = claims.filter(({ incarnation }) => !this.#byIncarnation.has(incarnation))
    // Who had a name gets it before others that want it.
    const anew = waiting.filter((claim) => {
      const name = this.#byKey.get(claim.key)
      if (name === undefined || !isFree(name)) return true
      take(claim, name)
      return false
    })
    const contested = new Set(this.#contested)
    const kept = new Set([...this.#byKey].flatMap(([key, name]) => (contested.has(key) ? [name] : [])))
    for (const claim of anew) {
      const own = asName(claim.title ?? '') ?? withEnd('vm', asName(claim.tap) ?? '0')
      const isOwnFree = isFree(own) && !kept.has(own)
      take(claim, isOwnFree ? own : freeName(own, claim.tap, (name) => isFree(name) && !kept.has(name)))
      if (isOwnFree) continue
      this.#contested.add(claim.key)
      const other = owner.get(own)
      if (other !== undefined) this.#contested.add(other)
    }
    this.#forget()
    return new Map([...this.#byIncarnation].map(([incarnation, { name }]) => [incarnation, name]))
  }

  /** Names that depend on who came first: to be remembered when the daemon starts again. */
  get contested(): ReadonlyMap<string, string> {
    return new Map([...this.#byKey].filter(([key]) => this.#contested.has(key)))
  }

  #forget(): void {
    const running = new Set([...this.#byIncarnation.values()].map(({ key }) => key))
    for (const key of this.#byKey.keys()) {
      if (this.#byKey.size <= REMEMBERED) return
      if (running.has(key)) continue
      this.#byKey.delete(key)
      this.#contested.delete(key)
    }
  }
}

function freeName(own: string, tap: string, isFree: (name: string) => boolean): string {
  const byTap = withEnd(own, asName(tap) ?? 'tap')
  if (isFree(byTap)) return byTap
  for (let nth = 2; ; nth++) {
    const name = withEnd(own, String(nth))
    if (isFree(name)) return name
  }
}
