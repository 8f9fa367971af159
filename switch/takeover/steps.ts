// The steps of taking a bridge over, as a table. `take` does them from the first to the last; what fails, and `give`,
// undo those that were done from the last to the first. An undoing is harmless where there is nothing to undo. After a
// crash at any point the kernel's bridge forwards as it did (bypass.ts); what is left then is undone by leftovers.ts.

export const takeoverSteps = [
  /** Durable, before anything is changed. */
  'record',
  /** The veth pair: one end in the bridge, which gets only what the host sends to all. */
  'pair',
  /** The network, with the pair's other end as its only port. */
  'network',
  /** Rules that do nothing yet. */
  'bypass',
  /** All ports, at one instant. */
  'ports',
  /** From now on a daemon that starts takes the bridge again. */
  'confirm',
] as const
export type TakeoverStep = (typeof takeoverSteps)[number]

export type Performers = Readonly<Record<TakeoverStep, { do(): void | Promise<void>; undo(): void | Promise<void> }>>

/** Throws what a step throws, when those before it are undone. `failed` is told what could not be undone. */
export async function takeAll(
  performers: Performers,
  failed: (step: TakeoverStep, error: unknown) => void,
): Promise<void> {
  for (const [at, step] of takeoverSteps.entries()) {
    try {
      await performers[step].do()
    } catch (thrown) {
      // A step that has failed half way is undone as well.
      await undoFrom(at, performers, failed)
      throw thrown
    }
  }
}

export function giveAll(performers: Performers, failed: (step: TakeoverStep, error: unknown) => void): Promise<void> {
  return undoFrom(takeoverSteps.length - 1, performers, failed)
}

async function undoFrom(
  last: number,
  performers: Performers,
  failed: (step: TakeoverStep, error: unknown) => void,
): Promise<void> {
  for (let at = last; at >= 0; at--) {
    const step = takeoverSteps[at]!
    try {
      await performers[step].undo()
    } catch (thrown) {
      // The rest can be undone all the same, and must be.
      failed(step, thrown)
    }
  }
}
