// Names that will not do, or that somebody has mistyped: which of the known ones is meant, and the errors that say so.

import { SnapswitchError } from '../errors/errors.js'
import { Name } from './schemas/basic.js'

const fits = new RegExp(Name.pattern as string)

export function isName(value: unknown): value is string {
  return typeof value === 'string' && fits.test(value)
}

/**
 * Throws NAME_INVALID for whatever could leave its directory, or would not do as a file name. `what`: network,
 * snapshot.
 */
export function checkedName(what: string, name: string): string {
  if (isName(name)) return name
  throw new SnapswitchError('NAME_INVALID', `${JSON.stringify(name)} is no ${what} name`, `Use ${Name.description}.`)
}

/**
 * What to do about a name that is none of the known ones: which is meant, and which there are. `whose`: `Its networks`.
 */
export function choices(whose: string, word: string, known: readonly string[]): string {
  if (known.length === 0) return `${whose}: none.`
  const meant = nearest(word, known)
  const hint = meant === null ? '' : `Did you mean ${meant}? `
  return `${hint}${whose}: ${known.join(', ')}.`
}

/** `whose`: a host or the coordinator. */
export function unknownNetwork(whose: string, network: string, known: readonly string[]): SnapswitchError {
  const message = `${whose} has no network ${network}`
  return new SnapswitchError('NETWORK_UNKNOWN', message, choices('Its networks', network, known))
}

/** Throws NETWORK_UNKNOWN for a network that is none of the known ones. */
export function knownNetwork(whose: string, network: string, known: readonly string[]): string {
  if (known.includes(network)) return network
  throw unknownNetwork(whose, network, known)
}

export function unknownMachine(host: string, vm: string, known: readonly string[]): SnapswitchError {
  return new SnapswitchError('MACHINE_UNKNOWN', `no machine ${vm} on host ${host}`, choices('Its machines', vm, known))
}

/** The known word that a mistyped one is closest to, when it is close enough to be meant. */
export function nearest(word: string, known: readonly string[]): string | null {
  let best: string | null = null
  let bestDistance = Math.max(1, Math.floor(word.length / 3)) + 1
  for (const candidate of known) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase())
    if (distance < bestDistance) {
      best = candidate
      bestDistance = distance
    }
  }
  return best
}

/** Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours each count one. */
function editDistance(a: string, b: string): number {
  let beforePrevious: number[] = []
  let previous = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const substitution = (previous[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1)
      let best = Math.min(substitution, (previous[j] as number) + 1, (row[j - 1] as number) + 1)
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        best = Math.min(best, (beforePrevious[j - 2] as number) + 1)
      }
      row.push(best)
    }
    beforePrevious = previous
    previous = row
  }
  return previous[b.length] as number
}
