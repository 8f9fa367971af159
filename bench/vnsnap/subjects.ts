// Who is compared: one line a subject.

import type { Subject } from '../forwarding/subject.js'
import { bridge } from '../forwarding/subjects/bridge.js'
import { ovsKernel, ovsUserspace, ovsUserspaceTso } from '../forwarding/subjects/ovs.js'
import { snapswitchBusy, snapswitchFast, snapswitchUserspace } from '../forwarding/subjects/snapswitch.js'
import { vde, vdePlug } from '../forwarding/subjects/vde.js'
import type { NetworkSubject } from './network.js'
import { unacloud } from './subjects/unacloud.js'
import { vnsnap, vnsnapSpin } from './subjects/vnsnap.js'
import { vnsnapVm } from './subjects/vnsnap-vm.js'

const on = (subject: Subject, hops: number, more: Partial<NetworkSubject> = {}): NetworkSubject => ({
  hasTrunk: true,
  slow: false,
  ...subject,
  hops,
  ...more,
})

/** Those first that a run with little time must not be without. */
export const networkSubjects: readonly NetworkSubject[] = [
  on(snapswitchFast, 0),
  on(vnsnap, 2),
  on(vnsnapSpin, 2),
  on(snapswitchUserspace, 2),
  on(bridge, 0),
  on(unacloud, 0),
  vnsnapVm,
  on(ovsUserspaceTso, 2),
  on(vde, 3, { hasTrunk: false }),
  on(snapswitchBusy, 2),
  on(ovsUserspace, 2),
  on(ovsKernel, 0),
  on(vdePlug, 5, { hasTrunk: false }),
]

/** A run with little time leaves these out: `forwarding` has the peers, and the emulated switch is context. */
export const elsewhere: readonly string[] = [vnsnapVm, snapswitchBusy, ovsUserspaceTso, ovsUserspace, vde, vdePlug].map(
  ({ id }) => id,
)
