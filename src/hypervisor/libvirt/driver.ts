// The `libvirt` driver: domains of a libvirtd on this host. All of libvirt's code runs in a process of its own
// (libvirt/libvirt-process.ts): what goes wrong in there costs a snapshot, never the network.

import { type Static, Type } from '@sinclair/typebox'
import { asSnapswitchError } from '../../errors/errors.js'
import type { Driver } from '../driver.js'
import type { CaptureMode, Hypervisor, MachineDefinition, MachineSpec } from '../hypervisor.js'
import { within } from '../shared/deadline.js'
import { ImageWriter } from '../shared/image-writer.js'
import { endLoad, examine, loadDomain } from './load.js'
import { LibvirtMachine, type LibvirtSettings } from './machine.js'
import { LibvirtProcess } from './process-handle.js'
import { findDomain, recognize } from './recognize.js'
import type { DomainAddress, DomainLoad, LibvirtDefinition, LibvirtSpec } from './types.js'

const defaultUri = 'qemu:///system'
/** The first question starts the process that talks to libvirt. */
const PROBE_MS = 5000

export interface LibvirtOptions {
  /** Of domains whose spec has none, and of those that are loaded. Default: qemu:///system. */
  readonly uri?: string
  /** How memory is saved at best, in this order: `background`, `precopy`, `stopped`. The first by default. */
  readonly atBest?: CaptureMode
  /** False: libvirt's disk snapshot comes into the pause even where disks can be copied. For comparison and tests. */
  readonly copyDisks?: boolean
}

export interface LibvirtHypervisor extends Hypervisor<MachineSpec, MachineDefinition, DomainLoad> {
  /** The process that has libvirt loaded, while it runs. */
  readonly pid: number | null
}

/** Needs root. Starts nothing until it is used; what it starts then ends with this process. */
export function createLibvirtHypervisor(options: LibvirtOptions = {}): LibvirtHypervisor {
  const settings: LibvirtSettings = {
    process: new LibvirtProcess(),
    writer: new ImageWriter(),
    uri: options.uri ?? defaultUri,
    atBest: options.atBest ?? 'background',
    copyDisks: options.copyDisks ?? true,
  }
  return {
    get pid() {
      return settings.process.pid
    },
    attach: (name, { libvirt }, deadline) => LibvirtMachine.attach(name, libvirt, settings, deadline),
    async isThere(name, { libvirt }) {
      try {
        await (await LibvirtMachine.attach(name, libvirt, settings, within(PROBE_MS))).close()
        return true
      } catch (thrown) {
        const { code } = asSnapswitchError(thrown)
        return code !== 'MACHINE_UNKNOWN' && code !== 'MACHINE_NOT_RUNNING'
      }
    },
    locate: async (holder, title, deadline) => ({
      libvirt: await findDomain(settings.process, holder, title, settings.uri, deadline),
    }),
    load: (request, deadline) => loadDomain(request, settings, deadline),
    examine: (definition, deadline) => examine(definition, settings, deadline),
    endLoad: (load, deadline) => endLoad(load, settings, deadline),
  } satisfies Hypervisor<LibvirtSpec, LibvirtDefinition, DomainLoad> & Pick<LibvirtHypervisor, 'pid'>
}

const closed = { additionalProperties: false } as const

const Options = Type.Object(
  {
    uri: Type.String({
      default: defaultUri,
      description: 'the libvirtd of domains that name none, and where restores put them',
    }),
  },
  { ...closed, default: {} },
)

export const libvirt = {
  kind: 'libvirt',
  key: 'libvirt',
  /** By its name. */
  address: Type.Object(
    {
      domain: Type.String({ minLength: 1, description: 'the domain’s name' }),
      uri: Type.Optional(Type.String({ minLength: 1, description: 'its libvirtd; default: `libvirt.uri` below' })),
    },
    closed,
  ),
  example: '{ domain: NAME }',
  /** Where restores put domains, and where machines are that name no `uri`. */
  options: Options,
  create: (options, memory) => createLibvirtHypervisor({ ...options, atBest: memory }),
  recognize,
  isSame: (one, other) => one.domain === other.domain && (one.uri ?? defaultUri) === (other.uri ?? defaultUri),
  inWords: ({ domain }) => `libvirt ${domain}`,
  whatToLookAt: ({ domain }) =>
    `See whether \`virsh domstate ${domain}\` answers there, and whether another job holds the domain (\`virsh domjobinfo ` +
    `${domain}\`); libvirtd may have too much to do. Then try again.`,
  resumeByHand: ({ domain }) => `\`virsh resume ${domain}\``,
  // It has one name and one UUID.
  beside: { impossible: 'domains of libvirt cannot be loaded beside themselves' },
  marks: { domain: Type.String() },
  marksOf: ({ domain }) => ({ domain }),
  directoryOf: () => null,
  whyNotMergedOff: (machine) => `the domain of ${machine} does not run: its disks are merged when it does`,
} as const satisfies Driver<DomainAddress, LibvirtDefinition, { readonly domain: string }, Static<typeof Options>>
