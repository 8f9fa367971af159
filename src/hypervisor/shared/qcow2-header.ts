// What the header of a qcow2 file says of it: what it stands on, and what it holds besides the guest's data. Layout:
// QEMU's docs/interop/qcow2.txt. Read by ourselves, for files that a machine has open need no lock then, and no program
// runs.

import path from 'node:path'
import { openPlain } from '../../files/plain.js'
import { isObject } from './qmp-messages.js'

export interface Qcow2Header {
  /** As it stands there; null: it stands on nothing. */
  readonly backing: string | null
  readonly backingFormat: string | null
  readonly bytes: number
  readonly internalSnapshots: number
  readonly bitmaps: number
  readonly dataFile: boolean
  /** False: the header is followed by something that makes no sense. */
  readonly whole: boolean
}

const magic = 0x514649fb
const extension = { backingFormat: 0xe2792aca, bitmaps: 0x23852875, dataFile: 0x44415441 } as const
/** Headers end within the first cluster; names are 1023 bytes at most, and all else is short. */
const headerBytes = 65_536

/** Null when it is none. */
export function parseQcow2Header(bytes: Buffer): Qcow2Header | null {
  if (bytes.length < 72 || bytes.readUInt32BE(0) !== magic) return null
  const version = bytes.readUInt32BE(4)
  const nameAt = Number(bytes.readBigUInt64BE(8))
  const nameLength = bytes.readUInt32BE(16)
  const named = nameAt > 0 && nameLength > 0 && nameAt + nameLength <= bytes.length
  let whole = nameAt === 0 || named
  let backingFormat: string | null = null
  let bitmaps = 0
  let dataFile = version >= 3 && bytes.length >= 80 && (bytes.readBigUInt64BE(72) & 4n) !== 0n
  const start = version >= 3 && bytes.length >= 104 ? bytes.readUInt32BE(100) : 72
  for (let at = start; ; ) {
    if (at + 8 > bytes.length) {
      whole = false
      break
    }
    const type = bytes.readUInt32BE(at)
    const length = bytes.readUInt32BE(at + 4)
    if (type === 0) break
    const data = bytes.subarray(at + 8, at + 8 + length)
    if (data.length < length) {
      whole = false
      break
    }
    if (type === extension.backingFormat) backingFormat = data.toString('utf8')
    if (type === extension.bitmaps && length >= 4) bitmaps = data.readUInt32BE(0)
    if (type === extension.dataFile) dataFile = true
    at += 8 + Math.ceil(length / 8) * 8
  }
  return {
    backing: named ? bytes.toString('utf8', nameAt, nameAt + nameLength) : null,
    backingFormat,
    bytes: Number(bytes.readBigUInt64BE(24)),
    internalSnapshots: bytes.readUInt32BE(60),
    bitmaps,
    dataFile,
    whole,
  }
}

/** Null when the file is no qcow2. Throws UnfitFile, file system errors. */
export async function readQcow2Header(file: string): Promise<Qcow2Header | null> {
  const handle = await openPlain(file, 'image')
  try {
    const buffer = Buffer.alloc(headerBytes)
    const { bytesRead } = await handle.read(buffer, 0, headerBytes, 0)
    return parseQcow2Header(buffer.subarray(0, bytesRead))
  } finally {
    await handle.close()
  }
}

/** All local files that a header's backing name means; `file` is where the header lies. */
export function filesOfBacking(backing: string, file: string): string[] {
  const directory = path.dirname(file)
  if (backing.startsWith('json:')) {
    try {
      return filesInTree(JSON.parse(backing.slice(5))).map((name) => path.resolve(directory, name))
    } catch {
      return []
    }
  }
  if (backing.startsWith('file:')) return [path.resolve(directory, backing.slice(5))]
  return /^[a-z0-9+.-]+:/.test(backing) ? [] : [path.resolve(directory, backing)]
}

function filesInTree(tree: unknown): string[] {
  if (Array.isArray(tree)) return tree.flatMap(filesInTree)
  if (!isObject(tree)) return []
  return Object.entries(tree).flatMap(([key, value]) =>
    (key === 'filename' || key.endsWith('.filename')) && typeof value === 'string' ? [value] : filesInTree(value),
  )
}
