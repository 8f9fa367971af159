// The disk records of machines that have no disks.

import type { Host } from '../../switch/agent/host.js'

export const noImages: Host['disks'] = {
  made: new Map(),
  chains: () => null,
  learn: async () => undefined,
  noteOrigins: async () => undefined,
  noteMade: async () => undefined,
  replace: async () => undefined,
  moveAway: async () => undefined,
}
