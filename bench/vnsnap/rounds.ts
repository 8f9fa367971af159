// Rounds over subjects in turn: what the machine does slowly hits all of them alike.

import type { Part, Row } from './rows.js'

const message = (error: unknown) => (error instanceof Error ? error.message : String(error))

/** Rounds over all subjects in turn, each round beginning with another one. */
export async function inTurn<S extends { readonly id: string; readonly title: string }>(
  part: Part,
  rounds: number,
  subjects: readonly S[],
  measure: (subject: S) => Promise<Record<string, number>>,
  say: (line: string) => void,
): Promise<Row[]> {
  const rows: Row[] = []
  const began = performance.now()
  for (let round = 1; round <= rounds; round++) {
    for (let turn = 0; turn < subjects.length; turn++) {
      const subject = subjects[(turn + round - 1) % subjects.length]!
      let figures: Record<string, number> = {}
      let error: string | null = null
      try {
        figures = await measure(subject)
      } catch (thrown) {
        error = message(thrown)
      }
      rows.push({ part, round, subject: subject.id, figures, error })
      const left = ((performance.now() - began) / rows.length) * (rounds * subjects.length - rows.length)
      const told = error === null ? `${Object.keys(figures).length} figures` : `FAILED: ${error.split('\n')[0]}`
      say(`${part}, round ${round}/${rounds}  ${subject.title.padEnd(24)} ${told}  (${Math.ceil(left / 1e3)} s to go)`)
    }
  }
  return rows
}
