// Who is compared: one line a subject.

import type { Subject } from '../forwarding/subject.js'
import { bridge } from '../forwarding/subjects/bridge.js'
import { ovsKernel, ovsUserspace, ovsUserspaceTso } from '../forwarding/subjects/ovs.js'
import { snapswitch, snapswitchBusy, snapswitchFast } from '../forwarding/subjects/snapswitch.js'
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

export const networkSubjects: readonly NetworkSubject[] = [
  on(snapswitch, 2),
  on(snapswitchFast, 0),
  on(snapswitchBusy, 2),
  on(vnsnap, 2),
  on(vnsnapSpin, 2),
  vnsnapVm,
  on(unacloud, 0),
  on(bridge, 0),
  on(ovsUserspace, 2),
  on(ovsUserspaceTso, 2),
  on(ovsKernel, 0),
  on(vde, 3, { hasTrunk: false }),
  on(vdePlug, 5, { hasTrunk: false }),
]
