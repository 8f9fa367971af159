// `qemu-img` for what is not QEMU's own live business: fresh overlays, and what a file holds.

import { execFile } from 'node:child_process'
import { SnapswitchError } from '../../errors/errors.js'
import { checkPlain, UnfitFile } from '../../files/plain.js'
import type { Deadline, DiskLayer } from '../hypervisor.js'
import { remaining } from './deadline.js'
import { rightsFor, rightsToCommit } from './image-rights.js'
import { datedInCommit } from './overlay-dates.js'
import { isObject } from './qmp-messages.js'

/** `rights`: what starts it as another user (image-rights.ts). */
function run(args: readonly string[], deadline: Deadline, rights: readonly string[] = []): Promise<string> {
  return new Promise((resolve, reject) => {
    const options = {
      timeout: Math.ceil(Math.max(1, remaining(deadline))),
      killSignal: 'SIGKILL',
      maxBuffer: 1 << 20,
    } as const
    const [program, ...words] = [...rights, 'qemu-img', ...args]
    execFile(program!, words, options, (error, stdout, stderr) => {
      if (error === null) resolve(stdout)
      else reject(explain(args, error, stderr.trim()))
    })
  })
}

function explain(args: readonly string[], error: Error & { code?: unknown; killed?: boolean }, stderr: string): Error {
  if (error.code === 'ENOENT') {
    return new SnapswitchError(
      'STORE_IO',
      'qemu-img is not installed',
      'Install it: `apt-get install qemu-utils`.',
      error,
    )
  }
  if (error.killed === true) {
    return new SnapswitchError('DEADLINE', `qemu-img ${args[0]} did not finish in time`, 'Allow more time.', error)
  }
  const full = /No space left/.test(stderr)
  return new SnapswitchError(
    full ? 'STORE_FULL' : 'STORE_IO',
    `qemu-img ${args[0]} failed: ${stderr || error.message}`,
    full
      ? 'Free some space on the disk that holds the images.'
      : 'Check that the image exists and can be read and written.',
    error,
  )
}

/** `qemu-img` would wait at a pipe for ever. What else is wrong with an image it says itself. Throws STORE_DAMAGED. */
async function refuseUnfit(files: readonly string[]): Promise<void> {
  for (const file of files) {
    await checkPlain(file, 'image').catch((error: unknown) => {
      if (error instanceof UnfitFile) throw error
    })
  }
}

/** Virtual size in bytes. Looks at this one file, not at what it is layered on. */
export async function virtualSize(layer: DiskLayer, deadline: Deadline): Promise<number> {
  await refuseUnfit([layer.file])
  // -U: it may be in use, read-only, by a machine that shares it.
  const text = await run(['info', '-U', '--output=json', '-f', layer.format, layer.file], deadline)
  const info: unknown = JSON.parse(text)
  const size = isObject(info) ? info['virtual-size'] : undefined
  if (typeof size === 'number') return size
  throw new SnapswitchError('STORE_DAMAGED', `${layer.file} has no size`, 'Check the image with `qemu-img info`.')
}

/** Makes `file` (which may exist, empty) a qcow2 image of nothing over `base`. The base is not opened. */
export async function createOverlay(file: string, base: DiskLayer, bytes: number, deadline: Deadline): Promise<void> {
  await run(['create', '-q', '-f', 'qcow2', '-u', '-b', base.file, '-F', base.format, file, String(bytes)], deadline)
}

/**
 * Writes an overlay's content into its base. Only for images that no machine has open. One that does not come to its
 * end can be repeated (overlay-dates.ts).
 */
export async function commitOverlay(overlay: string, base: string, deadline: Deadline): Promise<void> {
  await refuseUnfit([overlay])
  await datedInCommit(overlay, base, async () =>
    run(['commit', '-q', '-f', 'qcow2', overlay], deadline, await rightsToCommit(overlay, base)),
  )
}

/** Whether an overlay holds anything of its own, zeros included; also when that cannot be told. */
export async function holdsData({ file, format }: DiskLayer, deadline: Deadline): Promise<boolean> {
  await refuseUnfit([file])
  const source = JSON.stringify({
    driver: format,
    file: { driver: 'file', filename: file, locking: 'off' },
    backing: null,
  })
  // A map that is too long to be read is one of much data.
  const map = await run(['map', '--output=json', `json:${source}`], deadline, await rightsFor(file)).catch(() => '')
  const extents: unknown = map === '' ? null : JSON.parse(map)
  return !Array.isArray(extents) || extents.some((one) => isObject(one) && one.present === true)
}

/** Writes into an overlay's header where its base lies, and nothing else. Only for images that no machine has open. */
export async function rebaseHeader(overlay: DiskLayer, base: DiskLayer, deadline: Deadline): Promise<void> {
  await refuseUnfit([overlay.file])
  const rights = await rightsFor(overlay.file)
  const words = ['rebase', '-q', '-u', '-f', overlay.format, '-b', base.file, '-F', base.format, overlay.file]
  await run(words, deadline, rights)
}

/**
 * Writes all that a chain holds into one new qcow2 image, which stands on nothing. The chain is read as it is spelled
 * out, whatever its headers say.
 */
export async function copyChain(layers: readonly DiskLayer[], target: string, deadline: Deadline): Promise<void> {
  await refuseUnfit(layers.map(({ file }) => file))
  const source = layers.reduceRight<object | null>((backing, { file, format, dataFile }) => {
    const data = dataFile === undefined ? {} : { 'data-file': { driver: 'file', filename: dataFile } }
    const below = format === 'raw' ? {} : { backing }
    return { driver: format, file: { driver: 'file', filename: file }, ...data, ...below }
  }, null)
  await run(['convert', '-q', '-O', 'qcow2', `json:${JSON.stringify(source)}`, target], deadline)
}
