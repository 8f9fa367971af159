// `status` in words: a host's switch, a coordinator.

import type { CoordinatorStatus, SwitchStatus } from '../api/schemas.js'
import { reachedBy } from '../hypervisor/drivers.js'
import { describeBridges } from './bridge-report.js'
import { formatDuration, formatTable } from './output.js'

export function describeSwitch(found: SwitchStatus): string {
  const restarts = found.datapathRestarts === 0 ? '' : `, datapath restarted ${found.datapathRestarts} times`
  const lines = [
    `switch ${found.host}: version ${found.version}, pid ${found.pid}, up ${formatDuration(found.uptimeSeconds)}${restarts}\n`,
  ]
  const withFast = found.networks.some(({ fast }) => fast !== undefined)
  const networks = found.networks.map((n) => {
    const fast = withFast ? [n.fast ?? null] : []
    return [n.name, n.epoch, n.ports, ...fast, n.waiting?.join(',') ?? null, n.fdbEntries, n.busy ?? 'no']
  })
  const fastHead = withFast ? ['FAST'] : []
  lines.push(formatTable(['NETWORK', 'EPOCH', 'PORTS', ...fastHead, 'WAITING', 'FDB', 'BUSY'], networks))
  if (found.networks.some((n) => (n.waiting ?? []).length > 0)) {
    lines.push('ports wait for devices that do not exist: `snapswitch port list` says for which\n')
  }
  for (const { port, problem } of found.networks.flatMap((n) => n.undriven ?? []))
    lines.push(`port ${port}: ${problem.message}. ${problem.action}\n`)
  const peers = found.networks.flatMap((n) =>
    n.peers.map((p) => [
      n.name,
      p.port,
      p.host,
      p.alive ? 'yes' : 'NO',
      p.lastHeardMs === null ? null : `${Math.round(p.lastHeardMs)} ms ago`,
    ]),
  )
  if (peers.length > 0) lines.push('\n', formatTable(['NETWORK', 'TRUNK', 'PEER', 'ALIVE', 'HEARD'], peers))
  const machines = found.machines.map((m) => [m.name, m.ports.join(','), reachedBy(m)])
  if (machines.length > 0) lines.push('\n', formatTable(['MACHINE', 'PORTS', 'REACHED BY'], machines))
  const disks = found.machines.flatMap((m) => (m.disks ?? []).map(({ name, file }) => [m.name, name, file]))
  if (disks.length > 0) lines.push('\n', formatTable(['MACHINE', 'DISK', 'WRITES TO'], disks))
  for (const { message, action } of found.machines.flatMap((m) => m.problems ?? []))
    lines.push(`\nWARNING: ${message}\n${action}\n`)
  lines.push(describeBridges(found.bridges ?? []))
  return lines.join('')
}

export function describeCoordinator(found: CoordinatorStatus): string {
  const hosts = found.networks.flatMap((n) =>
    n.hosts.map((h) => [n.name, h.host, h.reachable ? 'yes' : 'NO', h.members.join(','), h.socket, n.busy ?? 'no']),
  )
  const errors = found.networks.flatMap((n) =>
    n.hosts.flatMap((h) => (h.error === null ? [] : [`${h.error.message}\n`])),
  )
  return [
    `coordinator${found.embedded === true ? ', inside the switch' : ''}: version ${found.version}, pid ${found.pid}\n`,
    formatTable(['NETWORK', 'HOST', 'REACHABLE', 'MEMBERS', 'SOCKET', 'BUSY'], hosts),
    ...(errors.length === 0 ? [] : ['\n', ...errors]),
  ].join('')
}
