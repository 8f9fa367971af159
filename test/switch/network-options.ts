// A network as the datapath is told of it, where a test has no wishes of its own.

import { defaultFdbOptions } from '../../switch/forwarding/fdb.js'
import type { NetworkOptions } from '../../switch/forwarding/network.js'

export const networkOptions: Omit<NetworkOptions, 'bootId' | 'bootedAt'> = {
  network: 'lab0',
  host: 'host',
  linkLocal: 'forward',
  pause: 'drop',
  transit: false,
  fdb: defaultFdbOptions,
  hold: { frames: 16_384, bytes: 1 << 26 },
  networkHold: { frames: 131_072, bytes: 1 << 29 },
  record: { frames: 16_384, bytes: 1 << 26 },
  closureDeadline: 200,
  controlKey: null,
}
