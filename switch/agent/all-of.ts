// Works that go on side by side, where none may be left behind when another has failed.

/** Waits for all, then throws the first failure. */
export async function allOf(works: readonly Promise<unknown>[]): Promise<void> {
  const failed = (await Promise.allSettled(works)).find((result) => result.status === 'rejected')
  if (failed !== undefined) throw failed.reason
}
