// vde_switch from Debian's package. Two attachments: TAP devices that the switch process itself holds (-t), its
// fastest, and TAP devices that a vde_plug2tap process each joins to the switch's socket, the way every VM and
// container reaches it.

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { Lab } from '../../lab/lab.js'
import { command } from '../../lab/processes.js'
import { hostsOf, type Part, parts, type Subject } from '../subject.js'

function vdeSubject(id: string, title: string, setup: string, direct: boolean, measured: readonly Part[]): Subject {
  return {
    id,
    title,
    setup,
    offloads: true,
    parts: measured,
    version: async () => {
      const said = await command(['vde_switch', '--version'])
      return /VDE\s+(\S+)/.exec(said)?.[1] ?? said.split('\n')[0]!
    },
    async attach(lab, topology, cores) {
      const pids: number[] = []
      const endpoints = topology === 'one-host' ? [['e1', 'e2']] : [['e1'], ['e2']]
      const sockets: string[] = []
      for (const [index, { host }] of hostsOf(topology).entries()) {
        const socket = join(lab.scratch, `vde-${host}`)
        const taps = endpoints[index]!.flatMap((endpoint) => ['-t', `tap-${endpoint}`])
        const daemon = await lab.start(host, cores.switch, ['vde_switch', '-s', socket, ...(direct ? taps : [])])
        pids.push(daemon.pid)
        sockets.push(socket)
        await daemon.until('its control socket', () => existsSync(join(socket, 'ctl')))
        for (const endpoint of endpoints[index]!) {
          const tap = `tap-${endpoint}`
          if (!direct) {
            const plug = await lab.start(host, cores.switch, ['vde_plug2tap', '-s', socket, tap])
            pids.push(plug.pid)
          }
          await daemon.until(tap, () => hasDevice(lab, host, tap))
          await lab.ip(host, [`link set ${tap} netns ${lab.namespace(endpoint)} name eth0`])
        }
      }
      if (topology === 'two-hosts') {
        const cable = await lab.start('a', cores.switch, ['vde_plug', ...sockets.map((socket) => `vde://${socket}`)])
        pids.push(cable.pid)
      }
      return { pids }
    },
  }
}

function hasDevice(lab: Lab, host: string, device: string): Promise<boolean> {
  return command(['ip', '-n', lab.namespace(host), 'link', 'show', device]).then(
    () => true,
    () => false,
  )
}

export const vde = vdeSubject(
  'vde',
  'vde_switch, own taps',
  'TAP devices held by the switch process itself (-t), its fastest attachment; two hosts joined by vde_plug',
  true,
  parts,
)

export const vdePlug = vdeSubject(
  'vde-plug',
  'vde_switch, plugs',
  'a vde_plug2tap process per TAP, on the switch core: every VM reaches vde_switch through its socket like this',
  false,
  ['frames', 'tcp'],
)
