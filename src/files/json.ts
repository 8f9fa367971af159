// Reads JSON files that must be as they were written.

import { SnapswitchError } from '../errors/errors.js'
import { storeError } from './durable.js'
import { readPlain } from './plain.js'

/** More than any record needs: a part with hundreds of machines, or what is known of as many images. */
const LIMIT = 64 << 20

/** null: there is no such file. Throws STORE_DAMAGED when `fit` refuses its content, STORE_IO. */
export async function readJson<T>(path: string, fit: (value: unknown) => value is T): Promise<T | null> {
  let text: string
  try {
    text = (await readPlain(path, LIMIT)).toString('utf8')
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw storeError(`cannot read ${path}`, thrown)
  }
  try {
    const value: unknown = JSON.parse(text)
    if (fit(value)) return value
  } catch {
    // Falls through: no JSON is as damaged as the wrong JSON.
  }
  throw new SnapswitchError('STORE_DAMAGED', `${path} is damaged`, 'Bring it back from a backup, or remove it.')
}
