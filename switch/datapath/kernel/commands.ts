// Which commands make a network slow before they are performed.

import type { CommandName } from '../protocol.js'

/**
 * Commands after which every frame meets the decision that it would have met before; but for those of a port that is
 * removed, which the fast path sees to.
 */
const changesNothing: ReadonlySet<CommandName> = new Set<CommandName>([
  'addNetwork',
  'addPort',
  'announce',
  // Of a snapshot whose cut is over; before, the network is slow anyhow.
  'end',
  'learn',
  'fdb',
  'hooked',
  'network',
  'paths',
  'removePort',
  'verdicts',
])

/** Whatever changes a network's state, but for its addresses, finds all its frames in the daemon. */
export const needsEveryFrame = (name: CommandName): boolean => !changesNothing.has(name)
