// What the thread that unpacks a file and the one that reads it (unpacking.ts) tell one another.

import type { MessagePort } from 'node:worker_threads'
import type { ErrorReport } from '../errors/errors.js'

/** Words in shared memory. */
export const Word = { PIECES: 0, TAKEN: 1 } as const

export interface UnpackingInput {
  /** Of the file, from the byte on that follows `head`. */
  readonly fd: number
  /** What has been read of it. */
  readonly head: Uint8Array
  readonly port: MessagePort
  readonly words: Int32Array
}

/** The next bytes; the end, or why there is one. */
export type Unpacked =
  | { readonly kind: 'piece'; readonly bytes: Uint8Array }
  | { readonly kind: 'end'; readonly error: ErrorReport | null }
