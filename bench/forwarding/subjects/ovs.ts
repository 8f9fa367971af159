// Open vSwitch's userspace datapath (datapath_type=netdev) from Debian's package, with a database and sockets of its
// own: nothing of a system-wide Open vSwitch is used or touched.

import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { command, commandAt } from '../../lab/processes.js'
import { hostsOf, parts, type Subject, vethAttachment } from '../subject.js'

const SCHEMA = '/usr/share/openvswitch/vswitch.ovsschema'

/** Only a name's look-up: no module is loaded. */
const noModule = async (): Promise<string | null> =>
  existsSync('/sys/module/openvswitch') ? null : 'the kernel module openvswitch is not loaded'

type Datapath = 'userspace' | 'userspace-tso' | 'kernel'

function ovsSubject(id: string, title: string, setup: string, datapath: Datapath): Subject {
  const tso = datapath === 'userspace-tso'
  return {
    id,
    title,
    setup,
    ...(datapath === 'kernel' ? { unavailable: noModule } : {}),
    offloads: datapath !== 'userspace',
    parts: tso ? ['tcp', 'twoHosts'] : parts,
    version: async () => (await command(['ovs-vswitchd', '--version'])).split('\n')[0]!.replace('ovs-vswitchd ', ''),
    async attach(lab, topology, cores) {
      await vethAttachment(lab, topology)
      const pids: number[] = []
      for (const { host, devices } of hostsOf(topology)) {
        const directory = join(lab.scratch, `ovs-${host}`)
        mkdirSync(directory)
        const env = { OVS_RUNDIR: directory, OVS_LOGDIR: directory, OVS_DBDIR: directory }
        const database = join(directory, 'conf.db')
        const socket = `unix:${join(directory, 'db.sock')}`
        await command(['ovsdb-tool', 'create', database, SCHEMA])
        const server = await lab.start(
          host,
          cores.switch,
          [
            'ovsdb-server',
            database,
            `--remote=p${socket}`,
            `--unixctl=${join(directory, 'ovsdb.ctl')}`,
            '-vconsole:warn',
          ],
          env,
        )
        const vsctl = (...words: string[]) =>
          commandAt(lab.place(host, cores.switch), ['ovs-vsctl', '--timeout=10', `--db=${socket}`, ...words], { env })
        await server.until('an answer of the database', () =>
          vsctl('--no-wait', 'init').then(
            () => true,
            () => false,
          ),
        )
        if (tso) await vsctl('--no-wait', 'set', 'Open_vSwitch', '.', 'other_config:userspace-tso-enable=true')
        const daemon = await lab.start(
          host,
          cores.switch,
          ['ovs-vswitchd', socket, `--unixctl=${join(directory, 'vswitchd.ctl')}`, '-vconsole:warn'],
          env,
        )
        await vsctl(
          'add-br',
          'br0',
          '--',
          'set',
          'bridge',
          'br0',
          `datapath_type=${datapath === 'kernel' ? 'system' : 'netdev'}`,
        )
        for (const device of devices) await vsctl('add-port', 'br0', device)
        pids.push(server.pid, daemon.pid)
      }
      return { pids }
    },
  }
}

export const ovsUserspace = ovsSubject(
  'ovs-userspace',
  'OVS userspace',
  'datapath_type=netdev, veth ports, defaults; endpoint offloads off, as its documentation demands',
  'userspace',
)

export const ovsUserspaceTso = ovsSubject(
  'ovs-userspace-tso',
  'OVS userspace, TSO',
  'the same with the experimental userspace-tso-enable=true and endpoint offloads on',
  'userspace-tso',
)

export const ovsKernel = ovsSubject(
  'ovs-kernel',
  'OVS kernel',
  'datapath_type=system (the kernel module openvswitch), veth ports, defaults',
  'kernel',
)
