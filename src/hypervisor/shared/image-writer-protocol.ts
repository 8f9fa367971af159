// What image-writer.ts and its process (image-writer-process.ts) say to each other, about one stream a message.

/** What a pipe holds while it is read. */
export const streamBytes = 1 << 20

/** What it holds while memory is sent ahead (sent-ahead.ts): the less, the nearer to the end that can be held. */
export const aheadBytes = 16 * 1024

export type Order =
  /** Takes hold of a pipe's read end, by a path under /proc. */
  | { readonly kind: 'open'; readonly id: number; readonly pipe: string; readonly file: string }
  /** Appends what comes out of it to the file, which exists and is empty or has an image's head. */
  | { readonly kind: 'write'; readonly id: number }
  /** The same, until the first pass over memory has at most `pages` to go. No more is read then, before `write`. */
  | { readonly kind: 'ahead'; readonly id: number; readonly pages: number }
  /** The machine of the QMP socket will be paused. It is told to go on when the daemon dies before `running`. */
  | { readonly kind: 'pausing'; readonly id: number; readonly socket: string }
  | { readonly kind: 'running'; readonly id: number }
  /** Closes the pipe of memory that is sent ahead. */
  | { readonly kind: 'break'; readonly id: number }
  /** Reads it to its end and throws it away. */
  | { readonly kind: 'discard'; readonly id: number }

export type Answer =
  | { readonly kind: 'opened'; readonly id: number }
  /** No more is read. `isAhead`: as ordered; else the stream is not one whose pages can be counted. */
  | { readonly kind: 'held'; readonly id: number; readonly isAhead: boolean }
  /** The file is complete and on disk. */
  | { readonly kind: 'written'; readonly id: number; readonly bytes: number; readonly digest: string }
  | { readonly kind: 'failed'; readonly id: number; readonly code: string; readonly message: string }
  /** The pipe has come to its end. */
  | { readonly kind: 'ended'; readonly id: number }
