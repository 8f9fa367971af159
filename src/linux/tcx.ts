// Programs at a device's tcx hooks (kernel 6.6 and later), which run before the filters of its clsact hooks, and may
// keep frames from these. What is put there shows in no list of `tc`, and goes with the descriptor that holds it.

import { Errno, errno, libc, syscallError } from './libc.js'

const BPF_PROG_QUERY = 16
const BPF_LINK_CREATE = 28
/** enum bpf_attach_type. */
export const Tcx = { INGRESS: 46, EGRESS: 47 } as const
type Hook = (typeof Tcx)[keyof typeof Tcx]
/** Before all others. */
const BPF_F_BEFORE = 8
const ATTRIBUTE_LENGTH = 64
const COUNT_AT = 24

const query = new Uint8Array(ATTRIBUTE_LENGTH)
const view = new DataView(query.buffer)

/** How many there are at its ingress; 0, too, where the kernel has no such hook. */
export function tcxPrograms(ifindex: number): number {
  query.fill(0)
  view.setUint32(0, ifindex, true)
  view.setUint32(4, Tcx.INGRESS, true)
  return libc().bpf(BPF_PROG_QUERY, query, ATTRIBUTE_LENGTH) < 0 ? 0 : view.getUint32(COUNT_AT, true)
}

/**
 * A descriptor that holds the program there until it is closed; null where the kernel has no such hook. `first`: before
 * those that are there.
 * @throws SnapswitchError DEVICE_MISSING, PERMISSION, SYSCALL
 */
export function holdProgram(ifindex: number, hook: Hook, program: number, first = false): number | null {
  const attributes = new Uint8Array(ATTRIBUTE_LENGTH)
  const words = new DataView(attributes.buffer)
  words.setUint32(0, program, true)
  words.setUint32(4, ifindex, true)
  words.setUint32(8, hook, true)
  words.setUint32(12, first ? BPF_F_BEFORE : 0, true)
  const link = libc().bpf(BPF_LINK_CREATE, attributes, attributes.length)
  if (link >= 0) return link
  const value = errno()
  if (value === Errno.EINVAL) return null
  throw syscallError(`hook network device ${ifindex}`, value)
}
