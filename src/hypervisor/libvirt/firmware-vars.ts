// The file that a firmware keeps its variables in (<nvram>). The guest's flash is a part of the memory image, and QEMU
// writes all of it back to the file when the restored guest runs (hw/block/pflash_cfi01.c, postload_update_cb): the
// content is the cut's by itself. What it takes is a file of the right size that is this machine's.

import { open, stat, truncate } from 'node:fs/promises'
import path from 'node:path'
import { SnapswitchError } from '../../errors/errors.js'
import { externalFiles, placeFiles, varsFormat } from './domain-files.js'

const varsOf = (xml: string) => externalFiles(xml).find(({ role }) => role === 'vars')?.path ?? null

/** Bytes that the guest sees of it; null when there is none, or it cannot be told. */
export async function varsBytes(xml: string): Promise<number | null> {
  const file = varsOf(xml)
  if (file === null || varsFormat(xml) !== 'raw') return null
  return stat(file).then(
    ({ size }) => size,
    () => null,
  )
}

/**
 * Sees to it that the domain has such a file: its own on this host, where `stored` names it; else a new one, in
 * `directory` where another machine's file is in the way. Returns the XML with its name.
 */
export async function placeVars(
  xml: string,
  { bytes, stored, directory }: { readonly bytes: number; readonly stored: string | null; readonly directory: string },
  made: string[],
): Promise<string> {
  const wanted = varsOf(xml)
  if (wanted === null) return xml
  const isThere = await stat(wanted).then(
    () => true,
    () => false,
  )
  const isOwn = stored !== null && varsOf(stored) === wanted
  if (isThere && isOwn) return xml
  const file = isThere ? path.join(directory, 'vars.fd') : wanted
  try {
    await (await open(file, 'wx', 0o600)).close()
  } catch (error) {
    throw new SnapswitchError(
      'STORE_IO',
      `${file}, for the firmware’s variables, cannot be made: ${(error as NodeJS.ErrnoException).code}`,
      'Make its directory, or restore on the host it came from.',
      error,
    )
  }
  made.push(file)
  await truncate(file, bytes)
  return placeFiles(xml, ({ role }) => (role === 'vars' ? file : null))
}
