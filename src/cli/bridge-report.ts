// Bridges that are taken over, as `status` shows them.

import type { BridgeInfo } from '../api/schemas.js'
import { formatTable } from './output.js'

export function describeBridges(bridges: readonly BridgeInfo[]): string {
  if (bridges.length === 0) return ''
  const rows = bridges.map(({ bridge, network, taken, configured, given }) => [
    bridge,
    network,
    taken ? 'yes' : 'NO',
    given === true
      ? 'given back until a reload or restart'
      : configured
        ? 'by the configuration'
        : 'until the host restarts',
  ])
  const problems = bridges.flatMap(({ problem }) =>
    problem === null ? [] : [`WARNING: ${problem.message}. ${problem.action}\n`],
  )
  return ['\n', formatTable(['BRIDGE', 'NETWORK', 'TAKEN', 'FOR HOW LONG'], rows), ...problems].join('')
}
