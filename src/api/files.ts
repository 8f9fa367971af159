// Files as snapshots name them: by content (digest and size), for a path means something on its own host only.

import { isDeepStrictEqual } from 'node:util'
import type { FileReference, FlatDisks, FrozenLayer, LocalPart, MemberPart } from './schemas.js'

/** Equal for files of equal content, wherever they lie. */
export function contentOf(file: Pick<FileReference, 'digest' | 'bytes'>): string {
  return `${file.digest}:${file.bytes}`
}

/** The first of each content, in their order. */
export function distinctFiles(files: readonly FileReference[]): FileReference[] {
  const found = new Map<string, FileReference>()
  for (const file of files) if (!found.has(contentOf(file))) found.set(contentOf(file), file)
  return [...found.values()]
}

const filesOfLayers = (layers: readonly FrozenLayer[]): FileReference[] =>
  layers.flatMap(({ file, data }) => (data === undefined ? [file] : [file, data]))

/** All files that a restore of the machine needs. */
export function filesOfMember({ memory, disks, media = [], files = [] }: MemberPart): FileReference[] {
  return [
    memory,
    ...disks.flatMap(({ layers }) => filesOfLayers(layers)),
    ...media.flatMap(({ file, backing = [] }) => [...(file === null ? [] : [file]), ...filesOfLayers(backing)]),
    ...files.map(({ file }) => file),
  ]
}

/** What a part has of frames. */
export function tracesOf({ channel, events, run, held }: LocalPart): FileReference[] {
  return [channel, events, run, held].filter((file) => file !== undefined)
}

export function filesOf(part: LocalPart): FileReference[] {
  return [...tracesOf(part), ...part.members.flatMap(filesOfMember)]
}

/** Without those a restore cannot be: machines, and the frames that were on their way to them. */
export function filesToRestore({ channel, members }: LocalPart): FileReference[] {
  return [channel, ...members.flatMap(filesOfMember)]
}

/**
 * A part whose disks are in other files now. What was found out by loading a machine from the former ones is not known
 * of these.
 */
export function withDisks(part: LocalPart, given: FlatDisks['members']): LocalPart {
  const members = part.members.map((member) => {
    const others = given.find(({ vm }) => vm === member.vm)?.disks ?? []
    const disks = member.disks.map((disk) => others.find(({ name }) => name === disk.name) ?? disk)
    if (isDeepStrictEqual(disks, member.disks)) return member
    const { verified: _, ...rest } = member
    return { ...rest, disks }
  })
  return { ...part, members }
}
