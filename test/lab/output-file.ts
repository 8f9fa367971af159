// Files that a long run writes at its end: whether they can be written is said at its beginning.

import { accessSync, constants, existsSync, statSync } from 'node:fs'
import { dirname, resolve } from 'node:path'

/** Throws, with a message for the user, when the file cannot be made or written. Makes nothing. */
export function mustBeWritable(option: string, file: string): void {
  const path = resolve(file)
  try {
    accessSync(existsSync(path) ? path : dirname(path), constants.W_OK)
  } catch (error) {
    throw new Error(`option ${option}: ${file} cannot be written: ${(error as NodeJS.ErrnoException).code}`)
  }
  if (existsSync(path) && statSync(path).isDirectory()) throw new Error(`option ${option}: ${file} is a directory`)
}
