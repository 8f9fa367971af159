// What a state directory of a version that kept no disks.json proves of its image files: those that finished snapshots name
// as the overlays and copies that were made for them.

import type { LocalStore } from '../local-store.js'

export async function madeByFormer(store: LocalStore): Promise<{ file: string; vm: string }[]> {
  const members = [...(await store.parts()), ...(await store.removals())].flatMap((part) => part.members)
  return members.flatMap(({ vm, disks }) =>
    disks.flatMap(({ overlay, copied, layers }) => [
      { file: overlay, vm },
      ...(copied === true && layers[0] !== undefined ? [{ file: layers[0].file.path, vm }] : []),
    ]),
  )
}
