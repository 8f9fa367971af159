// Who takes snapshots, and how: snapswitch with either policy, VNsnap-style, UnaCloud-style. Each brings up its
// switches in a lab and takes snapshots of the machines in it.

import { CoordinatorClient } from '../../src/api/coordinator-client.js'
import type { SwitchConfig } from '../../switch/config.js'
import { run } from '../../test/lab/command.js'
import type { LabPlan } from '../../test/lab/lab.js'
import { allCores, Lab as Bench } from '../lab/lab.js'
import { commandAt, type Service } from '../lab/processes.js'
import { keptBy, type SnapshotSystem } from '../snapshot/session.js'
import { removeOne, takeOne } from '../snapshot/take.js'
import { makeBridges, uncoordinatedSystem } from './bridged.js'
import { droppedFrames, type MachineState, rules } from './subjects/unacloud.js'
import { compileVnsnap, vnsnapArguments } from './subjects/vnsnap.js'
import { takerOf } from './taker.js'

const asIs = (plan: LabPlan): LabPlan => plan

function snapswitchSystem(
  id: string,
  title: string,
  { policy = 'buffer', memory = 'background' }: { policy?: SnapshotSystem['policy']; memory?: SwitchConfig['memory'] },
  setup: string,
): SnapshotSystem {
  return {
    id,
    title,
    setup,
    policy,
    plan: asIs,
    async start(lab, network) {
      for (const host of lab.plan.hosts) await lab.startSwitch(host, { ...lab.switchConfig(host), memory })
      await lab.startCoordinator()
      return async () => {
        const client = new CoordinatorClient(lab.coordinatorSocket)
        return {
          take: (round) => takeOne(client, { network, policy }, round),
          remove: (round) => removeOne(client, network, round),
          ...keptBy(lab, network),
          close: () => client.close(),
        }
      }
    },
  }
}

/** A host's end of the tunnels: on its trunk's device. Two hosts at most. */
const addressOf = (index: number) => `10.98.0.${index + 1}`

/** One command to a switch; its answer must be `ok`, or is given back. */
async function tell(daemon: Service, line: string): Promise<string> {
  const lines = () => daemon.output.split('\n').slice(0, -1)
  const before = lines().length
  daemon.tell(`${line}\n`)
  await daemon.until(`an answer to ${line}`, () => lines().length > before)
  return lines()[before]!
}

/** Its switches know plain frames alone: the machines' cards leave checksums and segments to their kernels. */
const plainCards = ['csum', 'gso', 'guest_csum', 'host_tso4', 'host_tso6', 'guest_tso4', 'guest_tso6', 'guest_ufo']

const vnsnapSystem: SnapshotSystem = {
  id: 'vnsnap',
  title: 'VNsnap-style',
  setup:
    'its switch as a process on each host; memory by pre-copy migration to a file while the machine runs; disks are not saved',
  policy: 'drop',
  plan: (plan) => ({
    ...plan,
    machines: plan.machines.map((machine) => ({
      ...machine,
      more: (inside) => [
        ...(machine.more?.(inside) ?? []),
        ...plainCards.flatMap((name) => ['-global', `virtio-net-pci.${name}=off`]),
      ],
    })),
  }),
  async start(lab) {
    const bench = new Bench()
    const daemons = new Map<string, Service>()
    const { hosts } = lab.plan
    if (hosts.length > 2) throw new Error('the VNsnap-style switch of this bench joins two hosts at most')
    try {
      const program = await compileVnsnap(bench.scratch)
      for (const [index, host] of hosts.entries()) {
        const [other] = hosts.filter((one) => one !== host)
        if (other !== undefined)
          await run('ip', ['-n', lab.namespace(host), 'addr', 'add', `${addressOf(index)}/24`, 'dev', `to-${other}`])
      }
      for (const [index, host] of hosts.entries()) {
        const devices = [...lab.machines.values()].filter(({ plan }) => plan.host === host).map(({ tap }) => tap)
        const peers = hosts.flatMap((one, at) => (one === host ? [] : [addressOf(at)]))
        const words = vnsnapArguments({
          spinUs: 0,
          address: peers.length === 0 ? '127.0.0.1' : addressOf(index),
          peers,
          devices,
        })
        const daemon = await bench.startAt({ namespace: lab.namespace(host), cores: allCores() }, [program, ...words])
        await daemon.until('ready', (said) => said.includes('ready'))
        daemons.set(host, daemon)
      }
    } catch (error) {
      await bench.destroy()
      throw error
    }
    const all = (line: string) => Promise.all([...daemons.values()].map((daemon) => tell(daemon, line)))
    const earlyFrames = async () =>
      (await all('stats')).reduce((sum, said) => sum + (JSON.parse(said) as { early: number }).early, 0)
    let [early, color] = [0, 0]
    return () =>
      takerOf(lab, {
        begin: async () => {
          color = 1 - color
          await all(`begin ${color}`)
        },
        save: (machine, kept) =>
          machine.saveLive(async () => {
            await tell(daemons.get(machine.host)!, `flip ${machine.tap}`)
          }, kept),
        end: async () => {
          await all('end')
          const before = early
          early = await earlyFrames()
          return early - before
        },
        close: () => bench.destroy(),
      })
  },
}

const unacloudSystem: SnapshotSystem = {
  id: 'unacloud',
  title: 'UnaCloud-style',
  setup:
    'a Linux bridge on each host; marks and drops by nftables; each machine is stopped, saved, and runs on; disks are not saved',
  policy: 'drop',
  plan: asIs,
  async start(lab) {
    await makeBridges(lab)
    const states = new Map<string, Map<string, MachineState>>()
    const cores = allCores()
    const nft = (host: string, words: readonly string[], input?: string) =>
      commandAt({ namespace: lab.namespace(host), cores }, ['nft', ...words], input === undefined ? {} : { input })
    // One at a time on each host: a later one has what an earlier one set.
    const queues = new Map<string, Promise<unknown>>()
    const apply = (host: string): Promise<unknown> => {
      const next = (queues.get(host) ?? Promise.resolve()).then(() => nft(host, ['-f', '-'], rules(states.get(host)!)))
      queues.set(
        host,
        next.catch(() => undefined),
      )
      return next
    }
    return () =>
      takerOf(lab, {
        begin: async () => {
          for (const host of lab.plan.hosts) {
            const taps = [...lab.machines.values()].filter(({ plan }) => plan.host === host).map(({ tap }) => tap)
            states.set(host, new Map(taps.map((tap) => [tap, 'armed'])))
          }
          await Promise.all(lab.plan.hosts.map(apply))
        },
        save: (machine, kept) =>
          machine.saveStopped(async () => {
            states.get(machine.host)!.set(machine.tap, 'saved')
            await apply(machine.host)
          }, kept),
        end: async () => {
          const listings = await Promise.all(lab.plan.hosts.map((host) => nft(host, ['-j', 'list', 'ruleset'])))
          for (const host of lab.plan.hosts) states.set(host, new Map())
          await Promise.all(lab.plan.hosts.map(apply))
          return listings.reduce((sum, listing) => sum + droppedFrames(listing), 0)
        },
        close: async () => undefined,
      })
  },
}

export const snapshotSystems: readonly SnapshotSystem[] = [
  snapswitchSystem(
    'snapswitch',
    'snapswitch',
    {},
    'one daemon per host, one coordinator; early frames are kept; disks are saved too',
  ),
  snapswitchSystem(
    'snapswitch-drop',
    'snapswitch, drop',
    { policy: 'drop' },
    'the same with policy drop: early frames are dropped',
  ),
  snapswitchSystem(
    'snapswitch-precopy',
    'snapswitch, precopy',
    { memory: 'precopy' },
    'the same with `memory: precopy`: most of memory is saved before the cut',
  ),
  vnsnapSystem,
  unacloudSystem,
  uncoordinatedSystem,
]
