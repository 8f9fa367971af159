// QEMU's block graph as its monitor tells it: nodes, what stands on what, and who else uses them. The `filename`s of
// format nodes are for people (QEMU cuts them at 4096 bytes); children are read from the graph's edges, files from its
// protocol nodes. Pure, but for asking.

import { SnapswitchError } from '../../errors/errors.js'
import type { Deadline } from '../hypervisor.js'
import { checkCount, isObject, type JsonObject } from './qmp-messages.js'

/** `readBlockGraph` reads the answers, in this order. */
export const blockGraphQueries: readonly (readonly [string, JsonObject])[] = [
  ['query-block', {}],
  ['query-named-block-nodes', { flat: true }],
  ['x-debug-query-block-graph', {}],
]

/** Who uses a node: a device's backend (or an export's), another node, or a block job. */
export interface BlockParent {
  readonly kind: 'backend' | 'node' | 'job'
  readonly name: string
  readonly writes: boolean
}

export interface BlockNode {
  readonly name: string
  readonly driver: string
  /** For people, but for protocol nodes: there it is the file's path as QEMU was given it. */
  readonly filename: string
  readonly readOnly: boolean
  readonly bytes: number
  readonly encrypted: boolean
  readonly cache: { readonly direct: boolean; readonly noFlush: boolean }
  readonly detectZeroes: string
  readonly internalSnapshots: readonly string[]
  /** Dirty bitmaps, those in the file that are not loaded included. */
  readonly bitmaps: readonly string[]
  /** By the role they have: `file`, `backing`, `data-file`, … */
  readonly children: ReadonlyMap<string, string>
  readonly parents: readonly BlockParent[]
}

export interface BlockDrive {
  /** The backend's own name; else the device's id or QOM path; else the node's. */
  readonly name: string
  /** The device that it belongs to, by id or QOM path; null for a drive without one. */
  readonly qdev: string | null
  readonly removable: boolean
  readonly readOnly: boolean
  /** `ok`, `failed` or `nospace`, where the device keeps count. */
  readonly ioStatus: string | null
  /** null: nothing is in it. */
  readonly root: string | null
}

export interface BlockGraph {
  readonly nodes: ReadonlyMap<string, BlockNode>
  readonly drives: readonly BlockDrive[]
}

const list = (value: unknown): JsonObject[] => (Array.isArray(value) ? value.filter(isObject) : [])
const text = (value: unknown): string | null => (typeof value === 'string' && value !== '' ? value : null)

function readEdges(answer: unknown) {
  const children = new Map<string, Map<string, string>>()
  const parents = new Map<string, BlockParent[]>()
  const byId = new Map<unknown, { name: string; type: unknown }>()
  const debug = isObject(answer) ? answer : {}
  for (const { id, name, type } of list(debug.nodes)) byId.set(id, { name: String(name), type })
  for (const edge of list(debug.edges)) {
    const parent = byId.get(edge.parent)
    const child = byId.get(edge.child)
    if (parent === undefined || child === undefined) continue
    const kind = parent.type === 'block-driver' ? 'node' : parent.type === 'block-job' ? 'job' : 'backend'
    if (kind === 'node') {
      const roles = children.get(parent.name) ?? new Map<string, string>()
      children.set(parent.name, roles.set(String(edge.name), child.name))
    }
    const writes = Array.isArray(edge.perm) && edge.perm.includes('write')
    const all = parents.get(child.name) ?? []
    all.push({ kind, name: parent.name, writes })
    parents.set(child.name, all)
  }
  return { children, parents }
}

function readNode(node: JsonObject, children: ReadonlyMap<string, string>, parents: readonly BlockParent[]): BlockNode {
  const image = isObject(node.image) ? node.image : {}
  const specific = isObject(image['format-specific']) ? image['format-specific'] : {}
  const stored = isObject(specific.data) ? list(specific.data.bitmaps) : []
  const bitmaps = [...list(node['dirty-bitmaps']), ...stored].flatMap(({ name }) => text(name) ?? [])
  const cache = isObject(node.cache) ? node.cache : {}
  return {
    name: String(node['node-name']),
    driver: String(node.drv),
    filename: text(node.file) ?? '',
    readOnly: node.ro === true,
    bytes: typeof image['virtual-size'] === 'number' ? image['virtual-size'] : 0,
    encrypted: node.encrypted === true || image.encrypted === true,
    cache: { direct: cache.direct === true, noFlush: cache['no-flush'] === true },
    detectZeroes: text(node.detect_zeroes) ?? 'off',
    internalSnapshots: list(image.snapshots).map(({ name, id }) => text(name) ?? String(id)),
    bitmaps: [...new Set(bitmaps)],
    children,
    parents,
  }
}

function readDrive(device: JsonObject): BlockDrive[] {
  const inserted = isObject(device.inserted) ? device.inserted : null
  const root = text(inserted?.['node-name'])
  const name = text(device.device) ?? text(device.qdev) ?? root
  if (name === null) return []
  return [
    {
      name,
      qdev: text(device.qdev),
      removable: device.removable === true,
      readOnly: inserted?.ro === true,
      ioStatus: text(device['io-status']),
      root,
    },
  ]
}

/** More than any machine has: a chain is at most some dozens of images, and an image two nodes. */
const most = { drives: 1000, nodes: 4000, edges: 16_000 } as const

/** `answers`: those of `blockGraphQueries`. Throws HYPERVISOR_PROTOCOL. */
export function readBlockGraph([block, named, edges]: readonly unknown[]): BlockGraph {
  checkCount('block drives', list(block).length, most.drives)
  checkCount('block nodes', list(named).length, most.nodes)
  checkCount('block edges', isObject(edges) ? list(edges.edges).length : 0, most.edges)
  const { children, parents } = readEdges(edges)
  const nodes = new Map<string, BlockNode>()
  for (const node of list(named)) {
    const name = String(node['node-name'])
    // QEMU 10.1 and later tell a node's children here.
    const told = list(node.children).map((child) => [String(child.child), String(child['node-name'])] as const)
    const own = children.get(name) ?? new Map(told)
    nodes.set(name, readNode(node, own, parents.get(name) ?? []))
  }
  return { nodes, drives: list(block).flatMap(readDrive) }
}

/** Asks a QEMU. */
export async function askBlockGraph(monitor: Monitor, deadline: Deadline): Promise<BlockGraph> {
  const [block, nodes, edges] = monitor.executeAll(blockGraphQueries, deadline)
  return readBlockGraph(await Promise.all([block, nodes, edges?.catch(notKnown)]))
}

/** A QEMU that tells children with the nodes may do without the debugging command. */
function notKnown(error: unknown): null {
  if (error instanceof SnapswitchError && error.code === 'HYPERVISOR_REFUSED') return null
  throw error
}

/** What it takes of a QMP client. */
export interface Monitor {
  executeAll(commands: readonly (readonly [string, JsonObject])[], deadline: Deadline): readonly Promise<unknown>[]
}

/** The node's child in a role, or null. */
export function childOf(graph: BlockGraph, node: BlockNode, role: string): BlockNode | null {
  const name = node.children.get(role)
  return name === undefined ? null : (graph.nodes.get(name) ?? null)
}

/** Block jobs of this program are named so. */
export const ownJobs = 'snapswitch-'

/** Filters of block jobs: they come and go with the job. */
export const jobFilters: ReadonlySet<string> = new Set(['mirror_top', 'commit_top', 'backup-top', 'copy-before-write'])

/**
 * Filters that a snapshot can look through. A block-stream has one for copying on reads; a user's own is refused
 * elsewhere.
 */
const transparent = new Set(['throttle', 'copy-on-read', ...jobFilters])

/** A filter stands on one child, in one of two roles. */
export const filtered = (graph: BlockGraph, node: BlockNode): BlockNode | null =>
  childOf(graph, node, 'file') ?? childOf(graph, node, 'backing')

/**
 * Filters that block jobs of ours have put on a node. QEMU does not show them in a drive, since they are nobody's
 * (query-block leaves implicit filters out).
 */
export function ownFilters(graph: BlockGraph, node: BlockNode): BlockNode[] {
  const found = node.parents.flatMap(({ kind, name }) => (kind === 'node' ? (graph.nodes.get(name) ?? []) : []))
  return found.filter(({ driver, parents }) => {
    const jobs = parents.filter(({ kind }) => kind === 'job')
    return transparent.has(driver) && jobs.length > 0 && jobs.every(({ name }) => name.startsWith(ownJobs))
  })
}

/** The image node below a drive's filters: what a snapshot puts an overlay on. */
export function imageNode(graph: BlockGraph, root: BlockNode): BlockNode {
  let node = root
  for (let i = 0; transparent.has(node.driver) && i < graph.nodes.size; i++) {
    const below = filtered(graph, node)
    if (below === null) return node
    node = below
  }
  return node
}

/** The image nodes that the machine's drives write to now; with every overlay they change. */
export function activeNodes(graph: BlockGraph): Set<string> {
  const active = new Set<string>()
  for (const { root } of graph.drives) {
    const node = root === null ? undefined : graph.nodes.get(root)
    if (node !== undefined) active.add(imageNode(graph, node).name)
  }
  return active
}

const named = (what: string, names: readonly string[]) =>
  `${what}${names.length === 1 ? '' : 's'} ${names.slice(0, 3).join(', ')}${names.length > 3 ? ', …' : ''}`

/** Why what a dirty bitmap says would be wrong once the guest writes elsewhere; null when the image has none. */
export function bitmapObstacle({ bitmaps }: BlockNode): string | null {
  if (bitmaps.length === 0) return null
  return `it has the ${named('dirty bitmap', bitmaps)}, which would no longer tell what the guest changes`
}

/**
 * Why an image must not be merged into what it stands on and removed: it has something that a block commit does not
 * carry. null: it may be.
 */
export function obstacleToMerge(graph: BlockGraph, node: string): string | null {
  const image = graph.nodes.get(node)
  if (image === undefined) return `QEMU has no block node ${node}`
  const { internalSnapshots, bitmaps } = image
  if (internalSnapshots.length > 0) return `it holds ${named('internal snapshot', internalSnapshots)} (savevm)`
  if (bitmaps.length > 0) return `it holds ${named('dirty bitmap', bitmaps)} of a backup program`
  if (image.encrypted) return 'it is encrypted, and what it stands on may not be'
  if (image.children.has('data-file')) return 'it has an external data file'
  return null
}

/** What a snapshot means for an image's internal snapshots; null when it has none. */
export function internalSnapshotsWarning(drive: string, { internalSnapshots }: BlockNode): string | null {
  if (internalSnapshots.length === 0) return null
  return (
    `drive ${drive} has the ${named('internal snapshot', internalSnapshots)}: while the snapshot exists the hypervisor ` +
    'cannot load them (a `loadvm` fails, and leaves the guest stopped)'
  )
}
