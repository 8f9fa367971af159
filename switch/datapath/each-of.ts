// Steps that are all taken, whatever fails: what ends a thread closes the second port though the first one threw.

/** Takes each step in turn. Throws what the first one that failed has thrown, when all have been taken. */
export function eachOf(...steps: readonly (() => void)[]): void {
  const thrown: unknown[] = []
  for (const step of steps) {
    try {
      step()
    } catch (error) {
      thrown.push(error)
    }
  }
  if (thrown.length > 0) throw thrown[0]
}
