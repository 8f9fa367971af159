// `snapswitch doctor`: what this machine has of what snapswitch can use, and what each lack costs.

import { access, constants, open, readFile } from 'node:fs/promises'
import { release } from 'node:os'
import type { Command } from 'commander'
import { probeLibvirt } from '../hypervisor/libvirt/probe.js'
import {
  type Finding as ProbeFinding,
  probeKvmRuns,
  probeQemu,
  probeQemuImg,
  probeUserfaultfd,
} from '../hypervisor/shared/probe.js'
import { egressProgramTrouble, kernelCanBeToldOfTunnels } from '../linux/egress-program.js'
import { kernelIsAtLeast } from '../linux/kernel.js'
import { closeRingFilters, ringFilters } from '../linux/ring-filters.js'
import { leastNode } from '../runtime/package.js'
import { type CommonOptions, withJson } from './options.js'
import { formatTable, printJson, type Terminal } from './output.js'

export interface Finding {
  readonly what: string
  readonly ok: boolean
  /** Without it snapswitch cannot do its work at all; otherwise it does it slower or less of it. */
  readonly required: boolean
  /** What was found. */
  readonly detail: string
  /** What the lack costs, and how to mend it; empty when all is well. */
  readonly cost: string
}

export function addDoctorCommand(program: Command, terminal: Terminal, setCode: (code: number) => void): void {
  withJson(program.command('doctor'))
    .description('check kernel, capabilities, QEMU, userfaultfd, KVM and libvirt, and say what each lack costs')
    .addHelpText('after', '\nChanges nothing. The exit code is 1 only when something required is lacking.')
    .action(async (options: CommonOptions) => {
      const findings = await examine()
      if (options.json === true) printJson(terminal, { ok: isFit(findings), findings })
      else terminal.out(describe(findings))
      setCode(isFit(findings) ? 0 : 1)
    })
}

export function isFit(findings: readonly Finding[]): boolean {
  return findings.every((finding) => finding.ok || !finding.required)
}

export function describe(findings: readonly Finding[]): string {
  const verdict = (f: Finding) => (f.ok ? 'ok' : f.required ? 'LACKS' : 'lacks')
  const table = formatTable(
    ['', 'WHAT', 'FOUND'],
    findings.map((f) => [verdict(f), f.what, f.detail]),
  )
  const costs = findings.filter((f) => !f.ok).map((f) => `${f.what}: ${f.cost}\n`)
  const summary = isFit(findings)
    ? 'This machine can run snapswitch.\n'
    : 'This machine cannot run snapswitch until what is marked LACKS is mended.\n'
  return [table, '\n', ...costs, summary].join('')
}

/** Examines this machine; no probe waits longer than 20 s. */
export async function examine(): Promise<Finding[]> {
  const groups = await Promise.all([
    nodeVersion(),
    kernelVersion(),
    capabilities(),
    tunDevice(),
    packetSockets(),
    fastPath(),
    qemu(),
    qemuImg(),
    userfaultfd(),
    kvm(),
    libvirt(),
    lockedMemory(),
  ])
  return groups.flat()
}

function finding(what: string, ok: boolean, detail: string, required: boolean, cost: string): Finding {
  return { what, ok, required, detail, cost: ok ? '' : cost }
}

function nodeVersion(): Finding[] {
  const { node } = process.versions
  return [finding('Node.js', isNewEnough(node), node, true, `version ${leastNode} or later is needed; install it.`)]
}

/** Whether a version of Node.js will do. */
export function isNewEnough(version: string): boolean {
  return version.localeCompare(leastNode, 'en', { numeric: true }) >= 0
}

function kernelVersion(): Finding[] {
  const found = release()
  return [
    finding(
      'kernel',
      kernelIsAtLeast(5, 7, found),
      found,
      true,
      '5.7 or later is needed (userfaultfd write protection, packet sockets).',
    ),
  ]
}

const wanted = [
  { bit: 12, name: 'CAP_NET_ADMIN', cost: 'no port can be opened and no tap made; run as root.' },
  { bit: 13, name: 'CAP_NET_RAW', cost: 'no packet socket can be opened; run as root.' },
  { bit: 21, name: 'CAP_SYS_ADMIN', cost: 'machines of other users cannot be reached; run as root.' },
] as const

async function capabilities(): Promise<Finding[]> {
  const status = await readFile('/proc/self/status', 'utf8')
  const mask = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0'}`)
  return wanted.map(({ bit, name, cost }) => {
    const has = ((mask >> BigInt(bit)) & 1n) === 1n
    return finding(name, has, has ? 'effective' : 'not effective', name !== 'CAP_SYS_ADMIN', cost)
  })
}

async function tunDevice(): Promise<Finding[]> {
  const detail = await openable('/dev/net/tun')
  return [
    finding(
      '/dev/net/tun',
      detail === null,
      detail ?? 'can be opened',
      true,
      'no tap devices: load it with `modprobe tun`, or give the container the device.',
    ),
  ]
}

/** What packet sockets can hand over of frames that their senders leave to be cut up (docs/internals/forwarding.md). */
function packetSockets(): Finding[] {
  const filters = ringFilters() !== null
  closeRingFilters()
  const segments = kernelIsAtLeast(6, 2)
  const tunnels = !kernelCanBeToldOfTunnels() ? 'kernel before 5.13' : egressProgramTrouble()
  return [
    finding(
      'BPF socket filters',
      filters,
      filters ? 'can be loaded' : 'bpf(2) is refused',
      false,
      'a datagram that a guest leaves to be fragmented (UFO) is lost, with up to 200 ms of what follows; allow CAP_BPF, or switch it off: host_ufo=off.',
    ),
    finding(
      'UDP segmentation',
      segments,
      segments ? 'kernel 6.2 or later' : 'kernel before 6.2',
      false,
      'UDP segments of senders on this host (USO) are cut here, and dropped in tunnels; frames in tunnels over UDP that must be cut are cut more slowly.',
    ),
    finding(
      'programs at egress hooks',
      tunnels === null,
      tunnels ?? 'can be loaded',
      false,
      'TCP in tunnels (VXLAN, GRE) between ports passes at a quarter of a bridge’s rate; full-size frames with two VLAN tags are lost on veths; allow CAP_BPF.',
    ),
  ]
}

/** What the kernel can forward by itself (docs/internals/fast-path.md). */
async function fastPath(): Promise<Finding[]> {
  const { fastPathTrouble } = await import('../../switch/datapath/kernel/programs.js')
  const trouble = fastPathTrouble()
  const cost = 'every frame goes through the daemon, also with `fastPath: auto`.'
  const where = kernelIsAtLeast(6, 6) ? '' : '; at ports of a bridge that is taken over not before kernel 6.6'
  return [finding('fast path', trouble === null, trouble ?? `programs can be loaded${where}`, false, cost)]
}

/** Not required: a host without machines of its own forwards without QEMU. */
async function qemu(): Promise<Finding[]> {
  const found = await probeQemu()
  if (found.version === null) return [fromProbe('QEMU', found, false)]
  return [
    finding('QEMU', true, found.version, false, ''),
    finding('QEMU background save', found.ok, found.ok ? '6.0 or later' : found.detail, false, found.cost ?? ''),
  ]
}

async function qemuImg(): Promise<Finding[]> {
  return [fromProbe('qemu-img', await probeQemuImg(), false)]
}

function userfaultfd(): Finding[] {
  return [fromProbe('userfaultfd', probeUserfaultfd(), false)]
}

async function kvm(): Promise<Finding[]> {
  return [fromProbe('KVM', await probeKvmRuns(), false)]
}

async function libvirt(): Promise<Finding[]> {
  const { libvirt, background, confinement } = await probeLibvirt()
  const found = [fromProbe('libvirt', libvirt, false)]
  if (background !== null) found.push(fromProbe('libvirt background save', background, false))
  if (confinement !== null) found.push(fromProbe('libvirt disk copies', confinement, false))
  return found
}

function fromProbe(what: string, found: ProbeFinding, required: boolean): Finding {
  return finding(what, found.ok, found.detail, required, found.cost ?? '')
}

/** Before 5.11 the kernel charges maps and programs to it, whoever makes them. Packet rings it never does. */
async function lockedMemory(): Promise<Finding[]> {
  const limits = (await readText('/proc/self/limits')) ?? ''
  const soft = /^Max locked memory\s+(\S+)/m.exec(limits)?.[1] ?? 'unknown'
  const enough = soft === 'unlimited' || Number(soft) >= 64 * 1024 * 1024
  const isFree = kernelIsAtLeast(5, 11)
  return [
    finding(
      'locked memory',
      enough || isFree,
      soft === 'unlimited' ? soft : `${soft} bytes${isFree ? ' (this kernel charges nothing of ours to it)' : ''}`,
      false,
      'maps of programs in the kernel may not fit (fast path, filters of rings); raise it (`ulimit -l`, LimitMEMLOCK=).',
    ),
  ]
}

/** Null when it can be opened for reading and writing; else why not. */
async function openable(path: string): Promise<string | null> {
  try {
    await access(path, constants.R_OK | constants.W_OK)
    await (await open(path, 'r+')).close()
    return null
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? String(error)
    return code === 'ENOENT' ? 'does not exist' : `cannot be opened (${code})`
  }
}

async function readText(path: string): Promise<string | null> {
  try {
    return (await readFile(path, 'utf8')).trim()
  } catch {
    return null
  }
}
