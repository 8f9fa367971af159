// Another configuration for a run that was recorded: its network's settings and the rules of its ports.

import { SnapswitchError } from '../../src/errors/errors.js'
import { loadSwitchConfig } from '../config.js'
import { wantedBy } from '../wanted/from-config.js'
import type { Changes } from './replay.js'

/** Throws CONFIG_INVALID, CONFIG_UNREADABLE, NETWORK_UNKNOWN. */
export function changesOf(path: string, network: string): Changes {
  const wanted = wantedBy(loadSwitchConfig(path))
  const settings = wanted.networks.get(network)
  if (settings === undefined) {
    throw new SnapswitchError(
      'NETWORK_UNKNOWN',
      `${path} has no network ${network}, which the recording is of`,
      `It has: ${[...wanted.networks.keys()].join(', ')}.`,
    )
  }
  return {
    // The key that the run's control frames are sealed with.
    settings: (recorded) => ({ ...recorded, ...settings, controlKey: recorded.controlKey }),
    port: (spec) => {
      const port = wanted.ports.get(spec.name)
      return port === undefined ? spec : { ...spec, rules: port.rules ?? {} }
    },
  }
}
