// QEMU's answers about its block graph, as told apart: what stands on what, what a drive is to a snapshot, and why it
// is none.

import t from 'tap'
import { readDrives } from '../../src/hypervisor/shared/block-drives.js'
import { activeNodes, obstacleToMerge, readBlockGraph } from '../../src/hypervisor/shared/block-graph.js'
import { stateDetail } from '../../src/hypervisor/shared/qemu-state.js'

const here = (filename: string) => ({ path: filename })

type Edge = [parent: string, role: string, child: string, writes?: boolean]

/**
 * Answers of a QEMU with these nodes (driver, and what else it tells), drives and edges; `@x` is a backend, `!x` a job.
 */
function graphOf(nodes: Record<string, object>, drives: readonly object[], edges: readonly Edge[]) {
  const ids = new Map<string, number>()
  const idOf = (name: string) => ids.get(name) ?? ids.set(name, ids.size).size - 1
  const debugEdges = edges.map(([parent, name, child, writes = false]) => ({
    ...{ parent: idOf(parent), name, child: idOf(child), perm: writes ? ['write'] : ['consistent-read'] },
  }))
  const type = (name: string) =>
    name.startsWith('@') ? 'block-backend' : name.startsWith('!') ? 'block-job' : 'block-driver'
  const debugNodes = [...ids].map(([name, id]) => ({ id, name: name.replace(/^[@!]/, ''), type: type(name) }))
  const named = Object.entries(nodes).map(([name, more]) => ({ 'node-name': name, ro: false, ...more }))
  const block = drives.map((drive) => ({ removable: false, qdev: '', ...drive }))
  return readBlockGraph([block, named, { nodes: debugNodes, edges: debugEdges }])
}

const json = `json:${'x'.repeat(4090)}`
const chainNodes = {
  top: { drv: 'qcow2', file: json, image: { 'virtual-size': 7 } },
  topFile: { drv: 'file', file: '/top' },
  base: { drv: 'raw', file: '/base' },
  baseFile: { drv: 'file', file: '/base' },
}
const chainEdges: Edge[] = [
  ['@d', 'root', 'top', true],
  ['top', 'file', 'topFile', true],
  ['top', 'backing', 'base'],
  ['base', 'file', 'baseFile'],
]
const drive = (root: string, more: object = {}) => ({
  ...{ device: 'd', inserted: { 'node-name': root, ro: false }, ...more },
})

t.test('a chain, by its edges', (t) => {
  const graph = graphOf(chainNodes, [drive('top')], chainEdges)
  const { disks, unsupported, files } = readDrives(graph, here)
  t.match(disks, [
    {
      ...{ name: 'd', node: 'top', bytes: 7 },
      layers: [
        { file: '/top', format: 'qcow2' },
        { file: '/base', format: 'raw' },
      ],
    },
  ])
  t.same([unsupported, [...files].sort(), [...activeNodes(graph)]], [[], ['/base', '/top'], ['top']])
  const told = { ...chainNodes.top, children: [{ child: 'file', 'node-name': 'topFile' }] }
  const alone = readBlockGraph([
    [drive('top')],
    [
      { 'node-name': 'top', ...told },
      { 'node-name': 'topFile', ...chainNodes.topFile },
    ],
    null,
  ])
  t.match(readDrives(alone, here).disks, [{ layers: [{ file: '/top' }] }], 'QEMU 10.1 tells children with the nodes')
  t.match(
    readDrives(readBlockGraph([[drive('top')], [{ 'node-name': 'top', drv: 'qcow2' }], null]), here).unsupported,
    [{ name: 'd', reason: 'QEMU does not tell' }],
  )
  t.same(readDrives(readBlockGraph([null, undefined, 7]), here).disks, [])
  t.end()
})

t.test('more than any machine has is refused', (t) => {
  const many = (count: number, one: (at: number) => object) => Array.from({ length: count }, (_, at) => one(at))
  const drives = (count: number) => many(count, (at) => drive('top', { device: `d${at}` }))
  const nodes = (count: number) => many(count, (at) => ({ 'node-name': `n${at}`, drv: 'raw', file: `/${at}` }))
  const edges = (count: number) => ({
    nodes: many(2, (id) => ({ id, name: `n${id}`, type: 'block-driver' })),
    edges: many(count, () => ({ parent: 0, name: 'backing', child: 1, perm: [] })),
  })
  const refused = { code: 'HYPERVISOR_PROTOCOL' }
  t.throws(() => readBlockGraph([drives(1001), [], null]), refused)
  t.throws(() => readBlockGraph([[], nodes(4001), null]), refused)
  t.throws(() => readBlockGraph([[], [], edges(400_000)]), refused)
  const graph = readBlockGraph([drives(1000), nodes(4000), edges(16_000)])
  t.equal(graph.nodes.get('n1')?.parents.length, 16_000)

  const shared = graphOf(chainNodes, drives(1000), chainEdges)
  const { disks, unsupported } = readDrives(shared, here)
  t.same([disks.length, unsupported.length], [1000, 1000])
  t.equal(unsupported[7]?.reason, 'the drives d0 and d1 and d2 and … have one image')
  const long: Edge[] = Array.from({ length: 99 }, (_, at) => [`n${at}`, 'backing', `n${at + 1}`])
  const files = Object.fromEntries(many(100, () => ({ drv: 'file', file: '/f' })).map((node, at) => [`n${at}`, node]))
  t.equal(readDrives(graphOf(files, [drive('n0')], long), here).disks[0]?.layers.length, 100)
  const each = drives(1000).map((one) => ({ ...one, ...drive('n0') }))
  t.throws(() => readDrives(graphOf(files, each, long), here), refused, 'long chains times many drives')
  t.end()
})

t.test('why a drive cannot be snapshot', (t) => {
  const reason = (nodes: Record<string, object>, edges: readonly Edge[], root = 'top', drives = [drive(root)]) =>
    readDrives(graphOf({ ...chainNodes, ...nodes }, drives, [...chainEdges, ...edges]), here)
      .unsupported.map((one) => one.reason)
      .join()
  const on = (node: string, child: string, role = 'file'): Edge => [node, role, child, true]
  const backend = (root: string): Edge => ['@d', 'root', root, true]
  t.equal(reason({ t: { drv: 'throttle', file: json } }, [on('t', 'top'), backend('t')], 't'), '')
  t.match(reason({ c: { drv: 'copy-on-read' } }, [on('c', 'top')], 'c'), 'a filter of the kind copy-on-read')
  t.match(reason({ q: { drv: 'quorum' } }, [on('q', 'top', 'children.0')], 'q'), 'quorum')
  t.match(reason({ n: { drv: 'nbd', file: 'nbd://x' } }, [], 'n'), 'behind QEMU’s driver nbd')
  t.match(
    reason({ base: { drv: 'raw', file: 'n' }, baseFile: { drv: 'nbd' } }, []),
    'driver nbd',
    'anywhere in the chain',
  )
  t.match(reason({ base: { drv: 'vmdk', file: '/v' } }, []), '/v has the format vmdk')
  t.match(reason({ base: { drv: 'raw', file: json } }, []), 'it is a part of /base')
  t.match(reason({ baseFile: { drv: 'host_device', file: '/dev/sdb' } }, []), '/dev/sdb is a device of the host')
  t.match(reason({ top: { ...chainNodes.top, encrypted: true } }, []), '/top is encrypted')
  t.match(reason({ x: { drv: 'nbd', file: 'nbd' } }, [on('top', 'x', 'data-file')]), 'the data file of /top')
  t.match(reason({}, [['@', 'root', 'top', true]]), 'something besides its device writes to it (an export)')
  t.equal(reason({}, [['@', 'root', 'top', false]]), '')
  t.match(reason({}, [['!backup', 'main node', 'top']]), 'the block job backup works on it')
  const merging: Edge[] = [on('m', 'top', 'backing'), backend('m'), ['!snapswitch-1', 'main node', 'm']]
  t.equal(reason({ m: { drv: 'mirror_top' } }, merging, 'm'), '', 'a merge of our own is called off in time')
  const streaming: Edge[] = [on('c', 'top'), backend('c'), ['!snapswitch-1', 'main node', 'c']]
  t.equal(reason({ c: { drv: 'copy-on-read' } }, streaming, 'c'), '', 'likewise')
  t.equal(reason({ m: { drv: 'mirror_top' } }, merging), '', 'also where QEMU does not show its filter')
  t.equal(reason({ c: { drv: 'copy-on-read' } }, streaming), '')
  t.match(
    reason({ m: { drv: 'mirror_top' } }, [...merging.slice(0, 2), ['!other', 'main node', 'm']]),
    'something besides its device writes to it (m)',
  )
  t.match(reason({ m: { drv: 'commit_top' } }, merging.slice(0, 2), 'm'), 'a block job works on it')
  const twice = [drive('top'), drive('top', { device: 'e' })]
  t.match(reason({}, [['@e', 'root', 'top', true]], 'top', twice), 'the drives d and e have one image')
  t.match(reason({ again: { drv: 'file', file: '/base' } }, []), 'open twice, and writes to it')
  t.equal(
    reason({ again: { drv: 'file', file: '/base', ro: true }, baseFile: { ...chainNodes.baseFile, ro: true } }, []),
    '',
  )
  const bitmap = {
    'dirty-bitmaps': [{ name: 'b0' }],
    image: { 'format-specific': { data: { bitmaps: [{ name: 'b1' }] } } },
  }
  t.match(reason({ top: { ...chainNodes.top, ...bitmap } }, []), 'dirty bitmaps b0, b1')
  t.equal(reason({ base: { ...chainNodes.base, ...bitmap } }, []), '', 'of a layer that is not written')
  t.end()
})

t.test('media and empty drives', (t) => {
  const ro = { inserted: { 'node-name': 'base', ro: true } }
  const drives = [
    drive('base', { ...ro, removable: true }),
    { device: '', qdev: 'cd', removable: true },
    { device: 'nothing' },
    drive('n', { device: 'far', inserted: { 'node-name': 'n', ro: true } }),
  ]
  const graph = graphOf({ ...chainNodes, n: { drv: 'https', file: 'https://x' } }, drives, chainEdges)
  const { media, unsupported, warnings } = readDrives(graph, here)
  t.same(media, [
    { name: 'd', file: '/base', format: 'raw', removable: true },
    { name: 'cd', file: null, format: 'raw', removable: true },
  ])
  t.same(unsupported, [])
  t.match(warnings, ['drive far is read-only and no snapshot can name it'])
  t.end()
})

t.test('what a merge would lose, and why a machine does not run', (t) => {
  const merge = (more: object, edges: Edge[] = []) =>
    obstacleToMerge(
      graphOf({ ...chainNodes, top: { ...chainNodes.top, ...more } }, [], [...chainEdges, ...edges]),
      'top',
    )
  t.equal(merge({}), null)
  t.match(merge({ image: { snapshots: [{ name: 's', id: '1' }] } }), 'internal snapshot s')
  t.match(merge({ 'dirty-bitmaps': [{ name: 'b' }] }), 'dirty bitmap b')
  t.match(merge({ encrypted: true }), 'encrypted')
  t.match(merge({}, [['top', 'data-file', 'baseFile']]), 'data file')
  t.match(obstacleToMerge(graphOf({}, [], []), 'x'), 'no block node x')
  const { drives } = graphOf(
    {},
    [
      { device: 'd', 'io-status': 'nospace' },
      { device: 'e', 'io-status': 'ok' },
    ],
    [],
  )
  t.match(stateDetail('io-error', drives), 'no space left for drive d')
  t.match(stateDetail('restore-vm', drives), 'loadvm')
  t.match(stateDetail('other', drives), 'other')
  t.equal(stateDetail('running', drives), null)
  t.end()
})
