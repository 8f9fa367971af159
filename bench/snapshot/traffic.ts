// Bulk traffic beside the ring: between two guests, or between two namespaces behind ports of the network. Each kind
// starts, runs through all rounds of its cell, and gives what its receiver and sender saw.

import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { GuestConsole } from '../../test/lab/console.js'
import { inGuest } from '../../test/lab/guest-shell.js'
import { guestImage } from '../../test/lab/image.js'
import type { Lab } from '../../test/lab/lab.js'
import { allCores, Lab as Bench } from '../lab/lab.js'
import { command, commandAt, type Service, sleep } from '../lab/processes.js'
import { projectRoot } from '../lab/project.js'
import { readTcpCounters, tcpCounters } from './machines.js'
import { acknowledgmentGaps, retransmissions, type Segment, segments } from './pcap.js'
import { type Cell, hosts, machineAddress, machineName, network } from './plan.js'
import type { Bulk, Gap, Retransmission } from './rows.js'

export interface Traffic {
  stop(): Promise<Bulk>
  /** Takes down what it made, stopped or not. Call it when the switches are gone. */
  destroy(): Promise<void>
}

/** Time for a flow to leave slow start. */
const WARM_MS = 1500
const GUEST_PORT = 7100
const ENDPOINT_PORT = 7100
/** Datagrams a second between the namespaces. */
const STREAM_RATE = 2000
const LEAST_GAP_US = 2000

const ended = (file: string) => existsSync(file) && readFileSync(file, 'latin1').endsWith('\n')

/** Records what a machine sends, at its TAP; the call that it returns ends that and reads it. */
async function capture(bench: Bench, lab: Lab, index: number, filter: string): Promise<() => Promise<Segment[]>> {
  const { tap, plan } = lab.machine(machineName(index))
  const file = join(bench.scratch, `${tap}.pcap`)
  const place = { namespace: lab.namespace(plan.host), cores: allCores() }
  // The ring of 16 MiB holds what comes while this process waits for a core.
  const options = ['-p', '-n', '-U', '-B', '16384', '-Z', 'root', '-s', '96', '-w', file]
  const running = await bench.startAt(place, [
    'tcpdump',
    '-i',
    tap,
    ...options,
    `${filter} and src ${machineAddress(index)}`,
  ])
  await running.until('listening', (said) => said.includes('listening'))
  return async () => {
    await running.stop('SIGINT')
    const lost = /(\d+) packets? dropped by kernel/.exec(running.said)?.[1]
    if (lost !== '0') throw new Error(`tcpdump on ${tap} missed ${lost ?? 'an unknown number of'} frames`)
    return segments(readFileSync(file))
  }
}

/** busybox nc from the first guest to the second; progress is read off the receiver's acknowledgments at its TAP. */
export async function startGuestTraffic(lab: Lab): Promise<Traffic> {
  const bench = new Bench()
  try {
    const [sender, receiver] = [machineName(0), machineName(1)]
    // nc ends when its input does: the receiver's must stay open and silent.
    await inGuest(lab, receiver, `tail -f /dev/null | busybox nc -l -p ${GUEST_PORT} >/dev/null 2>&1 &`)
    await inGuest(lab, sender, `busybox nc ${machineAddress(1)} ${GUEST_PORT} </dev/zero >/dev/null 2>&1 &`)
    await sleep(WARM_MS)
    const answers = await capture(bench, lab, 1, `tcp src port ${GUEST_PORT}`)
    const data = await capture(bench, lab, 0, `tcp dst port ${GUEST_PORT}`)
    const ofSender = async () => tcpCounters(await inGuest(lab, sender, readTcpCounters))
    const before = await ofSender()
    const began = performance.now()
    return {
      async stop() {
        const seconds = (performance.now() - began) / 1000
        const after = await ofSender()
        const { gaps, bytes } = acknowledgmentGaps(await answers(), LEAST_GAP_US)
        const retransmitted = retransmissions(await data())
        if (bytes === 0) throw new Error('no bulk TCP between the guests')
        return {
          bitsPerSecond: (bytes * 8) / seconds,
          gaps,
          retransmitted,
          retransmits: retransmitted.length,
          timeouts: after.tcpTimeouts - before.tcpTimeouts,
          lossProbes: after.tcpLossProbes - before.tcpLossProbes,
          udp: null,
        }
      },
      destroy: () => bench.destroy(),
    }
  } catch (error) {
    await bench.destroy()
    throw error
  }
}

const devices: Readonly<Record<string, string>> = { a: 'bulk-a', b: 'bulk-b' }
const endpoints = { a: { name: 'e1', ip: '10.78.0.1' }, b: { name: 'e2', ip: '10.78.0.2' } } as const

/** The switch's configuration with a port for this host's endpoint: of the host's first machine, or of none. */
export function withEndpointPort(
  config: Record<string, unknown>,
  host: string,
  load: Cell['load'],
): Record<string, unknown> {
  const networks = config.networks as Record<string, { ports: Record<string, unknown> }>
  const owner = machineName(hosts.indexOf(host as (typeof hosts)[number]))
  const port = load === 'members' ? { device: devices[host], vm: owner } : { device: devices[host], kind: 'plain' }
  const { ports } = networks[network]!
  return { ...config, networks: { [network]: { ...networks[network], ports: { ...ports, bulk: port } } } }
}

/** Two namespaces with a veth each into the lab's hosts. Call it before the switches start. */
export async function makeEndpoints(lab: Lab): Promise<Bench> {
  const bench = new Bench()
  try {
    for (const host of hosts) {
      const { name, ip } = endpoints[host]
      await bench.addNamespace(name)
      const peer = `peer name ${devices[host]} mtu 1500 netns ${lab.namespace(host)}`
      await bench.ip(name, [
        `link add eth0 mtu 1500 type veth ${peer}`,
        'link set eth0 up',
        `addr add ${ip}/24 dev eth0`,
      ])
      await command(['ip', '-n', lab.namespace(host), 'link', 'set', devices[host]!, 'up'])
    }
    return bench
  } catch (error) {
    await bench.destroy()
    throw error
  }
}

export async function startEndpointTraffic(bench: Bench): Promise<Traffic> {
  const { program } = await guestImage()
  const cores = allCores()
  const bulk = join(bench.scratch, 'bulk')
  await command(['gcc', '-O2', '-Wall', '-o', bulk, join(projectRoot, 'bench', 'gear', 'bulk.c')])
  const files = { sent: join(bench.scratch, 'sent.json'), received: join(bench.scratch, 'received.json') }
  const { a, b } = endpoints

  // The guests' own stream program, with its exact counts; it writes into a file that is there.
  const stream = async (host: 'a' | 'b', words: string) => {
    const file = join(bench.scratch, `stream-${host}`)
    writeFileSync(file, '')
    await bench.start(endpoints[host].name, cores, [program, file, `lab.ip=${endpoints[host].ip}/24 ${words}`])
    return new GuestConsole(file)
  }
  const receiving = await stream('b', 'lab.receive=1@5001')
  await stream('a', `lab.send=1@${b.ip}:5001/${STREAM_RATE}/4000000000`)

  const receiver: Service = await bench.start(b.name, cores, [bulk, 'receive', String(ENDPOINT_PORT), files.received])
  await receiver.until('ready', (said) => said.includes('ready'))
  const sender = await bench.start(a.name, cores, [bulk, 'send', b.ip, String(ENDPOINT_PORT), files.sent])
  await sleep(WARM_MS)
  const ofSender = async () => tcpCounters(await commandAt(bench.place(a.name, cores), ['sh', '-c', readTcpCounters]))
  const before = await ofSender()
  const first = receiving.state?.receive[0]
  if (first === undefined) throw new Error('no UDP stream between the namespaces')
  return {
    async stop() {
      const after = await ofSender()
      await sender.stop('SIGTERM')
      await receiver.until('its result', () => ended(files.received))
      const sent = JSON.parse(readFileSync(files.sent, 'utf8')) as Sent
      const received = JSON.parse(readFileSync(files.received, 'utf8')) as Received
      if (sent.unkept > 0 || received.unkept > 0) throw new Error('more events on the bulk flow than its gear keeps')
      // The reports of the stream come twice a second.
      await sleep(700)
      const last = receiving.state!.receive[0]!
      return {
        bitsPerSecond: (received.bytes * 8) / received.seconds,
        gaps: received.gaps,
        retransmitted: sent.retransmitted,
        retransmits: sent.retransmits,
        timeouts: after.tcpTimeouts - before.tcpTimeouts,
        lossProbes: after.tcpLossProbes - before.tcpLossProbes,
        udp: {
          received: last.received - first.received,
          lost: last.lost - first.lost,
          doubled: last.doubled - first.doubled,
          reordered: last.reordered - first.reordered,
        },
      }
    },
    destroy: () => bench.destroy(),
  }
}

interface Sent {
  readonly retransmits: number
  readonly unkept: number
  readonly retransmitted: readonly Retransmission[]
}

interface Received {
  readonly bytes: number
  readonly seconds: number
  readonly unkept: number
  readonly gaps: readonly Gap[]
}
