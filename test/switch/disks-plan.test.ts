// What may be merged or removed: chosen situations, and the rules on thousands of made-up ones.

import t from 'tap'
import type { DiskLayer } from '../../src/hypervisor/hypervisor.js'
import { type MachineView, needed, plan, type World } from '../../switch/agent/disks/plan.js'
import fc from '../property.js'

/** `o2 o1 base`: top first. Names that begin with o are ours, with f fetched. */
function chainOf(text: string): DiskLayer[] {
  return text.split(' ').map((file) => ({ file, format: file === 'raw' ? 'raw' : 'qcow2' }))
}

interface Sketch {
  readonly machines: Readonly<Record<string, string>>
  readonly states?: Readonly<Record<string, MachineView['state']>>
  /** Chains that snapshots have frozen. */
  readonly frozen?: readonly string[]
  /** Further files, each with what it stands on. */
  readonly others?: Readonly<Record<string, string>>
  readonly open?: Readonly<Record<string, readonly number[]>>
  readonly kept?: readonly string[]
  /** Files that may be merged into. */
  readonly origins?: readonly string[]
}

function worldOf(sketch: Sketch): World {
  const { machines, states = {}, frozen = [], others = {}, open = {}, kept = [] } = sketch
  const origins = sketch.origins ?? ['base', 'mine', 'a0', 'a1']
  const chains = [...Object.values(machines), ...frozen].map(chainOf)
  const files = new Set([...chains.flat().map(({ file }) => file), ...Object.keys(others), ...kept])
  const backing = new Map<string, readonly string[]>()
  for (const chain of chains)
    for (const [at, { file }] of chain.slice(1).entries()) backing.set(chain[at]!.file, [file])
  for (const [file, base] of Object.entries(others)) if (base !== '') backing.set(file, [base])
  return {
    machines: Object.entries(machines).map(([vm, chain]) => ({
      vm,
      state: states[vm] ?? 'live',
      reason: null,
      disks: [{ name: 'd', chain: chainOf(chain) }],
      files: [],
    })),
    pins: new Map(frozen.flatMap((chain) => chainOf(chain).map(({ file }) => [file, 'a snapshot'] as const))),
    kept: new Map(kept.map((file) => [file, 'so it was said'])),
    made: new Set([...files].filter((file) => file.startsWith('o'))),
    origins: new Map(Object.keys(machines).map((vm) => [`${vm}/d`, new Set(origins)])),
    fetched: new Set([...files].filter((file) => file.startsWith('f'))),
    present: files,
    backing,
    open: new Map(Object.entries(open)),
  }
}

/** `a: o2 o1>base` for a merge of o2 and o1 into base. */
function outcome(sketch: Sketch): { merges: string[]; removals: readonly string[]; kept: readonly string[] } {
  const { collapses, removals, kept } = plan(worldOf(sketch))
  const merges = collapses.map(({ vm, chain, depth }) => {
    const names = chain.map(({ file }) => file)
    return `${vm}: ${names.slice(0, depth).join(' ')}>${names[depth]}`
  })
  return { merges, removals, kept: kept.map(({ file, reason }) => `${file}: ${reason}`) }
}

t.test('situations', async (t) => {
  const cases: [string, Sketch, Partial<ReturnType<typeof outcome>>][] = [
    ['all snapshots are deleted', { machines: { a: 'o3 o2 o1 base' } }, { merges: ['a: o3 o2 o1>base'], removals: [] }],
    ['the oldest is deleted', { machines: { a: 'o2 o1 base' }, frozen: ['o1 base'] }, { merges: [] }],
    ['the newest is deleted', { machines: { a: 'o3 o2 o1 base' }, frozen: ['base'] }, { merges: ['a: o3 o2>o1'] }],
    ['never below the user’s own overlay', { machines: { a: 'o1 mine golden' } }, { merges: ['a: o1>mine'] }],
    ['nor from it', { machines: { a: 'mine golden' } }, { merges: [], removals: [] }],
    ['nor into what was never its own', { machines: { a: 'o2 o1 golden' } }, { merges: ['a: o2>o1'], removals: [] }],
    ['fetched files are never written', { machines: { a: 'o2 o1 f2 f1' } }, { merges: ['a: o2>o1'], removals: [] }],
    [
      'nobody needs them any more',
      { machines: { a: 'base' }, others: { f1: '', f2: 'f1' } },
      { removals: ['f1', 'f2'] },
    ],
    [
      'a restore has left a timeline behind',
      { machines: { a: 'o3 base' }, frozen: ['base'], others: { o2: 'o1', o1: 'base' } },
      { merges: [], removals: ['o1', 'o2'] },
    ],
    [
      'a snapshot of that timeline is there yet',
      { machines: { a: 'o3 base' }, frozen: ['o1 base'], others: { o2: 'o1' } },
      { merges: [], removals: ['o2'] },
    ],
    [
      'the user has put an image of his own on one of ours',
      { machines: { a: 'o2 o1 base' }, others: { mine: 'o1' } },
      { merges: ['a: o2>o1'].slice(1), removals: [], kept: ['o2: mine stands on o1', 'o1: mine stands on o1'] },
    ],
    [
      'and on his own disk',
      { machines: { a: 'o1 base' }, others: { mine: 'base' } },
      { merges: [], kept: ['o1: mine stands on base'] },
    ],
    [
      'somebody else has the base open',
      { machines: { a: 'o1 base' }, open: { o1: [7], base: [7, 8] } },
      { merges: [], kept: ['o1: process 8 has base open'] },
    ],
    ['its own QEMU has', { machines: { a: 'o1 base' }, open: { o1: [7], base: [7] } }, { merges: ['a: o1>base'] }],
    [
      'a machine that is off, and yet somebody has its disk open',
      { machines: { a: 'o1 base' }, states: { a: 'off' }, open: { o1: [7] } },
      { merges: [], kept: ['o1: process 7 has o1 open'] },
    ],
    ['a machine that is off', { machines: { a: 'o1 base' }, states: { a: 'off' } }, { merges: ['a: o1>base'] }],
    [
      'one that cannot be asked',
      { machines: { a: 'o1 base' }, states: { a: 'unclear' } },
      { merges: [], removals: [] },
    ],
    [
      'two machines on one base',
      { machines: { a: 'o1 base', b: 'o2 base' } },
      { merges: [], kept: ['o1: machine b stands on base, too', 'o2: machine a stands on base, too'] },
    ],
    [
      'a file that somebody has open stays, with all below',
      { machines: { a: 'base' }, others: { o2: 'o1', o1: 'base' }, open: { o2: [9] } },
      { removals: [] },
    ],
    ['a machine on a frozen image', { machines: { a: 'base' }, frozen: ['base'] }, { merges: [], removals: [] }],
    ['what left its chain stays', { machines: { a: 'base' }, kept: ['o1'] }, { removals: [] }],
  ]
  for (const [what, sketch, expected] of cases) t.match(outcome(sketch), expected, what)
})

t.test('only chains that are long are made short, down to the user’s own image', async (t) => {
  const overlays = Array.from({ length: 17 }, (_, i) => `o${17 - i}`).join(' ')
  const found = (sketch: Sketch) => plan(worldOf(sketch)).shortenings.map(({ chain, depth }) => chain[depth]!.file)
  const frozen = [`${overlays.slice(4)} base golden`]
  t.same(found({ machines: { a: `${overlays} base golden` }, frozen }), ['base'])
  t.same(found({ machines: { a: `${overlays} f2 f1` }, frozen: [`${overlays.slice(4)} f2 f1`] }), ['f1'])
  t.same(found({ machines: { a: `${overlays} base` }, states: { a: 'off' }, frozen }), [], 'not with the machine off')
  t.same(found({ machines: { a: `${overlays.slice(4)} base golden` }, frozen }), [], 'a frozen image is not written')
  t.same(found({ machines: { a: 'o3 o2 o1 base' }, frozen: ['o2 o1 base'] }), [])
  t.same(found({ machines: { a: 'o2 f1 o1 base golden' } }), ['base'], 'it has come back to its own disk')
  t.same(found({ machines: { a: 'o2 f1 o1 base golden' }, frozen: ['base golden'] }), [], 'which a snapshot needs yet')
  t.same(found({ machines: { a: 'o2 f2 f1' } }), [], 'it lives here, on what it brought')
})

/** A history: snapshots, deletions and restores of one machine in any order, as chains. */
const steps = fc.array(fc.tuple(fc.constantFrom('create', 'delete', 'restore'), fc.nat(9)), { maxLength: 25 })

t.test('whatever the order, what is needed stays, and in the end the user’s own files', async () => {
  fc.assert(
    fc.property(steps, fc.boolean(), (history, tidiesAtOnce) => {
      let live = ['mine', 'golden']
      let count = 0
      const snapshots: string[][] = []
      const files = new Set(live)
      const backing = new Map([['mine', ['golden']]])
      /** What each file holds, as the writes that reached it: a merge carries them down. */
      const content = new Map<string, string[]>([
        ['mine', ['mine']],
        ['golden', ['golden']],
      ])
      const view = (chain: readonly string[]) =>
        [...chain]
          .reverse()
          .flatMap((file) => content.get(file)!)
          .join()
      const frozen: string[] = []
      const tidy = () => {
        for (let round = 0; ; round++) {
          if (round > 100) throw new Error('no end')
          const world: World = {
            ...worldOf({ machines: { a: live.join(' ') }, frozen: snapshots.map((chain) => chain.join(' ')) }),
            present: files,
            backing,
            made: new Set([...files].filter((file) => file.startsWith('o'))),
          }
          const { removals, collapses } = plan(world)
          for (const file of removals) {
            if (!file.startsWith('o')) throw new Error(`removes ${file}`)
            files.delete(file)
            backing.delete(file)
          }
          const [first] = collapses
          if (first === undefined) {
            if (removals.length === 0) return
            continue
          }
          const before = view(live)
          const target = live[first.depth]!
          for (const file of live.slice(0, first.depth).reverse()) content.get(target)!.push(...content.get(file)!)
          live = live.slice(first.depth)
          if (view(live) !== before) throw new Error('a merge has changed the disk')
        }
      }
      for (const [what, number] of history) {
        if (what === 'create') {
          snapshots.push(live)
          frozen.push(view(live))
        }
        const at = number % Math.max(1, snapshots.length)
        if (what === 'delete') {
          snapshots.splice(at, 1)
          frozen.splice(at, 1)
        }
        if (what === 'create' || (what === 'restore' && snapshots.length > 0)) {
          const base = what === 'create' ? live : snapshots[at]!
          const file = `o${++count}`
          files.add(file)
          backing.set(file, [base[0]!])
          content.set(file, [])
          live = [file, ...base]
        }
        content.get(live[0]!)!.push(`w${++count}`)
        if (tidiesAtOnce) tidy()
        for (const [i, chain] of snapshots.entries()) {
          if (chain.some((file) => !files.has(file))) throw new Error(`${chain} has lost a file`)
          if (view(chain) !== frozen[i]) throw new Error(`${chain} was changed`)
        }
      }
      snapshots.length = 0
      const last = view(live)
      tidy()
      if ([...files].sort().join() !== 'golden,mine') throw new Error(`left: ${[...files]}`)
      if (view(live) !== last || live.join() !== 'mine,golden') throw new Error('the disk is not up to date')
      if (content.get('golden')!.join() !== 'golden') throw new Error('the golden image was written')
    }),
    { numRuns: 3000 },
  )
})

const names = ['a0', 'a1', 'o1', 'o2', 'o3', 'o4', 'f1', 'f2']
const chain = fc.shuffledSubarray(names, { minLength: 1, maxLength: 5 }).map((all) => all.join(' '))
const sketches = fc.record({
  machines: fc.dictionary(fc.constantFrom('a', 'b', 'c'), chain, { maxKeys: 3 }),
  states: fc.dictionary(fc.constantFrom('a', 'b', 'c'), fc.constantFrom('live', 'off', 'unclear')),
  frozen: fc.array(chain, { maxLength: 3 }),
  others: fc.dictionary(fc.constantFrom(...names), fc.constantFrom(...names, ''), { maxKeys: 3 }),
  open: fc.dictionary(fc.constantFrom(...names), fc.uniqueArray(fc.nat(3), { maxLength: 2 })),
  kept: fc.subarray(names, { maxLength: 2 }),
  origins: fc.subarray(['a0', 'a1']),
})

t.test('rules that hold in any situation, also in impossible ones', async () => {
  fc.assert(
    fc.property(sketches, (sketch) => {
      const world = worldOf(sketch as Sketch)
      const { removals, collapses } = plan(world)
      const needs = needed(world)
      const bases = (file: string) => world.backing.get(file) ?? []
      const fault = (text: string): never => {
        throw new Error(text)
      }
      for (const file of removals) {
        if (!world.made.has(file) && !world.fetched.has(file)) fault(`${file} is the user’s`)
        if (world.pins.has(file) || needs.has(file)) fault(`${file} is needed`)
        for (const other of world.present)
          if (!removals.includes(other) && bases(other).includes(file)) fault(`${other} stands on ${file}`)
        if ((world.open.get(file) ?? []).length > 0) fault(`${file} is open`)
        for (const machine of world.machines)
          if (machine.disks.some((disk) => disk.chain.some((layer) => layer.file === file))) fault(`${file} is used`)
      }
      for (const { chain, depth, vm } of collapses) {
        const target = chain[depth]!.file
        const leaving = chain.slice(0, depth).map(({ file }) => file)
        if (world.machines.find((machine) => machine.vm === vm)?.state === 'unclear') fault('it cannot be asked')
        for (const file of [...leaving, target]) if (world.pins.has(file)) fault(`${file} is frozen`)
        if (world.fetched.has(target)) fault(`${target} was fetched`)
        if (!world.made.has(target) && !world.origins.get(`${vm}/d`)?.has(target)) fault(`${target} is others’`)
        for (const file of leaving) if (!world.made.has(file)) fault(`${file} is not ours, and would leave`)
        for (const other of world.present) {
          if (removals.includes(other) || leaving.includes(other)) continue
          if (bases(other).some((file) => leaving.includes(file) || file === target)) fault(`${other} stands on it`)
        }
      }
    }),
    { numRuns: 5000 },
  )
})
