// The programs of the fast path and their maps, loaded. The control thread does that: a kernel that is busy may take
// half a second for it, and frames do not wait. Descriptors are all that the datapath needs of them.

import { SnapswitchError } from '../../../src/errors/errors.js'
import { createMapOf, loadCode, MapType, ProgramType } from '../../../src/linux/bpf.js'
import { kernelIsAtLeast } from '../../../src/linux/kernel.js'
import { libc } from '../../../src/linux/libc.js'
import {
  kernelIsRealTime,
  onlineProcessors,
  possibleProcessors,
  visit,
  waitForReaders,
} from '../../../src/linux/processors.js'
import { MAX_PORTS } from '../../forwarding/counters.js'
import {
  COUNTS,
  DEVICE_WORDS,
  DEVICES,
  KEY_LENGTH,
  PORT_WORDS,
  type Programs,
  RUN_WORDS,
  VERDICT_LENGTH,
  VERDICTS,
} from './layout.js'
import { object } from './object.js'

const shapes = (processors: number) =>
  ({
    ports: { type: MapType.ARRAY, key: 4, value: MAX_PORTS * PORT_WORDS * 4, entries: 1, mapped: true },
    devices: { type: MapType.ARRAY, key: 4, value: DEVICES * DEVICE_WORDS * 4, entries: 1, mapped: true },
    runs: { type: MapType.ARRAY, key: 4, value: RUN_WORDS * 4, entries: processors, mapped: true },
    counters: { type: MapType.ARRAY, key: 4, value: MAX_PORTS * COUNTS * 8, entries: processors, mapped: true },
    verdicts: { type: MapType.HASH, key: KEY_LENGTH, value: VERDICT_LENGTH, entries: VERDICTS },
    others: { type: MapType.PROGRAMS, key: 4, value: 4, entries: MAX_PORTS },
  }) as const

/** Of these, programs have the place of the value itself. */
const DIRECT: readonly string[] = ['ports', 'devices']

/** Why this machine has no fast path, in words that are its user's; null: nothing speaks against trying. */
function unfit(): string | null {
  if (!kernelIsAtLeast(5, 12)) return 'kernel before 5.12'
  if (kernelIsRealTime()) return 'the kernel is one of PREEMPT_RT'
  if (process.arch !== 'x64') return `it has not been tried on ${process.arch}`
  return visit(onlineProcessors()) || waitForReaders() ? null : 'the kernel does not tell when frames are through'
}

/** Throws PERMISSION, SYSCALL, or a reason in words: nothing is open then. */
export function loadPrograms(): Programs {
  const why = unfit()
  if (why !== null) throw new Error(why)
  const processors = possibleProcessors()
  const opened: number[] = []
  const open = (fd: number) => {
    opened.push(fd)
    return fd
  }
  try {
    const wanted = Object.entries(shapes(processors))
    const made = wanted.map(([name, shape]) => [name, open(createMapOf({ ...shape, name: `ssw_${name}` }))])
    const maps: Programs['maps'] = Object.fromEntries(made)
    const decide = open(loadEmbedded('decide', ProgramType.SOCKET_FILTER, maps))
    const act = open(loadEmbedded('act', ProgramType.SCHED_CLS, maps))
    const actEarly = open(loadEmbedded('actEarly', ProgramType.SCHED_CLS, maps))
    const actInBridge = open(loadEmbedded('actInBridge', ProgramType.SCHED_CLS, maps))
    return { processors, decide, act, actEarly, actInBridge, maps }
  } catch (error) {
    for (const fd of opened) libc().close(fd)
    if (error instanceof SnapswitchError && error.code === 'PERMISSION')
      throw new Error(`BPF programs may not be loaded here, which takes CAP_BPF and CAP_NET_ADMIN (${error.message})`)
    throw error
  }
}

/** Those that are attached stay so. */
export function closePrograms({ decide, act, actEarly, actInBridge, maps }: Programs): void {
  for (const fd of [act, actEarly, actInBridge, decide, ...Object.values(maps)]) libc().close(fd)
}

/** Why this machine has no fast path; null: it has. */
export function fastPathTrouble(): string | null {
  try {
    closePrograms(loadPrograms())
    return null
  } catch (thrown) {
    return thrown instanceof Error ? thrown.message : String(thrown)
  }
}

function loadEmbedded(name: keyof typeof object, type: number, maps: Readonly<Record<string, number>>): number {
  const { code, maps: places } = object[name]
  const bytes = new Uint8Array(Buffer.from(code.join(''), 'base64'))
  const view = new DataView(bytes.buffer)
  for (const [at, map] of places) {
    // BPF_PSEUDO_MAP_VALUE or BPF_PSEUDO_MAP_FD in the upper half of the registers' byte.
    bytes[at + 1] = (bytes[at + 1]! & 0x0f) | (DIRECT.includes(map) ? 0x20 : 0x10)
    // Where in the value.
    view.setInt32(at + 12, view.getInt32(at + 4, true), true)
    view.setInt32(at + 4, maps[map]!, true)
  }
  return loadCode(type, bytes, 'MIT', `load the fast path (${name})`, `ssw_${name}`)
}
