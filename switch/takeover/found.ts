// Looks at a bridge that is to be taken over, and at the packet filters around it. Changes nothing.

import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import { nearest } from '../../src/api/names.js'
import { SnapswitchError } from '../../src/errors/errors.js'
import { bridgeAddresses, bridgePorts, bridgeSettings, bridgeVlans } from '../../src/linux/bridge.js'
import { hasIngressFilters } from '../../src/linux/ingress.js'
import type { Links } from '../../src/linux/link.js'
import type { Link } from '../../src/linux/link-message.js'
import { Family, Nftables } from '../../src/linux/nftables.js'
import { isOwnTable } from './bypass.js'
import type { FoundBridge, FoundFilters } from './plan.js'

const run = promisify(execFile)
/** Milliseconds for a program that lists filters. */
const LIST_MS = 5000
/** NF_INET_FORWARD, NF_ARP_FORWARD (linux/netfilter.h, linux/netfilter_arp.h). */
const FORWARD = 2

/** Throws DEVICE_MISSING, BRIDGE_INVALID. */
export async function findBridge(links: Links, name: string): Promise<FoundBridge> {
  const link = bridgeLink(links, name)
  const found = lookAt(links, link)
  return { ...found, filters: await findFilters(links, found) }
}

/** What may change while it is taken; filters are looked at once. */
export function lookAt(links: Links, link: Link): Omit<FoundBridge, 'filters'> {
  const settings = bridgeSettings(links, link.index)
  if (settings === null) throw noBridge(link)
  return {
    link,
    settings,
    ports: bridgePorts(links, link.index),
    vlans: settings.vlanFiltering ? bridgeVlans(links, link.index) : new Map(),
    addresses: bridgeAddresses(links, link.index),
    devices: { here: links.list(), elsewhere: links.elsewhere() },
  }
}

function bridgeLink(links: Links, name: string): Link {
  const link = links.find(name)
  if (link !== null) {
    if (link.kind === 'bridge') return link
    throw noBridge(link)
  }
  const bridges = links.list().filter(({ kind }) => kind === 'bridge')
  const known = bridges.map((bridge) => bridge.name)
  const meant = nearest(name, known)
  throw new SnapswitchError(
    'DEVICE_MISSING',
    `there is no bridge ${name} here`,
    meant === null
      ? `Bridges of this host: ${known.length === 0 ? 'none' : known.join(', ')}.`
      : `Is ${meant} meant? \`ip link show type bridge\` lists the bridges.`,
  )
}

function noBridge({ name, kind }: Link): SnapswitchError {
  return new SnapswitchError(
    'BRIDGE_INVALID',
    `${name} is no bridge of the kernel's${kind === null ? '' : `, but of kind ${kind}`}`,
    '`ip link show type bridge` lists the bridges. Ports of other kinds stand in the configuration.',
  )
}

async function findFilters(
  links: Links,
  { link, settings, ports }: Omit<FoundBridge, 'filters'>,
): Promise<FoundFilters> {
  const nftables = new Nftables()
  try {
    return {
      bridgeTables: [...bridgeTables(nftables), ...(await legacyTables())],
      ingress: ingressOf(links, nftables, { ports }),
      forwarded: (settings.callsFilters || (await callsFilters(link.name))) && (await forwardRules(nftables)),
    }
  } finally {
    nftables.close()
  }
}

/** Tables with rules, or that drop by policy; others let everything pass. */
function bridgeTables(nftables: Nftables): string[] {
  const rules = nftables.rules(Family.bridge).map(({ table }) => table)
  const dropping = nftables.chains(Family.bridge).flatMap(({ table, drops }) => (drops ? [table] : []))
  return [...new Set([...rules, ...dropping])].filter((table) => !isOwnTable(table))
}

/** Of ebtables before nftables: the kernel says only that its tables are there. */
async function legacyTables(): Promise<string[]> {
  const modules = await readFile('/proc/modules', 'utf8').catch(() => '')
  const tables = ['broute', 'filter', 'nat'].filter((table) => modules.includes(`ebtable_${table} `))
  const found = await Promise.all(
    tables.map(async (table) => {
      try {
        const { stdout } = await run('ebtables-legacy', ['-t', table, '-L'], { timeout: LIST_MS })
        return /^-|policy: DROP/m.test(stdout) ? `ebtables ${table}` : null
      } catch {
        // Without the program nobody has made rules, but who knows.
        return `ebtables ${table}, which cannot be listed`
      }
    }),
  )
  return found.flatMap((table) => table ?? [])
}

function ingressOf(links: Links, nftables: Nftables, { ports }: Pick<FoundBridge, 'ports'>): string[] {
  const hooked = nftables.chains(Family.netdev).filter(({ table }) => !isOwnTable(table))
  const devices = new Set(hooked.flatMap((chain) => chain.devices))
  return ports
    .filter(({ link }) => devices.has(link.name) || hasIngressFilters(links.socket, link.index))
    .map(({ link }) => link.name)
}

async function callsFilters(bridge: string): Promise<boolean> {
  const settings = ['iptables', 'ip6tables', 'arptables'].map((name) => `/proc/sys/net/bridge/bridge-nf-call-${name}`)
  const own = ['iptables', 'ip6tables', 'arptables'].map((name) => `/sys/class/net/${bridge}/bridge/nf_call_${name}`)
  const found = await Promise.all([...settings, ...own].map((file) => readFile(file, 'utf8').catch(() => '')))
  return found.some((text) => text.trim() === '1')
}

async function forwardRules(nftables: Nftables): Promise<boolean> {
  const legacy = await Promise.all(
    ['ip', 'ip6', 'arp'].map((family) => readFile(`/proc/net/${family}_tables_names`, 'utf8').catch(() => '')),
  )
  if (legacy.some((names) => names.split('\n').includes('filter'))) return true
  return [Family.ip4, Family.ip6, Family.inet, Family.arp].some((family) => {
    const chains = nftables.chains(family).filter(({ hook }) => hook === FORWARD)
    const rules = nftables.rules(family)
    return (
      chains.some(
        ({ table, name, drops }) => drops || rules.some((rule) => rule.table === table && rule.chain === name),
      ) || rules.some(({ asksForBridgePort }) => asksForBridgePort)
    )
  })
}
