// Network namespaces as hosts, with the devices in them. All goes away with its namespace.

import { run } from './command.js'
import { identify, type ProcessId } from './processes.js'

/** Makes a namespace whose devices have no IPv6 of their own: a host must stay silent on its guests' taps. */
export async function createNamespace(name: string): Promise<void> {
  await run('ip', ['netns', 'add', name])
  const quiet = 'for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do [ ! -e "$f" ] || echo 1 >"$f"; done'
  await run('ip', ['netns', 'exec', name, 'sh', '-c', quiet])
  await run('ip', ['-n', name, 'link', 'set', 'lo', 'up'])
}

export async function listNamespaces(): Promise<string[]> {
  const listed = await run('ip', ['netns', 'list'])
  return listed.split('\n').flatMap((line) => line.split(' ')[0] || [])
}

/** Every process in a namespace, whoever started it. */
export async function processesIn(namespace: string): Promise<ProcessId[]> {
  const listed = await run('ip', ['netns', 'pids', namespace]).catch(async (error) => {
    if ((await listNamespaces()).includes(namespace)) throw error
    return ''
  })
  return listed.split('\n').flatMap((line) => (line === '' ? [] : (identify(Number(line)) ?? [])))
}

/** It may be gone already: a guardian, or another run's sweep, takes down what it finds, too. */
export async function deleteNamespace(name: string): Promise<void> {
  await run('ip', ['netns', 'del', name]).catch(async (error) => {
    if ((await listNamespaces()).includes(name)) throw error
  })
}

/** A TAP that stays when its user leaves, as a hypervisor expects it, up. */
export async function addTap(namespace: string, device: string, mtu = 1500): Promise<void> {
  await run('ip', ['-n', namespace, 'tuntap', 'add', 'dev', device, 'mode', 'tap', 'vnet_hdr'])
  await run('ip', ['-n', namespace, 'link', 'set', device, 'mtu', String(mtu), 'up'])
}

export interface CableEnd {
  readonly namespace: string
  readonly device: string
}

/** A veth pair between two namespaces, up. */
export async function addCable(one: CableEnd, other: CableEnd, mtu: number): Promise<void> {
  const side = (end: CableEnd) => ['mtu', String(mtu), 'netns', end.namespace]
  const peer = ['type', 'veth', 'peer', 'name', other.device, ...side(other)]
  await run('ip', ['link', 'add', one.device, ...side(one), ...peer])
  for (const end of [one, other]) await run('ip', ['-n', end.namespace, 'link', 'set', end.device, 'up'])
}

/** What a reboot takes from a host: TAPs, which nothing makes again by itself. Cables stay plugged in. */
export async function removeTaps(namespace: string): Promise<void> {
  const listed = JSON.parse(await run('ip', ['-n', namespace, '-j', '-d', 'link', 'show'])) as {
    ifname: string
    linkinfo?: { info_kind?: string }
  }[]
  for (const { ifname } of listed.filter((link) => link.linkinfo?.info_kind === 'tun')) {
    await run('ip', ['-n', namespace, 'link', 'del', ifname])
  }
}

/** Sets all devices but `lo` down, or up: at the other end of each cable the carrier goes, or comes back. */
export async function setAllDevices(namespace: string, state: 'up' | 'down'): Promise<void> {
  const listed = JSON.parse(await run('ip', ['-n', namespace, '-j', 'link', 'show'])) as { ifname: string }[]
  for (const { ifname } of listed) {
    if (ifname !== 'lo') await run('ip', ['-n', namespace, 'link', 'set', ifname, state])
  }
}
