// Dates of overlays. A base that was written after its overlay was used without it, and the overlay is not merged into
// it any more. A merge writes to the base, too, and to the overlay only in the end, if at all: one that is cut off must
// leave its overlay no older than the base.

import type { Stats } from 'node:fs'
import { stat, utimes } from 'node:fs/promises'
import { storeError, syncFile } from '../../files/durable.js'

/** In 2038: later than anything, and within what file systems can hold. */
const UNFINISHED_S = 2_147_000_000

/**
 * Commits an overlay that no machine has open. A host that dies in the middle leaves the overlay dated as unfinished.
 * Throws STORE_FULL or STORE_IO when it cannot be dated, and then nothing was begun; what `commit` throws.
 */
export async function datedInCommit(overlay: string, base: string, commit: () => Promise<unknown>): Promise<void> {
  const before = await dateOf(base)
  const own = await markUnfinished(overlay)
  try {
    await commit()
  } finally {
    const after = await dateOf(base)
    // A base that cannot be looked at leaves the mark.
    if (after !== null) await redate(overlay, own, after === before ? own.mtimeMs : after)
  }
}

/** Merges overlays while their machine runs. One that fails, or is called off, has written to the base. */
export async function datedInMerge<T>(overlays: readonly string[], base: string, merge: () => Promise<T>): Promise<T> {
  const before = await dateOf(base)
  try {
    return await merge()
  } catch (thrown) {
    const after = await dateOf(base)
    if (after !== null && after !== before) for (const overlay of overlays) await catchUp(overlay, after)
    throw thrown
  }
}

async function markUnfinished(overlay: string): Promise<Stats> {
  try {
    const found = await stat(overlay)
    await utimes(overlay, found.atime, UNFINISHED_S)
    // The base's writes must not outlive it.
    await syncFile(overlay)
    return found
  } catch (thrown) {
    throw storeError(`cannot date ${overlay}`, thrown)
  }
}

/** null: it cannot be looked at. */
const dateOf = (file: string) =>
  stat(file).then(
    ({ mtimeMs }) => mtimeMs,
    () => null,
  )

async function catchUp(overlay: string, dateMs: number): Promise<void> {
  const own = await stat(overlay).catch(() => null)
  if (own !== null && own.mtimeMs < dateMs) await redate(overlay, own, dateMs)
}

/** What cannot be dated stays as it is: the mark, or a date of before. */
async function redate(overlay: string, { atime }: Stats, dateMs: number): Promise<void> {
  await utimes(overlay, atime, new Date(Math.ceil(dateMs))).catch(() => undefined)
}
