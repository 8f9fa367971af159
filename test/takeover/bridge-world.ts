// A host with a bridge as labs have them: its own address on br0, containers on it (namespaces with a veth), and
// streams between any two of them.

import { renameSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { run, until } from '../lab/command.js'
import { repositoryRoot } from '../lab/repository.js'
import type { Running, World } from '../switch/world.js'

export const HOST_ADDRESS = '192.0.2.1'

/** Makes the host `h`, with br0. */
export async function bridgeHost(world: World): Promise<void> {
  await world.namespace('h')
  await world.ip('h', 'link', 'add', 'br0', 'type', 'bridge')
  await world.ip('h', 'link', 'set', 'br0', 'up')
  await world.ip('h', 'address', 'add', `${HOST_ADDRESS}/24`, 'dev', 'br0')
}

/** A container, its cable in br0. */
export async function container(
  world: World,
  label: string,
  address: string,
  options: { join?: boolean } = {},
): Promise<void> {
  await world.endpoint(label, 'h', { address })
  if (options.join !== false) await joinBridge(world, label)
}

export async function joinBridge(world: World, device: string, bridge = 'br0'): Promise<void> {
  await world.ip('h', 'link', 'set', device, 'master', bridge)
  await world.ip('h', 'link', 'set', device, 'up')
}

/** What a takeover must leave as it was: br0's address, its ports and their flags, and which devices there are. */
export async function found(world: World) {
  const [bridge] = JSON.parse(await world.in('h', 'ip', '-j', 'link', 'show', 'br0'))
  const ports = JSON.parse(await world.in('h', 'ip', '-j', '-d', 'link', 'show', 'master', 'br0')) as {
    ifname: string
    linkinfo: { info_slave_data: Record<string, unknown> }
  }[]
  const stable = ports.map(({ ifname, linkinfo: { info_slave_data: data } }) => ({
    ifname,
    flags: Object.entries(data).filter(([key]) => !key.includes('timer')),
  }))
  return { mac: bridge.address, mtu: bridge.mtu, ports: stable, devices: await world.in('h', 'ls', '/sys/class/net') }
}

interface Sent {
  readonly sent: number
}
interface Received {
  readonly received: number
  readonly doubled: number
  /** By later ones. */
  readonly overtaken: number
  /** Milliseconds. */
  readonly longestGap: number
}

/** The program of the ends of streams, compiled when it is not, or has changed. */
export async function numberedProgram(): Promise<string> {
  const source = join(repositoryRoot(), 'test', 'takeover', 'numbered.c')
  const program = join(repositoryRoot(), 'dist', 'test', 'takeover', 'numbered')
  const age = (file: string) => statSync(file, { throwIfNoEntry: false })?.mtimeMs ?? 0
  if (age(program) > age(source)) return program
  // Another test may do the same.
  const made = `${program}.${process.pid}`
  await run('gcc', ['-O2', '-Wall', '-Wextra', '-static', '-o', made, source])
  renameSync(made, program)
  return program
}

/** Numbered datagrams from one to another. */
export class Stream {
  readonly name: string
  readonly #receiver: Running
  readonly #sender: Running

  private constructor(name: string, receiver: Running, sender: Running) {
    this.name = name
    this.#receiver = receiver
    this.#sender = sender
  }

  static async start(
    world: Pick<World, 'start'>,
    from: string,
    to: string,
    address: string,
    port: number,
  ): Promise<Stream> {
    const program = await numberedProgram()
    const receiver = await world.start(to, program, 'receive', String(port))
    await until('the receiver', 10_000, () => (receiver.stdout.includes('ready') ? true : undefined), 10)
    const sender = await world.start(from, program, 'send', address, String(port))
    await until('the sender', 10_000, () => (sender.stdout.includes('ready') ? true : undefined), 10)
    return new Stream(`${from} to ${to}`, receiver, sender)
  }

  /** Ends it; what is under way arrives before the receiver counts. */
  async end(): Promise<Sent & Received & { lost: number }> {
    const sent = (await result(this.#sender)) as Sent
    await new Promise((resolve) => setTimeout(resolve, 200))
    const received = (await result(this.#receiver)) as Received
    return { ...sent, ...received, lost: sent.sent - received.received }
  }
}

async function result(running: Running): Promise<unknown> {
  running.child.kill('SIGTERM')
  const line = await until(
    'its result',
    10_000,
    () => running.stdout.split('\n').find((text) => text.startsWith('{')),
    10,
  )
  return JSON.parse(line)
}
