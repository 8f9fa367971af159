// What a state directory of a version that kept no disks.json proves of its image files: those that finished snapshots
// name as the overlays and copies that were made for them, and what machines wrote to at their cuts.

import type { LocalStore } from '../local-store.js'
import type { Derived } from './records.js'

export async function derivedFromParts(store: LocalStore): Promise<Derived> {
  const members = [...(await store.parts()), ...(await store.removals())].flatMap((part) => part.members)
  const disks = members.flatMap(({ vm, disks }) => disks.map((disk) => ({ vm, ...disk })))
  return {
    made: disks.flatMap(({ vm, overlay, copied, layers }) => [
      { file: overlay, vm },
      ...(copied === true && layers[0] !== undefined ? [{ file: layers[0].file.path, vm }] : []),
    ]),
    actives: disks.flatMap(({ vm, name, copied, layers }) => {
      const active = layers[copied === true ? 1 : 0]
      return active === undefined ? [] : [{ vm, disk: name, file: active.file.path }]
    }),
  }
}
