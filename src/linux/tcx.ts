// Programs at a device's tcx hook (kernel 6.6 and later), which run before the filters of its clsact hook, and may keep
// frames from these.

import { libc } from './libc.js'

const BPF_PROG_QUERY = 16
const BPF_TCX_INGRESS = 46
const QUERY_LENGTH = 64
const COUNT_AT = 24

const query = new Uint8Array(QUERY_LENGTH)
const view = new DataView(query.buffer)

/** How many there are at its ingress; 0, too, where the kernel has no such hook. */
export function tcxPrograms(ifindex: number): number {
  query.fill(0)
  view.setUint32(0, ifindex, true)
  view.setUint32(4, BPF_TCX_INGRESS, true)
  return libc().bpf(BPF_PROG_QUERY, query, QUERY_LENGTH) < 0 ? 0 : view.getUint32(COUNT_AT, true)
}
