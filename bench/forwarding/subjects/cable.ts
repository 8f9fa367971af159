// No switch at all: a veth pair from endpoint to endpoint. Shows what the gear itself can do, so that a reader can see
// whether a figure is the switch's or the gear's limit.

import { release } from 'node:os'
import type { Subject } from '../subject.js'

export const cable: Subject = {
  id: 'cable',
  title: 'no switch (veth cable)',
  setup: 'one veth pair from endpoint to endpoint: the ceiling of the measuring gear',
  offloads: true,
  parts: ['frames', 'light', 'roundTrips', 'tcp'],
  version: async () => `Linux ${release()}`,
  async attach(lab) {
    await lab.veth('e1', 'eth0', 'e2', 'eth0')
    return { pids: [] }
  },
}
