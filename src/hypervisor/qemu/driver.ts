// The `qemu` driver: machines that run as plain QEMU processes with a QMP socket.

import { connect } from 'node:net'
import path from 'node:path'
import { Type } from '@sinclair/typebox'
import { AbsolutePath } from '../../api/schemas/basic.js'
import type { Driver } from '../driver.js'
import type { CaptureMode, Hypervisor } from '../hypervisor.js'
import { ImageWriter } from '../shared/image-writer.js'
import { heldAlone } from './beside.js'
import { endLoad, loadMachine } from './load.js'
import { QemuMachine } from './machine.js'
import { tapNeeds } from './nics.js'
import { recognize } from './recognize.js'
import type { QemuDefinition, QemuSpec } from './types.js'

export interface QemuOptions {
  /** How memory is saved at best, in this order: `background`, `precopy`, `stopped`. The first by default. */
  readonly atBest?: CaptureMode
  /** False: the migration is not started ahead of the pause, even where QEMU allows it. For comparison and tests. */
  readonly startAhead?: boolean
}

/** Needs root, or the same user as the machines. Starts nothing until it is used. */
export function createQemuHypervisor(options: QemuOptions = {}): Hypervisor {
  const writer = new ImageWriter()
  const settings = { writer, atBest: options.atBest ?? 'background', startAhead: options.startAhead ?? true }
  return {
    attach: (name, { qmp }, deadline) => QemuMachine.attach(name, qmp, settings, deadline),
    isThere: (_name, { qmp }) => answers(qmp),
    load: (request, deadline) => loadMachine(request, settings, deadline),
    endLoad,
  } satisfies Hypervisor<QemuSpec, QemuDefinition>
}

const PROBE_MS = 500

/** Nobody listens on the socket of a process that has ended. */
function answers(qmp: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ path: qmp })
    const answer = (there: boolean) => {
      socket.destroy()
      resolve(there)
    }
    // A full backlog or a socket that hangs belongs to a process that is there.
    socket.setTimeout(PROBE_MS, () => answer(true))
    socket.on('connect', () => answer(true))
    socket.on('error', (error: NodeJS.ErrnoException) =>
      answer(error.code !== 'ENOENT' && error.code !== 'ECONNREFUSED'),
    )
  })
}

export const qemu = {
  kind: 'qemu',
  key: 'qmp',
  /** Its QMP socket. */
  address: AbsolutePath,
  example: '/path/of/its/qmp.sock',
  options: null,
  create: (_, memory) => createQemuHypervisor({ atBest: memory }),
  recognize,
  isSame: (one, other) => one === other,
  inWords: (qmp) => qmp,
  whatToLookAt: (qmp) =>
    `See whether its QEMU stands still, or another program is connected to ${qmp} (QEMU serves one client per ` +
    'socket); then try again.',
  resumeByHand: (qmp) => `\`cont\` in QEMU’s monitor, or over ${qmp}`,
  beside: { tapNeeds: ({ argv }) => tapNeeds(argv), heldAlone, rehearsed: { domain: null } },
  // Of records that domains have, too.
  marks: { domain: Type.Null() },
  marksOf: () => ({ domain: null }),
  // Its socket lies there, and the machine writes to it as long as it runs.
  directoryOf: (qmp) => path.dirname(qmp),
  whyNotMergedOff: () => null,
} as const satisfies Driver<string, QemuDefinition, { readonly domain: null }>
